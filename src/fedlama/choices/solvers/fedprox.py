"""FedProx: SGD with a pull towards the last synchronised global model.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020: the local objective gains
mu / 2 * ||x - u||^2. Under a layer-wise schedule u is, per layer, the value of its last synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.solvers.base import OptimizerState
from fedlama.choices.solvers.sgd import SGD, PlainSGD
from fedlama.core.registry import register
from fedlama.core.validation import at_least, refuse


@register("solver")
@dataclass(frozen=True)
class FedProx(SGD):
    """SGD with a proximal term; all fields of :class:`~fedlama.choices.solvers.sgd.SGD` besides.

    Args:
        proximal: mu, the strength of the pull, 0 or more; 0 is plain SGD.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> x, u = [torch.tensor([3.0])], [torch.tensor([1.0])]
        >>> FedProx(learning_rate=0.1, proximal=0.5).step(x, [torch.tensor([0.0])], {}, 0.1, [True], u)
        >>> x  # 3 - 0.1 * 0.5 * (3 - 1)
        [tensor([2.9000])]
    """

    name: ClassVar[str] = "fedprox"
    proximal: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(at_least(self, 0, "proximal"))

    @property
    def uses_reference(self) -> bool:
        """True: the pull is towards the last synchronised values."""
        return True

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Add mu * (x - u) to the gradients and take an SGD step; see :meth:`LocalSolver.step`."""
        pulled = torch._foreach_add(list(gradients), list(parameters), alpha=self.proximal)
        # The reference has one client's shape; broadcasting serves stacked parameters too.
        torch._foreach_add_(pulled, list(reference), alpha=-self.proximal)
        super().step(parameters, pulled, optimizer_state, rate, decayed, reference)

    def as_plain_sgd(self) -> PlainSGD | None:
        """Return the settings for kernels, with the pull; see :meth:`SGD.as_plain_sgd`."""
        plain = super().as_plain_sgd()
        return None if plain is None else plain._replace(proximal=self.proximal)
