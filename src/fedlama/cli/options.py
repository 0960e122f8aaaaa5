"""Options that several commands share: their types and help texts, the checks of their values, and the output.

The modules of the commands import at their top what ``--help`` needs. What reads, trains or draws is imported in the
commands themselves, since PyTorch alone takes longer to import than most of them run; a test lists what is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedlama.analysis.links import PROFILES
from fedlama.core.measures import Measure
from fedlama.core.paths import expanded
from fedlama.errors import ConfigError, printable
from fedlama.experiment.options import ROOMS, names


def expand_home(given: Any) -> Any:  # noqa: ANN401  (a path, a list of paths, or None, as the option's type says)
    """Return paths with the home folder in place of a leading ``~``, which no shell replaces in ``--out=~/runs``."""
    if isinstance(given, list | tuple):
        return [expand_home(path) for path in given]
    return expanded(given) if isinstance(given, Path) else given


Name = Annotated[
    str,
    typer.Argument(
        metavar="[EXPERIMENT]",
        help=f"A TOML file, the config.json of a run, or one of: {', '.join(names())}.",
        show_default=True,
        autocompletion=names,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings to change, such as seed=1, strategy.increase_factor=2 or model=resnet20.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=expand_home,
        help="The config.json of a run, or a TOML file: in place of EXPERIMENT, with KEY=VALUE behind it.",
    ),
]
SECTIONS = (
    f"Sections of an experiment: {', '.join(ROOMS)}. KEY is section.setting, or a setting outside of the sections; "
    "`fedlama list` shows all names, with a SECTION behind it the settings of its options, and `fedlama config` every "
    "value in force."
)
"""What ``--help`` says at its end for commands that take an experiment."""
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
LinkOption = Annotated[
    list[str] | None,
    typer.Option(
        "--link",
        help=f"A link: {', '.join(PROFILES)}, or '4g,up=5Mbit/s,compute=80ms'. Can be repeated.",
        autocompletion=lambda: list(PROFILES),
    ),
]
LinksFile = Annotated[
    Path | None, typer.Option("--links", callback=expand_home, help="A TOML file with one table per link.")
]
Price = Annotated[float | None, typer.Option("--price", help="Price of a GB (10^9 bytes), in any currency.")]
Target = Annotated[
    float | None,
    typer.Option(
        "--target", help="Report when this test accuracy (percent), or value of another primary metric, is reached."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of what links draw for each client.")]

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file (or module) to run, whose registered options can then be named. Can be repeated.",
    ),
]


def named(name: str, overrides: list[str] | None, config: Path | None = None) -> tuple[str, list[str]]:
    """Return an experiment's name and its overrides: `fedlama compare seed=1` changes the default experiment.

    Args:
        name: The first argument.
        overrides: The others.
        config: A file in place of the name; then all arguments are overrides.

    >>> named("seed=1", ["rounds=2"])
    ('digits', ['seed=1', 'rounds=2'])
    """
    given = list(overrides or [])
    if config is not None and name != "digits" and "=" not in name:
        raise ConfigError(
            f"the experiment is given as {name!r} and with --config {printable(config)}; leave one of them out"
        )
    if "=" in name:
        return str(config or "digits"), [name, *given]
    return str(config or name), given


def check_target(given: float | None, measure: Measure | None) -> float | None:
    """Return a target in the unit of the metric: an accuracy as a share of 1.

    Args:
        given: The value of `--target`; None when it was not given.
        measure: The primary metric; None when it is not known.

    Raises:
        ConfigError: It is not finite, or a percentage that is not above 0 and at most 100.
    """
    if given is None:
        return None
    if measure is not None and not measure.is_percent:
        if not math.isfinite(given):
            raise ConfigError(f"--target is {given}, expected a value of the metric {measure.name!r}; change it")
        return given
    if not 0 < given <= 100:
        raise ConfigError(f"--target is {given}, expected a percentage above 0 and at most 100; change it")
    return given / 100


def parse_seeds(text: str | None, first: int) -> tuple[int, ...]:
    """Read `--seeds`: how many seeds, counted from the experiment's own, or a list of them.

    Args:
        text: The option's value; None stands for the experiment's seed alone.
        first: The experiment's seed.

    Raises:
        ConfigError: Neither, or a seed is listed twice.

    >>> parse_seeds("3", 0), parse_seeds("7,1", 0), parse_seeds("4,", 0)
    ((0, 1, 2), (7, 1), (4,))
    """
    if text is None:
        return (first,)
    try:
        given = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        given = ()
    if "," not in text and given and 1 <= given[0] <= 10_000:
        return tuple(range(first, first + given[0]))
    if "," not in text or not given or len(set(given)) < len(given):
        raise ConfigError(f"--seeds is {text!r}, expected how many (5) or each seed once (0,1,2 or 7,); change it")
    return given


def check_price(price: float | None) -> float | None:
    """Return a price per GB of 10^9 bytes.

    Args:
        price: The value of `--price`; None when it was not given.

    Raises:
        ConfigError: It is negative or not finite.
    """
    if price is not None and not 0 <= price < math.inf:
        raise ConfigError(f"--price is {price}, expected a price per GB of 0 or more; change it")
    return price


def show(content: dict[str, Any], parts: Sequence[Table | str], as_json: bool, quiet: bool) -> None:
    """Print one JSON object, or tables and lines, or nothing.

    Args:
        content: The object.
        parts: The tables and lines.
        as_json: Print the object.
        quiet: Print neither.
    """
    if as_json:
        print(json.dumps(content))
    elif not quiet:
        console = Console(markup=False, emoji=False)  # names of folders may hold what looks like markup
        for part in parts:
            if isinstance(part, str):
                console.print(printable(part), highlight=False, soft_wrap=True)
            else:
                console.print(part, highlight=False)
