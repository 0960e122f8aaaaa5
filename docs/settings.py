"""Hooks of MkDocs: the site's name has the version, and the pages of `reference/settings` are filled from the options.

A page has a line such as ``<!-- settings: strategy -->``. In its place comes what `fedlama list strategies` shows: each
option under its name in TOML with every setting, type, default and meaning, so that no page can go stale.
"""

from __future__ import annotations

import re
from typing import Any

import fedlama
from fedlama.experiment.listing import Option, list_options, section_of, shared_option
from fedlama.experiment.options import options

_MARK = re.compile(r"^<!-- settings: (\w+) -->$", re.MULTILINE)


def on_config(config: Any) -> Any:  # noqa: ANN401  (MkDocs has no types that mypy reads)
    """Return the site's configuration with the version behind its name."""
    config.site_name = f"{config.site_name} {fedlama.__version__}"
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401  (what MkDocs hands over)
    """Return a page with the options in place of its mark."""
    return _MARK.sub(lambda mark: described(mark[1]), markdown)


def described(kind: str) -> str:
    """Return the options of a section, the engines or the keys outside of the sections as Markdown.

    Args:
        kind: As for ``fedlama list``.
    """
    section = section_of(kind)
    if kind == "settings":
        return _keys(list_options(kind)[0])
    listed = sorted(list_options(kind), key=lambda option: not option.is_default)
    shared = shared_option(section) if section is not None else None
    parts = [_overview(listed)] if len(listed) > 1 else []
    parts += [_entry(option, section) for option in listed]
    if shared is not None:
        parts.append("\n\n".join([f"## With every name\n\n{shared.meaning}", _table(shared)]))
    return "\n\n".join(parts)


def _overview(listed: list[Option]) -> str:
    rows = [f"| [`{option.name}`](#{option.name}){_default(option)} | {_cell(option.meaning)} |" for option in listed]
    return "\n".join(["| name | what it does |", "|---|---|", *rows])


def _entry(option: Option, section: str | None) -> str:
    """Return an option: its name, what it does, its settings, and where its Python class is described."""
    parts = [f"## `{option.name}`{_default(option)} {{ #{option.name} }}", option.meaning]
    if section is not None:
        parts += [_table(option) if option.settings else "It has no settings.", _python(section, option.name)]
    return "\n\n".join(parts)


def _keys(option: Option) -> str:
    """Return the keys outside of the sections; those of a table inside of them have a heading of their own."""
    tables = {setting.name.partition(".")[0]: None for setting in option.settings if "." in setting.name}
    plain = [setting.name for setting in option.settings if setting.name.partition(".")[0] not in tables]
    parts = [_table(option.only(plain))]
    for table in tables:
        (outer,) = option.only([table]).settings
        inner = [setting.name for setting in option.settings if setting.name.startswith(f"{table}.")]
        parts += [f"## `{table}` {{ #{table} }}", outer.meaning, _table(option.only(inner))]
    return "\n\n".join(parts)


def _table(option: Option) -> str:
    rows = []
    for setting in option.settings:
        default = "needed" if setting.default is None else f"`{setting.default}`"
        rows.append(f"| `{setting.name}` | {_cell(setting.meaning)} | {_cell(setting.type)} | {default} |")
    return "\n".join(["| setting | meaning | type | default |", "|---|---|---|---|", *rows])


def _python(section: str, name: str) -> str:
    """Return a link to the class of an option."""
    choice = options(section)[name]
    public = choice.__name__ in fedlama.__all__
    shown = f"fedlama.{choice.__name__}" if public else f"{choice.__module__}.{choice.__name__}"
    return f"In Python: [`{shown}`][{choice.__module__}.{choice.__name__}]."


def _default(option: Option) -> str:
    return " (the default)" if option.is_default else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
