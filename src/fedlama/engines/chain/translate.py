"""Translate a module into a chain of operations, if it is one.

``torch.fx`` records what the forward pass calls; every call must be known and take the previous one's output. So it
does not matter whether the model is an ``nn.Sequential`` or writes its forward pass out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fedlama.clients import TensorClients
from fedlama.engines.base import Work
from fedlama.engines.chain.base import Operation
from fedlama.engines.chain.convolution import Convolution, MaxPool
from fedlama.engines.chain.dense import Dense
from fedlama.engines.chain.shape import Dropout, EnterImages, Flatten, Relu
from fedlama.objectives import cross_entropy

_RELU: tuple[Any, ...] = (torch.relu, torch.relu_, functional.relu, "relu", "relu_")
_FLATTEN: tuple[Any, ...] = (torch.flatten, "flatten")
_POOL: tuple[Any, ...] = (functional.max_pool2d, torch.max_pool2d)


def chain_for(work: Work) -> list[Operation] | None:
    """Return the chain that does a federation's local work, or None if it takes more than a chain.

    Args:
        work: The federation's fixed parts.
    """
    source = work.clients
    if work.objective is not cross_entropy or not isinstance(source, TensorClients):
        return None
    found = translate(work.model)
    x, y = source.gather(source.rows[0][None, :1], [0], [0], work.seed)
    if found is None or y.dim() != 2 or y.dtype != torch.int64 or x.dtype != torch.float32:
        return None
    expected = 5 if isinstance(found[0], EnterImages) else 3 if isinstance(found[0], Dense) else x.dim()
    return found if x.dim() == expected else None


class _NotAChainError(Exception):
    """The module is not a chain."""


def translate(model: nn.Module) -> list[Operation] | None:
    """Return a module's chain of operations, or None if it is not a chain of known ones.

    Args:
        model: A model; parameters that are not float32 or not trained make it none.

    >>> len(translate(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))) or [])
    4
    >>> translate(nn.Sequential(nn.Linear(4, 3), nn.Softplus())) is None
    True
    """
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    usual = all(one.dtype == torch.float32 and one.requires_grad for one in model.parameters())
    if hooked or list(model.buffers()) or not usual:
        return None
    try:
        nodes = [node for node in fx.symbolic_trace(model).graph.nodes if node.op != "output"]
        return _Translation(model, nodes).operations()
    except Exception:  # whatever a model does that fx cannot record, it is not a chain
        return None


class _Translation:
    """Goes along the nodes and remembers the form of the activations."""

    def __init__(self, model: nn.Module, nodes: Sequence[fx.Node]) -> None:
        self._model, self._nodes = model, nodes
        self._found: list[Operation] = []
        self._form = "data"  # then "images" or "flat"

    def operations(self) -> list[Operation]:
        for before, node in zip(self._nodes, self._nodes[1:], strict=False):
            if node.args[:1] != (before,) or len(before.users) != 1:
                raise _NotAChainError
            self._take(node, last=node is self._nodes[-1])
        used = [name for operation in self._found for name in operation.parameters]
        if len(set(used)) != len(used) or set(used) != {name for name, _ in self._model.named_parameters()}:
            raise _NotAChainError
        if not isinstance(self._found[-1], Dense):
            raise _NotAChainError
        return _pool_before_relu(self._found)

    def _take(self, node: fx.Node, last: bool) -> None:
        if node.op == "call_module":
            self._module(str(node.target), self._model.get_submodule(str(node.target)), last)
        elif node.op in ("call_function", "call_method"):
            self._function(node.target, list(node.args[1:]), dict(node.kwargs))
        else:
            raise _NotAChainError

    def _module(self, name: str, module: nn.Module, last: bool) -> None:
        bias = None if getattr(module, "bias", None) is None else f"{name}.bias"
        if type(module) is nn.Linear and self._form != "images":
            self._form = "flat"
            self._found.append(Dense(f"{name}.weight", bias, classes_first=last))
        elif type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            self._enter_images()
            shape = list(module.stride), list(module.padding), list(module.dilation)
            self._found.append(Convolution(f"{name}.weight", bias, *shape, module.groups))
        elif type(module) is nn.MaxPool2d and module.dilation == 1 and not (module.ceil_mode or module.return_indices):
            self._pool(module.kernel_size, module.stride, module.padding)
        elif type(module) is nn.ReLU:
            self._relu()
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            self._flatten()
        elif type(module) is nn.Dropout:
            self._dropout(module.p)
        elif type(module) is not nn.Identity:
            raise _NotAChainError

    def _function(self, target: Callable[..., Any] | str, args: list[Any], settings: dict[str, Any]) -> None:
        if target in _RELU and not args and set(settings) <= {"inplace"}:
            self._relu()
        elif target in _FLATTEN and (args == [1] or settings == {"start_dim": 1}) and len(args) + len(settings) == 1:
            self._flatten()
        elif target in _POOL:
            self._pool_call(*args, **settings)
        else:
            raise _NotAChainError

    def _pool_call(self, kernel_size: Any, stride: Any = None, padding: Any = 0, **others: Any) -> None:  # noqa: ANN401
        if others.get("dilation", 1) != 1 or others.get("ceil_mode", False) or others.get("return_indices", False):
            raise _NotAChainError
        self._pool(kernel_size, kernel_size if stride is None else stride, padding)

    def _pool(self, size: Any, stride: Any, padding: Any) -> None:  # noqa: ANN401 - an int or a pair
        self._enter_images()
        self._found.append(MaxPool(_pair(size), _pair(stride), _pair(padding)))

    def _relu(self) -> None:
        self._found.append(Relu(first=not self._found))
        if self._form == "data":
            raise _NotAChainError

    def _flatten(self) -> None:
        if self._form != "flat":
            self._found.append(Flatten(images=self._form == "images"))
            self._form = "flat"

    def _dropout(self, rate: float) -> None:
        if self._form == "data" or not 0 <= rate < 1:
            raise _NotAChainError
        if rate:
            self._found.append(Dropout(rate, images=self._form == "images"))

    def _enter_images(self) -> None:
        if self._form == "flat":
            raise _NotAChainError
        if self._form == "data":
            self._found.append(EnterImages())
            self._form = "images"


def _pair(value: int | Sequence[int]) -> list[int]:
    return [operator.index(value)] * 2 if isinstance(value, int) else list(value)


def _pool_before_relu(found: list[Operation]) -> list[Operation]:
    """Swap ReLU and the max pooling after it: the result is the same, and ReLU has a quarter of the work."""
    order = list(found)
    for place in range(len(order) - 1):
        if isinstance(order[place], Relu) and isinstance(order[place + 1], MaxPool):
            order[place], order[place + 1] = order[place + 1], order[place]
    return order
