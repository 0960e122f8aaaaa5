"""From a file's plain keys to an experiment; every problem found is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fedlama.core.deprecations import SECTIONS as OLD_SECTIONS
from fedlama.core.deprecations import modernise
from fedlama.errors import ConfigError, FedlamaError, did_you_mean, shown
from fedlama.experiment.catalogue import Catalogue, OwnEngine
from fedlama.experiment.contracts import check_plain, settings_of, shared_keys
from fedlama.experiment.loading import described
from fedlama.experiment.options import origin_of, plain_choice
from fedlama.experiment.sections import SECTIONS, options
from fedlama.experiment.settings import Experiment, Settings
from fedlama.federation.budget import check_budget

Raw = Mapping[str, object]

_adapter: Callable[[type[Any]], TypeAdapter[Any]] = lru_cache(256)(TypeAdapter)  # type: ignore[assignment]  # classes are hashable
"""Returns what makes an instance of a dataclass of plain values; to prepare it takes milliseconds."""
_hints: Callable[[type[Any]], Mapping[str, Any]] = lru_cache(256)(get_type_hints)  # type: ignore[assignment]  # as above
"""Returns the types of a class's fields; to evaluate them takes most of the time of a resolution."""


def resolve(raw: Raw, catalogue: Catalogue | None = None) -> Experiment:
    """Build an experiment from plain keys and values.

    Args:
        raw: As read from TOML: settings, and one table per section. ``sources`` holds digests of options of the user's
            own, as :meth:`Experiment.to_json` writes them; they are compared with the code before it is used.
        catalogue: Where options of the user's own are found; by default paths count from the current folder.

    Returns:
        The experiment, with defaults filled in.

    Raises:
        ConfigError: With one sentence for each problem: unknown keys and names (with the nearest known), missing keys,
            wrong types, values out of range, code of the user's own that cannot be used or has changed.

    >>> resolve({"strategy": {"name": "fedlama", "base_interval": 0, "increase_factor": 0}})
    Traceback (most recent call last):
        ...
    fedlama.errors.ConfigError: FedLAMA: base_interval is 0, expected 1 or more; use a larger number
    FedLAMA: increase_factor is 0, expected 1 or more; use a larger number
    """
    raw = modernise(raw)
    problems: list[str] = []
    catalogue = _with_digests(catalogue or Catalogue(), raw.pop("sources", {}), problems)
    known = [field.name for field in fields(Settings)] + list(SECTIONS)
    problems += [f"unknown key {shown(key)}{_outer_hint(key, [*known, 'extends'])}" for key in raw if key not in known]
    outside = {key: value for key, value in raw.items() if key in known and key not in SECTIONS}
    settings = _Builder("", Settings, problems).build(outside)
    engine = _engine(outside.get("engine", Settings.engine), catalogue, problems)
    shared, tables = _without_shared(raw, catalogue, problems)
    choices = {section: _section(section, tables.get(section), catalogue, problems) for section in SECTIONS}
    if settings is not None and choices["strategy"] is not None:
        problems += check_budget(settings.budget, choices["strategy"])
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # one missing file can hold the options of several sections
    return Experiment(settings=settings, **choices, engine=engine, reduction=shared["data"])


def _with_digests(catalogue: Catalogue, given: object, problems: list[str]) -> Catalogue:
    if isinstance(given, Mapping) and all(isinstance(digest, str) for digest in given.values()):
        return replace(catalogue, digests=dict(given)) if given else catalogue
    problems.append(f"sources is {shown(given)}, expected a table of digests; remove it")
    return catalogue


def _engine(name: object, catalogue: Catalogue, problems: list[str]) -> OwnEngine | None:
    if not isinstance(name, str):
        return None  # reported with the other settings
    try:
        return catalogue.find_engine(name)
    except ConfigError as error:
        problems += error.problems
        return None


