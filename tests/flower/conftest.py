"""The order of these tests: files that wait for deployments first, so that at the end no process is left with one."""

from __future__ import annotations

import pytest

LONGEST = ("test_kills", "test_guide", "test_tasks", "test_deployment", "test_stragglers", "test_own_options")
"""By their seconds, of which most are spent in waiting; then come the other files with slow tests."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the items, those of one file together; other folders' stay as they are, behind these."""
    slow = {item.path for item in items if item.get_closest_marker("slow") and item.path.parent.name == "flower"}

    def place(item: pytest.Item) -> tuple[int, str]:
        if item.path in slow:
            stem = item.path.stem
            return (LONGEST.index(stem) if stem in LONGEST else len(LONGEST)), stem
        return len(LONGEST) + 1, ""

    items.sort(key=place)
