"""The `[layers]` section of an experiment: which parameters form one layer, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, get_args

from torch import nn

from fedlama.core.adapters import AdapterMethod, HeadTag, lora_layers
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.layers import Layers, StatisticsRule, by_mapping, by_module, by_tensor, tagged
from fedlama.core.registry import register
from fedlama.core.validation import one_of, refuse
from fedlama.errors import ConfigError


class Labelling(Protocol):
    """Settings that can group a model's parameters into layers.

    Attributes:
        name: The labelling's name in configuration files.
    """

    name: ClassVar[str]

    def label(self, model: nn.Module) -> Layers:
        """Return the layers of a model.

        Args:
            model: The model; it is not changed.

        Raises:
            ConfigError: The settings do not fit the model.
        """


@register("layers")
@dataclass(frozen=True)
class ByTensor:
    """Every parameter tensor is a layer, as in the paper.

    Args:
        statistics: ``"average"`` synchronises buffers, such as BatchNorm's statistics, with their layer; ``"local"``
            leaves them on each client.
        local: Patterns of layers that never leave a client, such as ``"head.*"``; see
            :func:`fedlama.core.layers.tagged`.
        head: Patterns of the output layers.
        frozen: Patterns of layers that are not trained.

    Raises:
        ConfigError: The rule for the statistics is not known.

    Example:
        >>> [layer.name for layer in ByTensor().label(nn.Linear(4, 3))]
        ['weight', 'bias']
    """

    name: ClassVar[str] = "tensor"
    statistics: StatisticsRule = "average"
    local: tuple[str, ...] = field(default=(), metadata=LEFT_OUT_AT_DEFAULT, kw_only=True)
    head: tuple[str, ...] = field(default=(), metadata=LEFT_OUT_AT_DEFAULT, kw_only=True)
    frozen: tuple[str, ...] = field(default=(), metadata=LEFT_OUT_AT_DEFAULT, kw_only=True)

    def __post_init__(self) -> None:
        refuse(one_of(self, "statistics", ("average", "local")))

    def label(self, model: nn.Module) -> Layers:
        """Return the layers of a model; see :meth:`Labelling.label`."""
        return self._tagged(by_tensor(model, statistics=self.statistics))

    def _tagged(self, layers: Layers) -> Layers:
        return tagged(layers, local=self.local, head=self.head, frozen=self.frozen)


@register("layers")
@dataclass(frozen=True)
class ByModule(ByTensor):
    """Every module that owns parameters directly is a layer; see :func:`fedlama.core.layers.by_module`.

    Args:
        statistics: As for ``"tensor"``: ``"average"`` synchronises buffers with their layer, ``"local"`` does not.

    Example:
        >>> [layer.name for layer in ByModule().label(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))]
        ['0', '1']
    """

    name: ClassVar[str] = "module"

    def label(self, model: nn.Module) -> Layers:
        """Return the layers of a model; see :meth:`Labelling.label`."""
        return self._tagged(by_module(model, statistics=self.statistics))


@register("layers")
@dataclass(frozen=True)
class ByMapping(ByTensor):
    """Layers that the user lists; see :func:`fedlama.core.layers.by_mapping`.

    Args:
        statistics: As for ``"tensor"``: ``"average"`` synchronises buffers with their layer, ``"local"`` does not.
        groups: Layer name to the names of its parameters.
        adaptive: Layers that may adapt; None for those with a weight tensor.

    Raises:
        ConfigError: There are no groups.

    Example:
        >>> [layer.name for layer in ByMapping(groups={"all": ("weight", "bias")}).label(nn.Linear(4, 3))]
        ['all']
    """

    name: ClassVar[str] = "mapping"
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    adaptive: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.groups:
            raise ConfigError("layers.groups is missing; give each layer a name and the list of its parameters")

    def label(self, model: nn.Module) -> Layers:
        """Return the layers of a model; see :meth:`Labelling.label`."""
        layers = by_mapping(model, self.groups, statistics=self.statistics, adaptive=self.adaptive)
        return self._tagged(layers)


@register("layers")
@dataclass(frozen=True)
class ByAdapter:
    """Every LoRA matrix of every adapted module is a layer; see :func:`fedlama.core.adapters.lora_layers`.

    Args:
        method: ``"fedit"`` sends A and B, ``"ffa"`` freezes A, ``"fedsa"`` keeps B on its client.
        head: Tag of the modules that are trained whole: ``"head"`` (sent), ``"local"`` or ``"frozen"``.
        local: Patterns of further layers that never leave a client.
        frozen: Patterns of further layers that are not trained.
        statistics: As for ``"tensor"``: ``"average"`` synchronises buffers with their layer, ``"local"`` does not.

    Raises:
        ConfigError: A setting is not known.
    """

    name: ClassVar[str] = "lora"
    method: AdapterMethod = "fedit"
    head: HeadTag = "head"
    local: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    statistics: StatisticsRule = "average"

    def __post_init__(self) -> None:
        problems = one_of(self, "method", get_args(AdapterMethod)) + one_of(self, "head", get_args(HeadTag))
        refuse(problems + one_of(self, "statistics", ("average", "local")))

    def label(self, model: nn.Module) -> Layers:
        """Return the layers of a model; see :meth:`Labelling.label`."""
        layers = lora_layers(model, self.method, head=self.head, statistics=self.statistics)
        return tagged(layers, local=self.local, frozen=self.frozen)