def _without_shared(raw: Raw, catalogue: Catalogue, problems: list[str]) -> tuple[dict[str, Any], dict[str, object]]:
    """Return the settings that go with every option of a section, by section, and the tables without them."""
    built, tables = {}, dict(raw)
    for name, section in SECTIONS.items():
        table = raw.get(name)
        if section.shared is None:
            continue
        given = table if isinstance(table, Mapping) else {}
        keys = shared_keys(name, catalogue.known(name, given.get("name", section.default.name)))
        values = {key: value for key, value in given.items() if key in keys}
        built[name] = _Builder(name, section.shared, problems).build(values)
        if values:
            tables[name] = {key: value for key, value in given.items() if key not in keys}
    return built, tables


def _section(section: str, given: object, catalogue: Catalogue, problems: list[str]) -> Any:  # noqa: ANN401
    """Build the option that a section chooses; None where it cannot be built."""
    default = SECTIONS[section].default
    if given is None:
        return default
    if not isinstance(given, Mapping):
        problems.append(f"{section} is {shown(given)}, expected a table; write [{section}] with name = '...' below")
        return None
    values = dict(given)
    name = values.pop("name", default.name)
    if not isinstance(name, str):
        problems.append(f"{section}.name is {shown(name)}{did_you_mean(str(name), options(section))}")
        return None
    try:
        choice = catalogue.find(section, name)
    except ConfigError as error:
        problems += error.problems
        return None
    built = _Builder(section, choice, problems).build(_needed(section, choice) | values)
    if built is not None and origin_of(built) is not None:
        problems += check_plain(section, built, plain_choice(built))
    return built


def _needed(section: str, choice: type[Any]) -> dict[str, object]:
    """Return what the class of the section's default needs, as the default has it: a section may give a part."""
    default = SECTIONS[section].default
    if choice is not type(default):
        return {}
    needed = [item for item in fields(choice) if item.default is MISSING and item.default_factory is MISSING]
    return {item.name: getattr(default, item.name) for item in needed if item.init}


