"""The marker of tests that need Flower, and an order: files that wait for deployments first.

`make test` runs what needs no Flower, in the environment without it; `make flower` runs the rest by the marker.
"""

from __future__ import annotations

import inspect

import pytest

LONGEST = (
    "test_guide",
    "test_kills",
    "test_deployment",
    "test_kill_super_link",
    "test_simulation",
    "test_tasks",
    "test_own_options",
    "test_default_settings",
    "test_quickstart",
    "test_security",
    "test_stragglers",
)
"""By their seconds, of which most are spent in waiting; then come the other files with slow tests."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test if its file skips itself, or some of its tests, where Flower is missing."""
    module = item.getparent(pytest.Module)
    if module is not None and 'importorskip("flwr' in inspect.getsource(module.obj):
        item.add_marker(pytest.mark.flower)


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
