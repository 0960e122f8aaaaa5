"""Commands that show what can be set, and what is: `list` and `config`. They train nothing and write no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlama.cli.options import Json, Name, Overrides, Plugins, named, show
from fedlama.errors import ConfigError, did_you_mean, shown
from fedlama.experiment.options import ROOMS, about, names, options

if TYPE_CHECKING:
    from fedlama.experiment.listing import Setting

Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="[KIND]",
        help="experiments, settings, engines, or a section such as strategy or strategies.",
        autocompletion=lambda: ["experiments", "settings", "engines", *ROOMS],
    ),
]
Only = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only the option of this name.")]


def list_names(kind: Kind = None, name: Only = None, as_json: Json = False) -> None:
    """Show what an experiment can name: with KIND each option with its settings, their types and defaults."""
    if kind is None:
        show(_names(), _overview(), as_json, quiet=False)
        return
    if kind in ("experiment", "experiments"):
        chosen = _chosen(kind, name, names())
        show({"experiments": chosen}, [f"{each}: {about(each)}" for each in chosen], as_json, quiet=False)
        return
    from fedlama.experiment.listing import list_options, section_of, shared_option

    section = section_of(kind)
    listed = list_options(kind)
    if kind.lower().startswith("setting"):
        chosen = _chosen(kind, name, [setting.name for setting in listed[0].settings])
        listed = [listed[0].only(chosen)]
    else:
        chosen = _chosen(kind, name, [option.name for option in listed])
        listed = [option for option in listed if option.name in chosen]
    shared = shared_option(section) if section is not None else None
    every = [*listed, *([shared] if shared else [])]
    parts: list[Table | str] = []
    for option in every:
        default = " (the default)" if option.is_default else ""
        parts += ([f"{option.name}{default}: {option.meaning}"] if option.name else []) + _settings(option.settings)
    show({"kind": section or kind, "options": [option.to_json() for option in every]}, parts, as_json, quiet=False)


def config(
    experiment: Name = "digits", overrides: Overrides = None, plugin: Plugins = None, as_json: Json = False
) -> None:
    """Print every setting in force as TOML, ready to be saved: `fedlama config digits seed=1 > mine.toml`."""
    from fedlama.experiment import load_experiment
    from fedlama.experiment.toml import to_toml

    resolved = load_experiment(*named(experiment, overrides), plugin or ())
    content = resolved.to_json()
    sources = content.pop("sources", {})
    note = "# paths of your own files count from the folder of this file\n" if sources else ""
    show(content, [(note + to_toml(content)).rstrip("\n")], as_json, quiet=False)


def _chosen(kind: str, name: str | None, known: list[str]) -> list[str]:
    """Return the name that was asked for, or all names.

    Raises:
        ConfigError: There is no such name.
    """
    if name is None:
        return known
    if name not in known:
        raise ConfigError(f"{kind} {shown(name)} is not known{did_you_mean(name, known)}")
    return [name]


def _names() -> dict[str, object]:
    from fedlama.engines import ENGINES

    return {
        "experiments": names(),
        "engine": sorted(ENGINES),
        **{section: sorted(options(section)) for section in ROOMS},
    }


def _overview() -> list[Table | str]:
    table = Table(Column("kind", no_wrap=True), "names", box=SIMPLE_HEAD)
    for kind, known in _names().items():
        table.add_row(kind, ", ".join(map(str, known)) if isinstance(known, list) else "")
    return [
        table,
        "`fedlama list` with one of these kinds shows its settings; the kind settings has the keys outside of sections",
    ]


def _settings(settings: tuple[Setting, ...]) -> list[Table | str]:
    if not settings:
        return []
    table = Table(Column("setting", no_wrap=True), "type", "default", "meaning", box=SIMPLE_HEAD)
    for setting in settings:
        table.add_row(
            setting.name, setting.type, "(needed)" if setting.default is None else setting.default, setting.meaning
        )
    return [table]
