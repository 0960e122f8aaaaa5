"""Layers: the named groups of parameters and buffers that are synchronised together.

A labelling is made once from the model; strategies, codecs, the message format and the ledger use its names.
Parameters with ``requires_grad=False`` never change and are never sent; every client is assumed to have them already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.errors import ConfigError, did_you_mean

if TYPE_CHECKING:  # a run folder's layers are read without PyTorch
    import torch
    from torch import Tensor, nn

StatisticsRule = Literal["average", "local"]
"""Whether buffers such as BatchNorm's running statistics are averaged with their layer, or stay on each client."""

Tag = Literal["shared", "head", "local", "frozen"]
"""What becomes of a layer: ``"shared"`` and ``"head"`` (a model's output layers) are trained and sent, ``"local"`` is
trained and never leaves its client, ``"frozen"`` is neither trained nor sent."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of one tensor of a layer.

    Attributes:
        name: Its name in the model's state dict.
        shape: Its shape on one client.
        dtype: Its dtype.
        trainable: True for a parameter, False for a buffer.
        normalisation: True for a parameter of a normalisation module (BatchNorm, LayerNorm, ...).
        extra: True for what a solver exchanges beside the model, one tensor for each parameter.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    trainable: bool
    normalisation: bool = False
    extra: bool = field(default=False, metadata=LEFT_OUT_AT_DEFAULT)

    @property
    def size(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layer:
    """A unit of synchronisation.

    Attributes:
        name: The label.
        tensors: Its parameters, then its buffers, in the model's order.
        adaptive: Whether a strategy may give it an interval of its own. By default true when one of its parameters
            has more than one dimension (kernels), as in the authors' program; biases and normalisation parameters
            stay at the base interval.
        tag: Whether it is trained and sent; see :data:`Tag`. No strategy, codec, message or ledger sees a local layer.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    adaptive: bool
    tag: Tag = "shared"

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, the paper's dim(u_l); of an extra layer, of the numbers that are sent."""
        return sum(tensor.size for tensor in self.tensors if tensor.trainable or tensor.extra)


Layers = tuple[Layer, ...]

_ROOT = "(root)"  # the layer of the tensors that the model owns directly; a submodule cannot have this name


def total_parameters(layers: Layers) -> int:
    """Return the number of trainable parameters of all layers together, the paper's lambda.

    Args:
        layers: The labelling.

    >>> from torch import nn
    >>> total_parameters(by_tensor(nn.Linear(4, 3)))
    15
    """
    return sum(layer.parameters for layer in layers)


