"""Tidy tables of a run: one row per evaluation, per layer and round, or per transfer of a layer, for any tool.

A table is a list of dicts with the same keys, so nothing is needed to read it; with pandas it becomes a frame.
"""

from __future__ import annotations

import csv
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from fedlama.errors import ConfigError, MissingExtraError, did_you_mean, shown

_SHOWN = 10


class Rows(list[dict[str, Any]]):
    """Rows with the same keys, in their order.

    >>> table = Rows([{"round": 0, "loss": 2.5}, {"round": 1, "loss": 2.25}])
    >>> table.columns, table.column("loss")
    (['round', 'loss'], [2.5, 2.25])
    """

    @property
    def columns(self) -> list[str]:
        """The keys."""
        return list(self[0]) if self else []

    def column(self, name: str) -> list[Any]:
        """Return one column.

        Args:
            name: Its key.

        Raises:
            ConfigError: There is no such column.
        """
        if name not in self.columns:
            raise ConfigError(f"there is no column {shown(name)}{did_you_mean(name, self.columns)}")
        return [row[name] for row in self]

    def to_pandas(self) -> Any:  # noqa: ANN401  (a pandas.DataFrame)
        """Return a ``pandas.DataFrame``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError as error:
            raise MissingExtraError("pandas", "pandas") from error
        return pandas.DataFrame(list(self), columns=self.columns)

    def to_csv(self, path: Path | str) -> Path:
        """Write a CSV file; what is None is an empty cell.

        Args:
            path: The file, which is replaced.

        Returns:
            The file.
        """
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self)
        return Path(path)

    def __repr__(self) -> str:
        """Return the size and the columns: the rows themselves may be thousands."""
        return f"Rows({len(self)} rows: {', '.join(self.columns)})"

    def _repr_html_(self) -> str:
        """Return the first rows, for notebooks."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row.values())}</tr>" for row in self[:_SHOWN]
        )
        more = f"<p>{len(self)} rows, the first {_SHOWN} are shown</p>" if len(self) > _SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