@dataclass(frozen=True)
class _Builder:
    """Makes settings of plain values.

    Args:
        section: The section; empty for the keys outside any section.
        choice: The dataclass of the settings.
        problems: Where problems are added.
    """

    section: str
    choice: type[Any]
    problems: list[str]

    def build(self, values: Mapping[str, object]) -> Any:  # noqa: ANN401  (an instance of `choice`)
        """Return the settings, or None with problems added."""
        accepted = self._accepted(values)
        sound = len(accepted) == len(values)
        while True:
            try:
                built = _adapter(self.choice).validate_python(accepted)
            except ValidationError as error:
                details = error.errors()
                for detail in details:
                    if detail["type"] != "missing" or len(detail["loc"]) > 1 or detail["loc"][0] not in values:
                        self.problems.extend(self._sentences(detail))
                wrong = {detail["loc"][0] for detail in details if detail["loc"]} & accepted.keys()
                if not wrong:
                    return None
                # Once more without them: values out of range are only seen when every type is right.
                accepted = {key: value for key, value in accepted.items() if key not in wrong}
                sound = False
            except Exception as error:  # whatever the __post_init__ of a user's class raises
                self.problems.append(self._failure(error))
                return None
            else:
                return built if sound else None

    def _sentences(self, detail: Any) -> list[str]:  # noqa: ANN401  (pydantic's own record)
        """Word one of the problems that pydantic found."""
        cause = detail.get("ctx", {}).get("error")
        if detail["loc"] or not isinstance(cause, Exception) or isinstance(cause, FedlamaError):
            return _sentences(self._dotted, detail)
        return [self._failure(cause)]  # pydantic takes a ValueError or AssertionError of __post_init__ as its own

    def _failure(self, error: Exception) -> str:
        """Word what the `__post_init__` of a user's class raised."""
        return f"{self.section} {self.choice.__name__}: {described(error)}; correct the settings, or the class"

    @property
    def _dotted(self) -> str:
        return f"{self.section}." if self.section else ""

    def _accepted(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return the values whose keys are known and that are not refused beforehand."""
        hints = _hints(self.choice)
        known = settings_of(self.choice) if self.section else [field.name for field in fields(self.choice)]
        accepted = {}
        for key, value in values.items():
            if key not in known:
                self.problems.append(f"unknown key {shown(self._dotted + key)}{_hint(self.section, self.choice, key)}")
            elif problems := _value_problems(self._dotted + key, hints[key], value):
                self.problems.extend(problems)
            else:
                accepted[key] = value
        return accepted


def _hint(section: str, choice: type[Any], key: str) -> str:
    """Word what was meant: a key of another choice of the section, or the nearest key of this one."""
    nearest = did_you_mean(key, [*settings_of(choice), *shared_keys(section, choice)])
    if choice not in options(section).values() and nearest.startswith("; did you mean"):
        return nearest
    owners = [name for name, other in options(section).items() if key in settings_of(other)]
    if owners:
        others = " or ".join(repr(name) for name in owners)
        return f": {section} {choice.name!r} has no such key; it belongs to {section}.name = {others}"
    return nearest


def _outer_hint(key: str, known: list[str]) -> str:
    """Word what was meant: a key of some section, or the nearest key outside all sections."""
    sections = [
        section
        for section in SECTIONS
        if key in shared_keys(section, None) or any(key in settings_of(choice) for choice in options(section).values())
    ]
    if sections:
        return f"; did you mean {' or '.join(repr(f'{section}.{key}') for section in sections)}?"
    for old, new in OLD_SECTIONS.items():  # a misspelt old word
        if did_you_mean(key, [old]).startswith("; did you mean"):
            return f"; did you mean {new!r}?"
    return did_you_mean(key, known)


def _value_problems(where: str, hint: object, value: object) -> list[str]:
    """Report what pydantic would accept in a value: true for 1, integers without bounds, unknown keys of tables."""
    kind = _settings_class(hint)
    if kind is None or not isinstance(value, (Mapping, list)):
        strange = _strange(value, _takes_booleans(hint))
        return [f"{where} is {shown(value)}: {strange}; change it"] if strange else []
    if isinstance(value, list):
        return [
            problem for index, item in enumerate(value) for problem in _value_problems(f"{where}.{index}", kind, item)
        ]
    hints, known = _hints(kind), settings_of(kind)
    problems = [f"unknown key {shown(f'{where}.{key}')}{did_you_mean(key, known)}" for key in value if key not in known]
    for key in [key for key in value if key in known]:
        problems += _value_problems(f"{where}.{key}", hints[key], value[key])
    return problems


def _settings_class(hint: object) -> type[Any] | None:
    """Return the settings class that a type is, or has as its items; None where it has none."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    inner = [_settings_class(part) for part in get_args(hint)]
    return next((kind for kind in inner if kind is not None), None)


def _takes_booleans(hint: object) -> bool:
    """Return whether a type takes true and false."""
    return hint in (bool, Any, object) or any(_takes_booleans(part) for part in get_args(hint))


def _strange(value: object, booleans: bool) -> str:
    """Word what is wrong with a value that pydantic would accept: true for 1, and integers without bounds."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return next((reason for item in value if (reason := _strange(item, booleans))), "")
    if isinstance(value, bool) and not booleans:
        return "expected a number or a name, got a boolean"
    return "it does not fit into 64 bits" if isinstance(value, int) and not -(2**63) <= value < 2**63 else ""


def _sentences(dotted: str, detail: Any) -> list[str]:  # noqa: ANN401  (pydantic's own record)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return list(cause.problems)
    if isinstance(cause, FedlamaError):  # a file that a setting names
        return [str(cause)]
    where = dotted + ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return [f"{where} is missing; give it a value"]
    expected = detail["msg"][0].lower() + detail["msg"][1:]
    return [f"{where} is {shown(detail['input'])}: {expected}; change it"]