def by_tensor(model: nn.Module, *, statistics: StatisticsRule = "average") -> Layers:
    """Make every parameter tensor a layer of its own, as the paper and its program do.

    A module's buffers belong to the layer of that module's first parameter; buffers of a module without parameters
    form a layer named after the module.

    Args:
        model: The model; it is not changed.
        statistics: ``"average"`` synchronises buffers with their layer; ``"local"`` leaves them on each client, as the
            authors' FedLAMA does with BatchNorm statistics.

    Returns:
        The layers, in the order of the model's parameters.

    >>> from torch import nn
    >>> [layer.name for layer in by_tensor(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    specs = _specs(model)
    labels = {spec.name: spec.name for spec in specs if spec.trainable}
    return _assemble(specs, labels, statistics, adaptive=None)


def by_module(model: nn.Module, *, statistics: StatisticsRule = "average") -> Layers:
    """Make every module that owns parameters directly a layer: weight, bias and buffers together.

    Parameters of the model itself, outside all submodules, form the layer ``(root)``.

    Args:
        model: The model; it is not changed.
        statistics: As in :func:`by_tensor`.

    Returns:
        The layers, in the order of the model's modules.

    >>> from torch import nn
    >>> [layer.name for layer in by_module(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))]
    ['0', '2']
    """
    specs = _specs(model)
    labels = {spec.name: spec.name.rpartition(".")[0] or _ROOT for spec in specs if spec.trainable}
    return _assemble(specs, labels, statistics, adaptive=None)


def by_mapping(
    model: nn.Module,
    mapping: Mapping[str, Iterable[str]] | Callable[[str], str],
    *,
    statistics: StatisticsRule = "average",
    adaptive: Iterable[str] | None = None,
) -> Layers:
    """Group the parameters by a table or a function.

    Args:
        model: The model; it is not changed.
        mapping: Layer name to the names of its parameters, or a function from a parameter's name to its layer's name.
        statistics: As in :func:`by_tensor`.
        adaptive: Names of the layers that may adapt; None applies the default of :class:`Layer`.

    Returns:
        The layers, in the order of their first parameters in the model.

    Raises:
        ConfigError: A parameter is in no layer or in two, or a name is unknown; all such problems at once.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> layers = by_mapping(model, lambda parameter: "biases" if parameter.endswith("bias") else "weights")
    >>> [(layer.name, layer.parameters, layer.adaptive) for layer in layers]
    [('weights', 18, True), ('biases', 5, False)]
    """
    specs = _specs(model)
    known = [spec.name for spec in specs if spec.trainable]
    labels = {name: mapping(name) for name in known} if callable(mapping) else _invert(mapping, known)
    if adaptive is not None:
        adaptive = set(adaptive)
        strangers = sorted(adaptive - set(labels.values()))
        if strangers:
            raise ConfigError(
                [f"adaptive names no layer: {name!r}{did_you_mean(name, labels.values())}" for name in strangers]
            )
    return _assemble(specs, labels, statistics, adaptive)


def tagged(
    layers: Layers, *, local: Iterable[str] = (), head: Iterable[str] = (), frozen: Iterable[str] = ()
) -> Layers:
    """Return a labelling in which some layers have another tag than ``"shared"``.

    Each client trains its own value of a local layer and keeps it, also while other cohorts train. A local output layer
    is FedPer (Arivazhagan et al., 2019), local batch normalisation is FedBN (Li et al., 2021).

    Args:
        layers: The labelling.
        local: Patterns of names of layers that never leave a client; ``*`` stands for any text.
        head: Patterns of the output layers, which are sent as others are.
        frozen: Patterns of layers that are not trained.

    Raises:
        ConfigError: A pattern matches no layer, a layer has two tags, or no layer is left that is sent.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [(layer.name, layer.tag) for layer in tagged(by_module(model), local=["2"])]
    [('0', 'shared'), ('2', 'local')]
    """
    names, problems = [layer.name for layer in layers], []
    tags: dict[str, Tag] = {}
    patterns: dict[Tag, Iterable[str]] = {"local": local, "head": head, "frozen": frozen}
    for tag, given in patterns.items():
        for pattern in given:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                problems.append(f"layers.{tag} names {pattern!r}, which matches no layer{did_you_mean(pattern, names)}")
            problems += [
                f"layer {name!r} is tagged {tags[name]!r} and {tag!r}, expected one tag; change a pattern"
                for name in matched
                if tags.get(name, tag) != tag
            ]
            tags |= dict.fromkeys(matched, tag)
    result = tuple(replace(layer, tag=tags.get(layer.name, layer.tag)) for layer in layers)
    if not problems and not sent_layers(result):
        problems.append("every layer is tagged 'local' or 'frozen', expected one that is sent; change a pattern")
    if problems:
        raise ConfigError(problems)
    return result


def sent_layers(layers: Layers) -> Layers:
    """Return the layers that are sent between server and clients."""
    return tuple(layer for layer in layers if layer.tag in ("shared", "head"))


def local_layers(layers: Layers) -> Layers:
    """Return the layers that never leave a client."""
    return tuple(layer for layer in layers if layer.tag == "local")


def without_frozen_tags(layers: Layers) -> Layers:
    """Return a labelling without the parameters of layers tagged ``"frozen"``; their buffers are still sent."""
    kept = []
    for layer in layers:
        buffers = tuple(spec for spec in layer.tensors if not spec.trainable)
        if layer.tag != "frozen":
            kept.append(layer)
        elif buffers:
            kept.append(replace(layer, tensors=buffers, adaptive=False, tag="shared"))
    return tuple(kept)


def layer_tensors(model: nn.Module, layers: Layers) -> dict[str, Tensor]:
    """Return the tensors of some layers of a model, by name.

    Args:
        model: The model.
        layers: Layers of its labelling.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {spec.name: tensors[spec.name] for layer in layers for spec in layer.tensors}


def named_layers(layers: Layers, names: Iterable[str]) -> Layers:
    """Return layers by their names, in the order of the labelling, whatever the order of the names.

    Args:
        layers: The labelling.
        names: The names of the layers to return.
    """
    wanted = frozenset(names)
    return tuple(layer for layer in layers if layer.name in wanted)


