"""The one description of a federation: what decides a run, as plain JSON types.

It is written into ``config.json`` (as ``in_force``: what runs after a preset has changed some settings) and into every
checkpoint, shown in reports and by trackers, and compared whole when a run is resumed or verified. Every field of a
federation is in it, so a field added later cannot be forgotten. What is described shortly instead of by value:

===============  ====================================================================================================
key              description
===============  ====================================================================================================
`version`        version of this schema
`model`          class and number of parameters; the values are in the checkpoints
`clients`        class, number, and what the source says of itself (batch size, sizes, preparation, augmentation)
`layers`         for each layer its parameters, tensors, buffers and flags; its tag where it is not ``"shared"``
`test_set`       number of samples, batch size and preparation; `validation_set` likewise
`data`           in `clients` and `test_set`: shape, dtype and SHA-256 of inputs and targets, and of each client's row
                 numbers, so that replaced data are noticed; clients that only yield batches have none
`engine`         where it is computed; not compared, since a snapshot may be continued elsewhere, like `device`
`precision`      the engine's arithmetic; compared
===============  ====================================================================================================

A budget is described by its local steps, whatever it was given in, and `local_work` is left out where it is the
strategy's local steps for every client. `keep_client_models` is left out: it changes what a run reports and nothing
that it computes. So is `objective`, which is short for a task; descriptions before version 0.2 had it in place of the
task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from torch import nn

from fedlama.choices.tasks import Classification
from fedlama.core.description import describe, differences, import_path
from fedlama.core.layers import Layer, Layers
from fedlama.data.clients import ClientSource
from fedlama.engines import ENGINES
from fedlama.errors import ConfigError
from fedlama.federation.held_out import TestSet
from fedlama.federation.stored_description import OWNERS, Description, data_differences, modern

VERSION = 1
"""Version of the schema; descriptions without one were written before 0.2."""


_PLACE = ("engine", "device")
_GIVEN = ("model", "clients", "layers", "test_set", "seed", "local_steps", "evaluate_every", *_PLACE)
"""What an older description may leave out because the rest of ``config.json`` decides it."""
_CHOICES = ("strategy", "solver", "sampler", "availability", "codec", "server_optimizer", "aggregator")
_REQUIRED = (*_CHOICES, "weighting", "evaluate")


def describe_federation(parts: Mapping[str, Any]) -> Description:
    """Describe a federation.

    Args:
        parts: The fields of its settings by name, `layers` and `clients` as they run.

    Returns:
        The description.

    Raises:
        ConfigError: A choice holds something that cannot be described.
    """
    described: Description = {"version": VERSION}
    for name, value in parts.items():
        if name in ("keep_client_models", "objective"):
            continue
        described[name] = _SPECIAL[name](value) if name in _SPECIAL else describe(value, name)
        if name == "engine":
            described["precision"] = _precision(value)
    return described


def describe_defaults(parts: Mapping[str, Any], settings: Mapping[str, Field[Any]]) -> Description:
    """Describe what a federation's settings would be if a description did not mention them.

    A setting that a later version adds is not in older descriptions; they imply its default.

    Args:
        parts: As for :func:`describe_federation`.
        settings: The fields of the settings, by name.

    Returns:
        The description, with every choice's fields at their defaults; as it is now where there is no default, and for
        what the rest of ``config.json`` decides.
    """
    implied = describe_federation(parts)
    for name in [name for name in implied if name in settings and name not in _GIVEN]:
        value, field_given = parts[name], settings[name]
        if _has_default(field_given) and _default(field_given) is None:
            implied[name] = None
        elif is_dataclass(value) and not isinstance(value, type):
            implied[name] |= {field.name: describe(_default(field)) for field in fields(value) if _is_implied(field)}
        elif _has_default(field_given):
            implied[name] = describe(_default(field_given))
    return implied | {"precision": "float32"}


def differences_since(
    then: Mapping[str, Any], parts: Mapping[str, Any], settings: Mapping[str, Field[Any]]
) -> list[str]:
    """Word what decides a run and differs between a stored description and a federation.

    Args:
        then: The stored description, by this version or an older one.
        parts: As for :func:`describe_federation`.
        settings: As for :func:`describe_defaults`.

    Returns:
        One clause for each difference; empty if there is none.

    Raises:
        ConfigError: The description is too short to compare.
    """
    versioned, statistics, then = "version" in then, then.get("statistics_travel"), modern(then)
    then = {"task": {"name": Classification.name}, **then}  # before version 0.2 there was no other task
    missing = [key for key in _REQUIRED if key not in then]
    if missing:
        raise ConfigError(
            f"its description lacks {', '.join(missing)}, as checkpoints did before version 0.2; resume it through its "
            "run folder, whose config.json has them"
        )
    now = _with_tags(describe_federation(parts))
    filled = _with_tags(_fill(_with_tags(then), describe_defaults(parts, settings)))
    filled = filled if versioned else _with_classes(filled, now)
    changed = data_differences(filled, now, ("inputs", "targets"))
    changed += differences(_compared(filled), _compared(now))
    changed += data_differences(filled, now, ("rows",))  # often a consequence of a setting
    buffers = any(layer["buffers"] for layer in now["layers"].values())
    if statistics is not None and statistics is not buffers:  # before version 0.2, instead of each layer's buffers
        changed.append(f"statistics_travel was {statistics}, and is {buffers} now")
    return changed


def _compared(description: Description) -> Description:
    """Return what is compared key by key: neither where it is computed, nor the digests of data."""
    kept = {key: value for key, value in description.items() if key not in _PLACE}
    for part in OWNERS:
        if isinstance(inner := kept.get(part), Mapping):
            kept[part] = {key: value for key, value in inner.items() if key != "data"}
    return kept


def _with_tags(description: Mapping[str, Any]) -> Description:
    """Write out each layer's tag, which descriptions leave out where it is ``"shared"``."""
    layers = description.get("layers")
    if not isinstance(layers, Mapping):
        return dict(description)
    tagged = {n: {"tag": "shared", **layer} if isinstance(layer, Mapping) else layer for n, layer in layers.items()}
    return {**description, "layers": tagged}


