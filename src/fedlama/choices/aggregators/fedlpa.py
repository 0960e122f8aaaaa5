"""FedLPA: layers whose training clients finished are combined by a layer-wise posterior, in one round.

Liu, Liu, Ye, Shen, Li, Jiang and Li, "FedLPA: One-shot Federated Learning with Layer-Wise Posterior Aggregation",
NeurIPS 2024 (arXiv 2310.00339). After its training client k sends of every dense or convolutional layer
M_k = [W_k, b_k] and two Kronecker factors of the Fisher matrix, A_k of the inputs and B_k of the gradients by the
outputs (:mod:`fedlama.engines.factors`). With F(M) = sum_k p_k B_k M A_k and Z = sum_k p_k B_k M_k A_k (eq. 11) the
server looks for M with F(M) = Z, which minimises ||F(M) - Z||^2 (eq. 14):

=============  =======================================================================================================
``"ea"``       the start of appendix D, M_0 = (sum_k p_k B_k)^-1 Z (sum_k p_k A_k)^-1; it needs only sums over clients
``"authors"``  10,000 gradient steps of size 1 on the mean squared error from M_0, as the authors' program takes them,
               but computed at once (:mod:`fedlama.choices.aggregators.gradient_steps`). A step is divided by the
               numbers of the layer, so large layers hardly leave M_0
``"exact"``    conjugate gradients from M_0, with M_0's way as the preconditioner: F is symmetric and positive definite
=============  =======================================================================================================

Parameters of other modules are averaged. Damping is added to the diagonal of each factor, as in the program
(sqrt(1 - 0.999)); the paper has one lambda of 0.001 on the product.

Deviations: the program reports the better of two solutions on the test set, which is never done here. Its local loss of
several rounds is not available: the method is one round, after which FedAvg can go on (docs/how-to/one-shot.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.aggregators.base import Aggregator, Combined
from fedlama.choices.aggregators.gradient_steps import gradient_steps
from fedlama.core.averaging import average_rows
from fedlama.core.factors import factor_name, from_triangles
from fedlama.core.layers import Layer
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse, whole

Solve = Literal["exact", "ea", "authors"]


@register("aggregator")
@dataclass(frozen=True)
class FedLPA(Aggregator):
    """Combine dense and convolutional layers by their Kronecker factors, in a federation of one round.

    Args:
        solve: How the server solves for a layer; see the module's docstring.
        damping: Added to the diagonal of each factor, more than 0.
        steps: Gradient steps of ``"authors"``, and the most of ``"exact"``.

    Raises:
        ConfigError: A value is out of range.
    """

    name: ClassVar[str] = "fedlpa"
    solve: Solve = "exact"
    damping: float = 0.03162277660168379
    steps: int = 10_000

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = one_of(self, "solve", ("exact", "ea", "authors")) + at_least(self, 1e-12, "damping")
        refuse(problems + whole(self, "steps", minimum=1))

    @property
    def needs_factors(self) -> bool:
        """Whether clients send Kronecker factors, which `received` then holds too; they do."""
        return True

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Solve for the layer, or average one without factors; see :meth:`Aggregator.combine`."""
        device = next(iter(received.values())).device
        shares = torch.tensor(weights, dtype=torch.float64, device=device)
        averaged = Combined(*average_rows(layer, received, shares))
        if factor_name(layer.name, "inputs") not in received:
            return averaged
        specs = [spec for spec in layer.tensors if spec.trainable]
        parts = [received[spec.name].double().reshape(len(weights), spec.shape[0], -1) for spec in specs]
        sides = [from_triangles(received[factor_name(layer.name, side)].double()) for side in ("inputs", "outputs")]
        inputs, outputs = (side + self.damping * torch.eye(side.shape[1], device=device) for side in sides)
        solved = self.solution(torch.cat(parts, 2), inputs, outputs, shares)
        values, first = dict(averaged.values), 0
        for spec, part in zip(specs, parts, strict=True):
            values[spec.name] = solved[:, first : first + part.shape[2]].reshape(spec.shape).to(spec.dtype)
            first += part.shape[2]
        apart = sum(
            float(shares @ (part - values[spec.name].double().reshape(part.shape[1:])).square().sum((1, 2)))
            for spec, part in zip(specs, parts, strict=True)
        )
        return Combined(values, apart)

    def solution(self, models: Tensor, inputs: Tensor, outputs: Tensor, shares: Tensor) -> Tensor:
        """Return the layer's M.

        Args:
            models: M_k, float64 (clients, outputs, inputs).
            inputs: A_k with damping, float64 (clients, inputs, inputs).
            outputs: B_k with damping, float64 (clients, outputs, outputs).
            shares: p_k, float64 (clients,).

        Returns:
            M, (outputs, inputs).
        """

        def forward(model: Tensor) -> Tensor:
            summed: Tensor = torch.einsum("k,koi->oi", shares, outputs @ model @ inputs)
            return summed

        target = forward(models)
        left, right = (torch.einsum("k,kij->ij", shares, side) for side in (outputs, inputs))

        def estimate(value: Tensor) -> Tensor:
            solved: Tensor = torch.linalg.solve(right, torch.linalg.solve(left, value), left=False)
            return solved

        start = estimate(target)
        if self.solve == "ea" or len(models) == 1:
            return start
        if self.solve == "exact":
            return _conjugate_gradients(forward, estimate, target, start, self.steps)
        return gradient_steps(forward, target, start, self.steps, _largest_eigenvalue(inputs, outputs, shares))


def _largest_eigenvalue(inputs: Tensor, outputs: Tensor, shares: Tensor) -> float:
    """Return a bound of F's eigenvalues: of A and B positive definite, those of B M A are at most their product."""
    largest = [torch.linalg.eigvalsh(side)[:, -1] for side in (inputs, outputs)]  # (clients,) each
    return float((shares * largest[0] * largest[1]).sum())


def _conjugate_gradients(
    forward: Callable[[Tensor], Tensor],
    estimate: Callable[[Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    steps: int,
) -> Tensor:
    """Solve forward(x) = target by preconditioned conjugate gradients.

    Args:
        forward: A symmetric positive definite map.
        estimate: An approximate inverse of it, likewise.
        target: The right side.
        start: The first x.
        steps: The most steps.
    """
    value, rest = start, target - forward(start)
    direction = scaled = estimate(rest)
    length, enough = (rest * scaled).sum(), 1e-24 * target.square().sum()
    for _ in range(steps):
        if rest.square().sum() <= enough:
            break
        moved = forward(direction)
        size = length / (direction * moved).sum()
        value, rest = value + size * direction, rest - size * moved
        scaled = estimate(rest)
        before, length = length, (rest * scaled).sum()
        direction = scaled + length / before * direction
    return value
