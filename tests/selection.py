"""Which parameters of a test are run by `make test`: a selection in which every value occurs. `make thorough` runs all.

A test that compares all engines with all strategies, solvers or codecs has dozens of combinations. A mistake in one
value of a parameter shows in every combination with this value, so a selection catches it, in a part of the time; what
only one combination shows is caught by `make thorough`, which runs every week and before a release.

``@pytest.mark.selection`` keeps combinations in which every value of every parameter occurs, and
``@pytest.mark.selection(together=2)`` those in which every two values of different parameters meet. The other
combinations get the mark ``thorough``.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import pytest

Row = Mapping[str, Hashable]
"""The value of every parameter, by its name."""


def covering(rows: Sequence[Row], together: int = 1) -> set[int]:
    """Choose rows in which all values occur, or all groups of values that meet in some row.

    Rows are taken one after the other: always the first of those with the most that is missing, and among these one
    whose values were taken least often, so that all values occur about equally often.

    Args:
        rows: All combinations; they need not be the whole product.
        together: The size of the groups; rows with fewer parameters are all taken.

    Returns:
        The positions of the chosen rows.
    """
    groups = [set(itertools.combinations(sorted(row.items(), key=_name), min(together, len(row)))) for row in rows]
    missing, chosen, taken = set().union(*groups), set[int](), Counter[tuple[str, Hashable]]()

    def gain(index: int) -> tuple[int, int]:
        return len(groups[index] & missing), -sum(taken[item] for item in rows[index].items())

    while missing:
        best = max(range(len(rows)), key=gain)
        chosen.add(best)
        missing -= groups[best]
        taken.update(rows[best].items())
    return chosen


def _name(item: tuple[str, Hashable]) -> str:
    return item[0]


def mark_the_rest(items: Sequence[pytest.Item]) -> None:
    """Give the mark ``thorough`` to the combinations that a selection leaves out.

    Args:
        items: What pytest has collected. A combination that is asked for alone is its own selection, so it is run.
    """
    tests: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("selection"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for functions in tests.values():
        mark = functions[0].get_closest_marker("selection")
        # One value is the same object in all combinations.
        rows = [{name: id(value) for name, value in function.callspec.params.items()} for function in functions]
        chosen = covering(rows, **(mark.kwargs if mark else {}))
        for index, function in enumerate(functions):
            if index not in chosen:
                function.add_marker("thorough")
