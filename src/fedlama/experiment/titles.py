"""The title of a method and its settings as plain types: for tables, charts and run folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fedlama.choices.strategies import Strategy
from fedlama.experiment.options import name_of, options, plain
from fedlama.experiment.variants import Method, Variant, changed_settings, variant_of

if TYPE_CHECKING:
    from fedlama.choices.codecs import Codec

_PLAIN_CODEC, _PLAIN_OPTIMIZER = "float32", "replace"
"""What titles do not mention; their rooms need PyTorch and are imported for other names only."""


def title(method: Method) -> str:
    """Return a method with its intervals and with the switches that differ from their defaults.

    >>> from fedlama import Differences, FedLAMA
    >>> title(FedLAMA(6, 4)), title(FedLAMA(6, 4, cutoff="printed"))
    ('FedLAMA(6, 4)', 'FedLAMA(6, 4, printed)')
    >>> title(Variant(FedLAMA(6, 4), {"codec": Differences(bits=2)}))
    'FedLAMA(6, 4) + differences(bits=2)'
    """
    variant = variant_of(method)
    strategy = variant.strategy
    values = {field.name: getattr(strategy, field.name) for field in fields(strategy)}
    defaults = {field.name: field.default for field in fields(strategy)}
    changed = [(key, value) for key, value in values.items() if value is True or value != defaults[key]]
    return " + ".join([_heading(type(strategy).__name__, changed), *map(_short, variant.choices.values())])


def _short(choice: Any) -> str:  # noqa: ANN401  (an option of any section)
    """Return the name of an option with its bits, if it has any, and the settings that differ from their defaults."""
    bits = getattr(choice, "bits", None)
    settings = ({} if bits is None else {"bits": bits}) | changed_settings(choice)
    changed = [f"{name}={_brief(value)}" for name, value in settings.items()]
    name = name_of(choice).rpartition(":")[2]
    return f"{name}({', '.join(changed)})" if changed else name


def _brief(value: object) -> str:
    """Return a setting for a title: of options inside of an option, only their names."""
    if isinstance(value, (list, tuple)):
        return "-".join(_brief(item) for item in value)
    return str(getattr(value, "name", plain(value)))


def variant_in_force(strategy: Strategy[Any], codec: Codec) -> Variant:
    """Return what a run's title names: its strategy, and its codec where that is not float32."""
    return Variant(strategy, {} if codec.name == _PLAIN_CODEC else {"codec": codec})


def hyperparameters(strategy: Strategy[Any]) -> dict[str, object]:
    """Return a strategy's settings as plain JSON types, without its name."""
    from fedlama.core.description import describe  # needs PyTorch, which titles do not

    described: dict[str, object] = describe(strategy, "strategy")
    return {key: value for key, value in described.items() if key not in ("name", "class", "code")}


def stored_title(config: Mapping[str, Any], summary: Mapping[str, Any], fallback: str) -> str:
    """Return the title of a run that was read back.

    Args:
        config: Its ``config.json``.
        summary: Its ``summary.json``, empty when it did not finish.
        fallback: The title when neither file names a strategy.
    """
    ran = config.get("in_force")  # all that is known of a federation that was built in Python
    settings = config.get("strategy", ran.get("strategy") if isinstance(ran, Mapping) else None)
    stored = settings if isinstance(settings, Mapping) else summary.get("hyperparameters")
    given = dict(stored) if isinstance(stored, Mapping) else {}
    name = str(given.pop("name", summary.get("method", "")))
    name, _ = str(given.pop("class", name)), given.pop("code", None)
    choice = options("strategy").get(name)
    if choice is None:  # a strategy of the user's own, whose code is not run to read its results
        heading = name.rpartition(":")[2]
        return _heading(heading, given.items()) if given and heading else heading or fallback
    try:
        return title(Variant(choice(**given), _stored_codec(config.get("codec"))))
    except (TypeError, ValueError):
        return name or fallback


def stored_server_optimizer(config: Mapping[str, Any]) -> str:
    """Return the server optimizer of a run that was read back, as a study's titles name it; empty for the default.

    Args:
        config: Its ``config.json``.
    """
    stored = config.get("server_optimizer")
    given = dict(stored) if isinstance(stored, Mapping) else {}
    name = str(given.pop("name", _PLAIN_OPTIMIZER))
    if name == _PLAIN_OPTIMIZER:
        return ""
    choice = options("server_optimizer").get(name)
    try:
        return name if choice is None else _short(choice(**given))
    except (TypeError, ValueError):
        return name


def _stored_codec(stored: object) -> dict[str, Any]:
    """Return the codec of a run that was read back; nothing for float32, and for one of the user's own."""
    given = dict(stored) if isinstance(stored, Mapping) else {}
    name = str(given.pop("name", _PLAIN_CODEC))
    choice = None if name == _PLAIN_CODEC else options("codec").get(name)
    return {} if choice is None else {"codec": choice(**given)}


def _heading(name: str, settings: Iterable[tuple[str, object]]) -> str:
    """Return a name with the numbers, words and switches among some settings."""
    settings = list(settings)
    values = [str(value) for _, value in settings if type(value) in (int, str)]
    flags = [key for key, value in settings if value is True]
    return f"{name}({', '.join([*values, *flags])})"