def local_buffers(model: nn.Module, layers: Layers) -> dict[str, Tensor]:
    """Return the buffers that are in no layer, by name: they never leave a client.

    These are non-persistent buffers, and all buffers under the statistics rule ``"local"``.

    Args:
        model: The model.
        layers: Its labelling.
    """
    sent = {spec.name for layer in layers for spec in layer.tensors}
    return {name: buffer for name, buffer in model.named_buffers() if name not in sent}


def check_layers(layers: Layers, model: nn.Module) -> None:
    """Refuse a labelling that does not hold every trainable parameter of the model exactly once, as it is there.

    Args:
        layers: The labelling.
        model: The model it is meant for.

    Raises:
        ConfigError: Parameters missed, doubled, unknown or of another shape or dtype, or two layers of one name.
    """
    claims = {layer.name: [spec.name for spec in layer.tensors if spec.trainable] for layer in layers}
    problems = [] if len(claims) == len(layers) else ["two layers have the same name; give each its own"]
    known = {spec.name: spec for spec in _specs(model)}
    try:
        _invert(claims, [spec.name for spec in known.values() if spec.trainable])
    except ConfigError as error:
        problems += error.problems
    for layer in layers:
        for spec in layer.tensors:
            there = known.get(spec.name, spec)
            if (there.shape, there.dtype) != (spec.shape, spec.dtype):
                problems.append(
                    f"layer {layer.name!r} has {spec.name!r} as {spec.dtype} {spec.shape}, but in the model it is "
                    f"{there.dtype} {there.shape}; make the layers of this model"
                )
    if problems:
        raise ConfigError(problems)


def _invert(mapping: Mapping[str, Iterable[str]], known: list[str]) -> dict[str, str]:
    """Return each parameter's layer; raise a ConfigError unless every known parameter is in exactly one."""
    labels: dict[str, str] = {}
    problems = []
    for layer, names in mapping.items():
        for name in [names] if isinstance(names, str) else names:
            if name not in known:
                problems.append(
                    f"layer {layer!r} names a parameter the model lacks: {name!r}{did_you_mean(name, known)}"
                )
            elif name in labels:
                problems.append(f"parameter {name!r} is in layer {labels[name]!r} and in {layer!r}; leave it in one")
            else:
                labels[name] = layer
    problems += [
        f"parameter {name!r} is in no layer; add it to one of: {', '.join(mapping)}"
        for name in known
        if name not in labels
    ]
    if problems:
        raise ConfigError(problems)
    return labels


def _specs(model: nn.Module) -> list[TensorSpec]:
    """Describe trainable parameters and persistent buffers in the order of the modules."""
    from torch.nn import GroupNorm, LayerNorm, LocalResponseNorm, RMSNorm
    from torch.nn.modules.batchnorm import _NormBase

    normalisation = (_NormBase, LayerNorm, GroupNorm, RMSNorm, LocalResponseNorm)
    persistent = set(model.state_dict(keep_vars=True))
    # A tied tensor has several names but is one object: only its first name counts, so that it is averaged once.
    specs, seen = [], set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for short, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                normal = isinstance(module, normalisation)
                specs.append(TensorSpec(dot + short, tuple(parameter.shape), parameter.dtype, True, normal))
        for short, buffer in module.named_buffers(recurse=False):
            if dot + short in persistent and id(buffer) not in seen:
                seen.add(id(buffer))
                specs.append(TensorSpec(dot + short, tuple(buffer.shape), buffer.dtype, False))
    if not any(spec.trainable for spec in specs):
        raise ConfigError(
            f"the model {type(model).__name__} has no trainable parameter, so there is nothing to federate; "
            "pass a model with at least one parameter that requires a gradient"
        )
    return specs


def _assemble(
    specs: Sequence[TensorSpec], labels: Mapping[str, str], statistics: StatisticsRule, adaptive: set[str] | None
) -> Layers:
    """Make layers of the labels (parameter to layer); buffers follow the first parameter of their module."""
    owner: dict[str, str] = {}  # module -> layer of its first parameter, to which its buffers belong
    groups: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        module = spec.name.rpartition(".")[0]
        if spec.trainable:
            owner.setdefault(module, labels[spec.name])
            groups.setdefault(labels[spec.name], []).append(spec)
    if statistics == "average":
        for spec in specs:
            module = spec.name.rpartition(".")[0]
            if not spec.trainable:
                groups.setdefault(owner.get(module, f"{module or _ROOT} (statistics)"), []).append(spec)
    return tuple(
        Layer(
            name,
            tuple(group),
            any(spec.trainable and len(spec.shape) > 1 for spec in group) if adaptive is None else name in adaptive,
        )
        for name, group in groups.items()
    )