def _fill(then: Any, implied: Any) -> Any:  # noqa: ANN401  (plain JSON types)
    """Add to a description what it implies; another choice than the implied one stays as it is."""
    if isinstance(then, Mapping) and isinstance(implied, Mapping) and then.get("name") == implied.get("name"):
        return {**implied, **{key: _fill(value, implied.get(key)) for key, value in then.items()}}
    if isinstance(then, list) and isinstance(implied, list) and len(then) == len(implied):
        return [_fill(*pair) for pair in zip(then, implied, strict=True)]
    return then


def _with_classes(then: Any, now: Any) -> Any:  # noqa: ANN401  (plain JSON types)
    """Add the classes of objects inside a choice, which were not written before version 0.2."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        added = {"class": now["class"]} if "class" in now and "class" not in then else {}
        return {**added, **{key: _with_classes(value, now.get(key)) for key, value in then.items()}}
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [_with_classes(*pair) for pair in zip(then, now, strict=True)]
    return then


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _is_implied(field: Field[Any]) -> bool:
    """Return whether a description that lacks a choice's field implies its default; fields left out are never there."""
    return field.init and _has_default(field) and "left_out_at_default" not in field.metadata


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _model(model: nn.Module) -> Description:
    return {"class": import_path(type(model)), "parameters": sum(value.numel() for value in model.parameters())}


def _clients(clients: ClientSource) -> Description:
    describe = getattr(type(clients), "__describe__", None)
    described = {} if describe is None else describe(clients)
    return {"class": import_path(type(clients)), "count": len(clients), **described}


def _layers(layers: Layers) -> Description:
    return {layer.name: dict(_layer(layer)) for layer in layers}


def _layer(layer: Layer) -> Iterator[tuple[str, object]]:
    yield "parameters", layer.parameters
    for field in fields(layer):
        if field.name not in ("name", "tensors") and (field.name, getattr(layer, field.name)) != ("tag", "shared"):
            yield field.name, describe(getattr(layer, field.name))
    yield "tensors", [spec.name for spec in layer.tensors if spec.trainable]
    yield "buffers", [spec.name for spec in layer.tensors if not spec.trainable]


def _test_set(test_set: TestSet | None) -> Description | None:
    if test_set is None:
        return None
    prepare = describe(test_set.prepare, "test_set.prepare")
    return {
        "samples": len(test_set),
        "batch_size": test_set.batch_size,
        "prepare": prepare,
        "data": test_set.data_digests,
    }


def _engine(engine: Any) -> object:  # noqa: ANN401  (a name, or what makes an engine)
    factory = ENGINES.get(engine, engine) if isinstance(engine, str) else engine
    if isinstance(factory, str):
        return factory
    kind = factory if isinstance(factory, type) else type(factory)
    name = getattr(kind, "name", None)
    named = {"name": name} if isinstance(name, str) else {"class": import_path(kind)}
    options = fields(factory) if is_dataclass(factory) and not isinstance(factory, type) else ()
    return named | {field.name: _leniently(getattr(factory, field.name)) for field in options}


def _leniently(value: object) -> object:
    """Describe an engine's option; what cannot be, such as a connection, by its class."""
    try:
        return describe(value)
    except ConfigError:
        return import_path(type(value))


_SPECIAL: dict[str, Callable[[Any], object]] = {
    "model": _model,
    "clients": _clients,
    "layers": _layers,
    "test_set": _test_set,
    "validation_set": _test_set,
    "engine": _engine,
}


def _precision(engine: Any) -> str:  # noqa: ANN401  (a name, or what makes an engine)
    """Return the arithmetic of an engine's options, or of those inside them."""
    inner = getattr(engine, "engine", None)
    return str(getattr(engine, "precision", None) or ("float32" if inner is None else _precision(inner)))
