"""What steps of all clients have in common and is done for all of them at once: few kernels instead of many small ones.

A GPU starts about a million kernels per second, whatever their size, so a client's small kernels cost as much as its
large ones. Two kinds of them are the same for all clients; :class:`SharedWork` names them:

====================  ==================================================================================================
casts of weights      autocast converts a weight to bfloat16 each time it is used. Weights that are used in no other way
                      are converted for all clients together; a step computes with the result, which autocast leaves as
                      it is, and its gradient is converted when it is copied
counters              BatchNorm counts its batches, for nothing but a momentum of None. The counters of all clients are
                      raised together, by as much as a step raises them
====================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

_NEUTRAL = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
"""Operations that do not use a tensor's numbers."""


@dataclass(frozen=True)
class SharedWork:
    """What is not part of a client's step.

    Attributes:
        cast: Names of parameters that a step uses in bfloat16 only.
        counters: By how much a step raises a counter, by the counter's name.
    """

    cast: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)


def shared_work(
    model: nn.Module, tensors: Mapping[str, Tensor], compute: Callable[[], object], bfloat16: bool
) -> SharedWork:
    """Find out by one step what all clients' steps have in common.

    Args:
        model: The module that computes.
        tensors: Its parameters and buffers by name.
        compute: Computes a step with it; what it changes in these tensors does not matter.
        bfloat16: Whether the step runs under autocast to bfloat16.
    """
    counters = {name: tensors[name] for name in _counters(model) if name in tensors}
    before = {name: int(value) for name, value in counters.items()}
    parameters = {name: value for name, value in tensors.items() if value.requires_grad}
    with _Uses(parameters) as uses:
        compute()
    raised = {name: int(value) - before[name] for name, value in counters.items()}
    cast = [name for name in parameters if uses.casts[name] and not uses.others[name]] if bfloat16 else []
    return SharedWork(tuple(cast), {name: amount for name, amount in raised.items() if amount})


def _counters(model: nn.Module) -> list[str]:
    """Return the names of counters that nothing reads."""
    return [
        f"{path}.num_batches_tracked" if path else "num_batches_tracked"
        for path, module in model.named_modules()
        if isinstance(module, _NormBase) and module.momentum is not None and module.num_batches_tracked is not None
    ]


class WithoutCounters:
    """A context in which modules do not count their batches.

    Args:
        model: The module.
        names: The counters.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._owners = [model.get_submodule(name.rpartition(".")[0]) for name in names]
        self._kept: list[Tensor | None] = []

    def __enter__(self) -> None:
        """Take the counters away; a module without one does not count."""
        self._kept = [owner._buffers["num_batches_tracked"] for owner in self._owners]
        for owner in self._owners:
            owner._buffers["num_batches_tracked"] = None

    def __exit__(self, *error: object) -> None:
        """Put the counters back."""
        for owner, kept in zip(self._owners, self._kept, strict=True):
            owner._buffers["num_batches_tracked"] = kept


class _Uses(TorchDispatchMode):
    """Counts how parameters are used while it is active.

    Args:
        parameters: The parameters by name.

    Attributes:
        casts: How often each one is converted to bfloat16.
        others: How often each one is used otherwise.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {value.data_ptr(): name for name, value in parameters.items() if value.numel()}
        self.casts = dict.fromkeys(parameters, 0)
        self.others = dict.fromkeys(parameters, 0)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's signature
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run every operation as it is."""
        named = dict(kwargs or {})
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        for name in {self._names[t.data_ptr()] for t in tensors if t.data_ptr() in self._names}:
            if func is torch.ops.aten._to_copy.default and named.get("dtype") == torch.bfloat16:
                self.casts[name] += 1
            elif func not in _NEUTRAL:
                self.others[name] += 1
        return func(*args, **named)
