"""Parameter groups: layers that train with another rate or weight decay, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fedlama.core.layers import Layers
from fedlama.core.validation import at_least, normalise_numbers, refuse
from fedlama.errors import did_you_mean, shown


@dataclass(frozen=True)
class ParameterGroup:
    """The parameters of some layers, and how their training differs. The first group that matches a parameter counts.

    Args:
        layers: A pattern of layer names or of parameter names, in which ``*`` stands for any text, such as
            ``"head.*"``.
        rate_factor: Multiplies the learning rate, 0 or more.
        weight_decay: Replaces the solver's weight decay; None keeps it.
        frozen: Whether these parameters are not trained. As with ``requires_grad = False``, they are part of no layer
            then, and are never sent: every client has them already.

    Raises:
        ConfigError: A value is out of range, or contradicts `frozen`.

    Example:
        >>> ParameterGroup("head.*", rate_factor=10).matches("head.weight", "head")
        True
    """

    layers: str
    rate_factor: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "rate_factor")
        if not isinstance(self.layers, str) or not self.layers:
            problems.append(f"ParameterGroup: layers is {shown(self.layers)}, expected a pattern; use one such as '*'")
        if self.weight_decay is not None:
            problems += at_least(self, 0, "weight_decay")
        if self.frozen and (self.rate_factor != 1.0 or self.weight_decay is not None):
            problems.append(
                f"ParameterGroup: the group {shown(self.layers)} is frozen, so it has no rate and no weight decay; "
                "remove rate_factor and weight_decay, or frozen"
            )
        refuse(problems)

    def matches(self, parameter: str, layer: str) -> bool:
        """Return whether a parameter belongs to the group.

        Args:
            parameter: The parameter's name.
            layer: Its layer's name.
        """
        return fnmatchcase(parameter, self.layers) or fnmatchcase(layer, self.layers)


def group_of(parameter: str, layer: str, groups: Iterable[ParameterGroup]) -> ParameterGroup | None:
    """Return the first group that a parameter belongs to.

    Args:
        parameter: The parameter's name.
        layer: Its layer's name.
        groups: All groups, in order.
    """
    return next((group for group in groups if group.matches(parameter, layer)), None)


def without_frozen(layers: Layers, groups: Sequence[ParameterGroup]) -> Layers:
    """Return a labelling without the parameters that groups freeze; layers without any tensor left are dropped.

    Args:
        layers: The labelling.
        groups: All groups, in order.
    """
    if not any(group.frozen for group in groups):
        return layers
    kept = []
    for layer in layers:
        chosen = {spec.name: group_of(spec.name, layer.name, groups) for spec in layer.tensors if spec.trainable}
        frozen = {name for name, group in chosen.items() if group is not None and group.frozen}
        left = tuple(spec for spec in layer.tensors if spec.name not in frozen)
        if left:
            adaptive = layer.adaptive and any(spec.trainable for spec in left)
            kept.append(replace(layer, tensors=left, adaptive=adaptive))
    return tuple(kept)


def frozen_names(full: Layers, layers: Layers) -> list[str]:
    """Return the parameters that :func:`without_frozen` left out.

    Args:
        full: The labelling that it was given.
        layers: The labelling that it returned.
    """
    trained = {spec.name for layer in layers for spec in layer.tensors}
    return [spec.name for layer in full for spec in layer.tensors if spec.name not in trained]


def group_problems(groups: Sequence[ParameterGroup], layers: Layers) -> list[str]:
    """Return the groups that have no parameter, one sentence each: a typing error would otherwise change nothing.

    Args:
        groups: All groups, in order.
        layers: The labelling.
    """
    pairs = [(spec.name, layer.name) for layer in layers for spec in layer.tensors if spec.trainable]
    used = [group_of(*pair, groups) for pair in pairs]
    problems = [
        f"solver.groups: {shown(group.layers)} matches no parameter that an earlier group leaves"
        f"{did_you_mean(group.layers, [name for name, _ in pairs])}"
        for group in groups
        if not any(group is other for other in used)
    ]
    if pairs and all(group is not None and group.frozen for group in used):
        problems.append("solver.groups: every parameter is frozen, so nothing would be trained; leave some out")
    return problems
