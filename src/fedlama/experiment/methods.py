"""Methods as the command line writes them, such as ``fedlama,increase_factor=2``: parsed, and written back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from fedlama.choices.strategies import Strategy
from fedlama.errors import ConfigError, did_you_mean, shown
from fedlama.experiment.catalogue import name_of
from fedlama.experiment.contracts import settings_of
from fedlama.experiment.files import catalogue_for, read
from fedlama.experiment.resolve import resolve
from fedlama.experiment.sections import options

_OPENING, _CLOSING = "{[(", "}])"


def parse_methods(
    texts: Iterable[str], experiment: str, overrides: Sequence[str], plugins: Sequence[str] = ()
) -> list[Strategy[Any]]:
    """Read methods, each as a change of an experiment's strategy.

    Args:
        texts: Each holds one or several methods with spaces between them: a strategy's name, and settings behind
            commas. The name may be one of the user's own, such as ``my_strategy.py:Mine``. What is not set stays as the
            experiment has it, where the strategy has such a setting.
        experiment: The experiment, as :func:`fedlama.experiment.load_experiment` takes it.
        overrides: Its overrides.
        plugins: As for :func:`fedlama.experiment.load_experiment`.

    Returns:
        The strategies, in their order.

    Raises:
        ConfigError: Unknown names or settings; all problems at once.

    >>> parse_methods(["fedavg fedlama,increase_factor=2"], "digits", [])[1].increase_factor
    2
    """
    catalogue = catalogue_for(experiment, plugins)
    problems: list[str] = []
    strategies: list[Strategy[Any]] = []
    for text in [method for several in texts for method in split(several, " ")]:
        name, *settings = split(text, ",")
        name = _unquoted(name)
        if ":" not in name and catalogue.known("strategy", name) is None:
            problems.append(f"method {shown(name)} is not known{did_you_mean(name, options('strategy'))}")
            continue
        try:
            known = settings_of(catalogue.find("strategy", name))
            changes = [f"strategy.name={json.dumps(name)}", *(f"strategy.{setting}" for setting in settings)]
            raw = read(experiment, [*_kept(overrides, known), *changes], catalogue)
            strategies.append(resolve(raw, catalogue).strategy)
        except ConfigError as error:
            problems += [f"method {shown(text)}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if not strategies:
        raise ConfigError(f"--methods is empty; write one or several of: {', '.join(sorted(options('strategy')))}")
    return strategies


def written(strategy: Strategy[Any]) -> str:
    """Write a strategy so that :func:`parse_methods` reads it back.

    >>> from fedlama import FedLAMA
    >>> written(FedLAMA(6, 4))
    'fedlama,base_interval=6,increase_factor=4'
    """
    name = name_of(strategy)
    parts = [json.dumps(name) if set(name) & set(" ,") else name]
    for field in fields(strategy):
        value = getattr(strategy, field.name)
        if field.default is MISSING or value != field.default:
            parts.append(f"{field.name}={_toml(value)}")
    return ",".join(parts)


def split(text: str, separator: str) -> list[str]:
    """Split at a separator outside quotes and brackets; empty parts are dropped.

    >>> split('fixed,intervals={"a, b" = 2, c = 3}', ",")
    ['fixed', 'intervals={"a, b" = 2, c = 3}']
    """
    parts, depth, quote, start = [], 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _OPENING + _CLOSING:
            depth += 1 if letter in _OPENING else -1
        elif letter == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _unquoted(name: str) -> str:
    """Return a name without the quotes that a path with spaces needs."""
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'" else name


def _kept(overrides: Sequence[str], known: Sequence[str]) -> list[str]:
    """Leave out overrides of the strategy that another method does not have.

    Args:
        overrides: The overrides.
        known: The settings of the method.
    """
    kept = []
    for override in overrides:
        section, _, key = override.partition("=")[0].strip().replace("-", "_").partition(".")
        if section != "strategy" or key.partition(".")[0] in known:
            kept.append(override)
    return kept


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}={_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_toml, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)
