"""Methods as the command line writes them, such as ``fedlama,increase_factor=2``: parsed, and written back.

A method is a strategy's name with settings behind commas. A setting may also choose another option of a section, such
as ``codec=differences``, and settings behind it are that option's, where it has them: in
``fedlama,codec=differences,bits=4,increase_factor=2`` the bits belong to the codec and the factor to the strategy. With
its section in front (``codec.bits=4``) a setting is never mistaken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from fedlama.core.deprecations import ignore_renamed, modern_choice, modern_section, renamed_keys
from fedlama.errors import ConfigError, shown
from fedlama.experiment.catalogue import Catalogue
from fedlama.experiment.files import catalogue_for, read
from fedlama.experiment.options import name_of, options, plain, settings_of
from fedlama.experiment.resolution import resolve
from fedlama.experiment.toml import inline
from fedlama.experiment.variants import SECTIONS_OF_METHODS, Method, Variant, changed_settings, variant_of

_OPENING, _CLOSING = "{[(", "}])"


def parse_methods(
    texts: Iterable[str], experiment: str, overrides: Sequence[str], plugins: Sequence[str] = ()
) -> list[Method]:
    """Read methods, each as a change of an experiment's strategy, and of other sections that it names.

    Args:
        texts: Each holds one or several methods with spaces between them: a strategy's name, and settings behind
            commas. The name may be one of the user's own, such as ``my_strategy.py:Mine``. What is not set stays as the
            experiment has it, where the strategy has such a setting.
        experiment: The experiment, as :func:`fedlama.experiment.load_experiment` takes it.
        overrides: Its overrides.
        plugins: As for :func:`fedlama.experiment.load_experiment`.

    Returns:
        The methods, in their order: a strategy, or a variant where it changes other sections too.

    Raises:
        ConfigError: Unknown names or settings; all problems at once.

    >>> parse_methods(["fedavg fedlama,increase_factor=2"], "digits", [])[1].increase_factor
    2
    """
    catalogue = catalogue_for(experiment, plugins)
    problems: list[str] = []
    methods: list[Method] = []
    for text in [method for several in texts for method in split(several, " ")]:
        name, *settings = split(text, ",")
        name = _unquoted(name)
        try:
            chosen = [("strategy", name)]
            changes = [f"strategy.name={json.dumps(name)}"]
            changes += [_change(setting, chosen, catalogue) for setting in settings]
            kept = _kept(overrides, dict(chosen), catalogue)
            resolved = resolve(read(experiment, [*kept, *changes], catalogue), catalogue)
            others = {section: getattr(resolved, section) for section in dict(chosen) if section != "strategy"}
            methods.append(Variant(resolved.strategy, others) if others else resolved.strategy)
        except ConfigError as error:
            unknown = f"strategy.name is {shown(name)}; "  # what follows says which names are known
            problems += [
                f"method {shown(name)} is not known; {problem.removeprefix(unknown)}"
                if problem.startswith(unknown)
                else f"method {shown(text)}: {problem}"
                for problem in error.problems
            ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if not methods:
        raise ConfigError(f"--methods is empty; write one or several of: {', '.join(sorted(options('strategy')))}")
    return methods


def written(method: Method) -> str:
    """Write a method so that :func:`parse_methods` reads it back.

    >>> from fedlama import Differences, FedLAMA
    >>> written(FedLAMA(6, 4))
    'fedlama,base_interval=6,increase_factor=4'
    >>> written(Variant(FedLAMA(6, 4), {"codec": Differences(2)}))
    'fedlama,base_interval=6,increase_factor=4,codec=differences,codec.bits=2'
    """
    variant = variant_of(method)
    name = name_of(variant.strategy)
    parts = [
        _quoted(name),
        *(f"{key}={_toml(plain(value))}" for key, value in changed_settings(variant.strategy).items()),
    ]
    for section, choice in variant.choices.items():
        parts.append(f"{section}={_quoted(name_of(choice))}")
        parts += [f"{section}.{key}={_toml(plain(value))}" for key, value in changed_settings(choice).items()]
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


def _change(setting: str, chosen: list[tuple[str, str]], catalogue: Catalogue) -> str:
    """Return a setting of a method as an override, and note the option that it chooses.

    Args:
        setting: Such as ``codec=differences``, ``codec.bits=4`` or ``bits=4``.
        chosen: The sections and options that the method has chosen so far; one is added where the setting chooses one.
        catalogue: The options.
    """
    key, _, value = setting.partition("=")
    key = key.strip().replace("-", "_")
    section, dot, rest = key.partition(".")
    section = modern_section(section)
    if section in SECTIONS_OF_METHODS and rest in ("", "name"):
        name = str(modern_choice(section, _unquoted(value.strip())))
        catalogue.find(section, name)
        chosen.append((section, name))
        return f"{section}.name={json.dumps(name)}"
    if dot and (section == "strategy" or section in dict(chosen)):
        return f"{section}.{setting.partition('.')[2]}"
    if dot and section in SECTIONS_OF_METHODS:
        raise ConfigError(f"{section}.{rest} is set, but no {section} before it; write {section}=NAME in front of it")
    owners = [owner for owner, name in reversed(chosen) if key in _known(owner, name, catalogue)]
    return f"{owners[0] if owners else 'strategy'}.{setting}"


def _quoted(name: str) -> str:
    return json.dumps(name) if set(name) & set(" ,") else name


def _unquoted(name: str) -> str:
    """Return a name without the quotes that a path with spaces needs."""
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'" else name


def _kept(overrides: Sequence[str], chosen: Mapping[str, str], catalogue: Catalogue) -> list[str]:
    """Leave out overrides of the strategy, and of other sections that a method changes, which its options do not have.

    Args:
        overrides: The overrides.
        chosen: Section that the method changes to the name of its option.
        catalogue: The options.
    """
    known = {section: _known(section, name, catalogue) for section, name in chosen.items()}
    kept = []
    for override in overrides:
        section, _, key = override.partition("=")[0].strip().replace("-", "_").partition(".")
        section = modern_section(section, ignore_renamed)
        if section not in known or key.partition(".")[0] in known[section]:
            kept.append(override)
    return kept


def _known(section: str, name: str, catalogue: Catalogue) -> set[str]:
    """Return the settings of an option, and old words for them."""
    return {*settings_of(catalogue.find(section, name)), *renamed_keys(section, name)}


def _toml(value: object) -> str:
    """Write a value as an override takes it: text outside of tables and lists needs no quotes."""
    return value if isinstance(value, str) else inline(value, compact=True)
