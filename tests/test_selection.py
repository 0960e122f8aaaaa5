"""The selection of parameters that `make test` runs."""

from __future__ import annotations

import itertools

import pytest

from tests.selection import Row, covering

pytest_plugins = ["pytester"]

PRODUCT: list[Row] = [{"letter": letter, "digit": digit} for letter in "abc" for digit in range(2)]


def test_every_value_occurs_about_equally_often() -> None:
    chosen = [PRODUCT[index] for index in sorted(covering(PRODUCT))]
    assert [(row["letter"], row["digit"]) for row in chosen] == [("a", 0), ("b", 1), ("c", 0)]
    rows: list[Row] = [{"engine": engine, "solver": solver} for engine in range(5) for solver in range(17)]
    chosen = [rows[index] for index in covering(rows)]
    assert sorted(row["solver"] for row in chosen) == list(range(17))  # type: ignore[type-var]
    assert {sum(row["engine"] == engine for row in chosen) for engine in range(5)} == {3, 4}


def test_every_two_values_meet() -> None:
    rows: list[Row] = [dict(zip("abc", values, strict=True)) for values in itertools.product(range(3), repeat=3)]
    chosen = [rows[index] for index in covering(rows, together=2)]
    for first, second in itertools.combinations("abc", 2):
        assert {(row[first], row[second]) for row in chosen} == set(itertools.product(range(3), repeat=2))
    assert len(chosen) < len(rows) / 2


def test_a_part_of_a_product_is_covered_as_far_as_it_goes() -> None:
    rows: list[Row] = [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1}]
    assert covering(rows, together=2) == {0, 1, 2}
    assert covering(rows) == {0, 2}
    assert covering([{"a": 0}, {"a": 1}], together=2) == {0, 1}
    assert covering([{}]) == {0}


def test_pytest_leaves_the_rest_out(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest
        from tests.selection import mark_the_rest

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection_modifyitems(items):
            mark_the_rest(items)
    """)
    pytester.makeini("[pytest]\nmarkers = selection(together=1)\n thorough")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.selection
        @pytest.mark.parametrize("second", ["x", "y", "z"])
        @pytest.mark.parametrize("first", ["u", "v"])
        def test_product(first, second):
            print(first, second)

        @pytest.mark.parametrize("number", range(5))
        def test_others_are_whole(number):
            pass
    """)

    def run(*arguments: str) -> dict[str, int]:
        return pytester.runpytest_inprocess("-p", "no:xdist", *arguments).parseoutcomes()

    assert run("-m", "not thorough") == {"passed": 3 + 5, "deselected": 3}
    assert run() == {"passed": 6 + 5}
    assert run("-m", "not thorough", "test_pytest_leaves_the_rest_out.py::test_product[u-y]") == {"passed": 1}
