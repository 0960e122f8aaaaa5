"""What a model computes, step by step, if every step is known: read once with ``torch.fx``.

Trainers that write the backward pass themselves start from these steps: the kernels of :mod:`fedlama.kernels`, and the
chains of :mod:`fedlama.engines.trainers.torch_chain`. A model may be an ``nn.Sequential`` or have a forward pass of its
own.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fedlama.core.modules import frozen_modules
from fedlama.data.clients import tensor_clients
from fedlama.engines.api import EngineSetup
from fedlama.kernels import (
    Add,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    MaxPool,
    Mean,
    MeanPool,
    Norm,
    Operation,
    Pair,
    Relu,
    Step,
)


class UnknownStepError(Exception):
    """The model does something for which there is no step."""


def example_input(setup: EngineSetup) -> Tensor | None:
    """Return an input of the model, if local work is cross-entropy of one class per sample on float32 inputs.

    Trainers that write the backward pass themselves know this loss alone.

    Args:
        setup: The federation's fixed parts.

    Returns:
        An input of one client's batch of one sample, (1, 1, ...), or None if local work is anything else.
    """
    source = tensor_clients(setup.clients)
    if setup.task.kernel_loss != "cross_entropy" or source is None or source.pair is None:
        return None
    targets = source.pair[1]
    if targets.numel() and int(targets.min()) < 0:  # positions that do not count, which these trainers do not know
        return None
    x, y = source.gather(source.rows[0][None, :1], [0], [0], setup.seed)
    return x if y.dim() == 2 and y.dtype == torch.int64 and x.dtype == torch.float32 else None


def read_graph(model: nn.Module) -> list[Step] | None:
    """Return a model's steps, of which the last computes the logits, or None if any part is unknown.

    Args:
        model: A model; it is unknown too if a parameter is not float32 or not used by exactly one step.

    >>> len(read_graph(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))) or [])
    4
    >>> read_graph(nn.Sequential(nn.Linear(4, 3), nn.Softplus())) is None
    True
    """
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    if hooked or frozen_modules(model) or any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return None
    try:
        return _GraphReader(copy.deepcopy(model)).steps()  # a copy: recording leaves its proxies in plain attributes
    except Exception:  # fx raises many kinds of errors for models that it cannot record
        return None


_RELU: tuple[Any, ...] = (torch.relu, torch.relu_, functional.relu, "relu", "relu_")
_FLATTEN: tuple[Any, ...] = (torch.flatten, "flatten")
_POOL: tuple[Any, ...] = (functional.max_pool2d, torch.max_pool2d)
_MEAN_POOL: tuple[Any, ...] = (functional.avg_pool2d, torch._C._nn.avg_pool2d)
_ADD: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_MEAN: tuple[Any, ...] = (torch.mean, "mean")


class _GraphReader:
    """Translates the recorded nodes in order."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._graph = fx.symbolic_trace(model).graph
        self._steps: list[Step] = []
        self._numbers: dict[fx.Node, int] = {}  # the number of each node's value; the model's input is 0

    def steps(self) -> list[Step]:
        """Return the steps."""
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self._numbers[node] = 0
            elif node.op == "output":
                self._finish(node)
            elif node.op != "get_attr":
                self._translate(node)
        return self._steps

    def _finish(self, output: fx.Node) -> None:
        inputs = [node for node in self._graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1 or self._value(output.args[0]) != len(self._steps):
            raise UnknownStepError
        names = [name for step in self._steps for name in _names(step.operation)]
        known = {name for name, _ in (*self._model.named_parameters(), *self._model.named_buffers())}
        if len(set(names)) != len(names) or set(names) != known:
            raise UnknownStepError

    def _value(self, node: Any) -> int:  # noqa: ANN401 - whatever a call was given
        if not isinstance(node, fx.Node) or node not in self._numbers:
            raise UnknownStepError
        return self._numbers[node]

    def _translate(self, node: fx.Node) -> None:
        first = self._value(node.args[0])
        if node.op == "call_module":
            operations = _from_module(str(node.target), self._model.get_submodule(str(node.target)))
        elif node.target in _ADD and len(node.args) == 2 and not node.kwargs:
            self._steps.append(Step(Add(), (first, self._value(node.args[1]))))
            self._numbers[node] = len(self._steps)
            return
        else:
            operations = _from_call(node.target, list(node.args[1:]), dict(node.kwargs))
        self._numbers[node] = first
        for operation in operations:
            self._steps.append(Step(operation, (self._numbers[node],)))
            self._numbers[node] = len(self._steps)


def _names(operation: Operation) -> list[str]:
    """List the parameters and buffers of an operation."""
    kinds = ("weight", "bias", "mean", "variance", "count")
    return [name for kind in kinds if (name := getattr(operation, kind, None)) is not None]


def _from_module(name: str, module: nn.Module) -> list[Operation]:
    """Return the operations of one of torch's modules: one for most, none for some."""
    bias = None if getattr(module, "bias", None) is None else f"{name}.bias"
    if type(module) is nn.Linear:
        return [Dense(f"{name}.weight", bias)]
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        shape = [_pair(setting) for setting in (module.stride, module.padding, module.dilation)]
        return [Convolution(f"{name}.weight", bias, shape[0], shape[1], shape[2], module.groups)]
    if type(module) is nn.MaxPool2d and module.dilation == 1 and not (module.ceil_mode or module.return_indices):
        return [MaxPool(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))]
    if type(module) is nn.AvgPool2d:
        return [
            _mean_pool(
                module.kernel_size,
                module.stride,
                module.padding,
                module.ceil_mode,
                module.count_include_pad,
                module.divisor_override,
            )
        ]
    if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum is not None:
        mean, variance, count = (f"{name}.{kind}" for kind in ("running_mean", "running_var", "num_batches_tracked"))
        return [Norm(f"{name}.weight", f"{name}.bias", mean, variance, count, module.momentum, module.eps)]
    if type(module) is nn.GroupNorm and module.affine and bias is not None and module.eps > 0:
        return [GroupNorm(f"{name}.weight", bias, module.num_groups, module.eps)]
    if type(module) is nn.ReLU:
        return [Relu()]
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return [Flatten()]
    if type(module) is nn.Dropout and 0 <= module.p < 1:
        return [Dropout(module.p)] if module.p else []
    if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
        return [Mean()]  # the flattening that must follow removes its two dimensions of one pixel
    if type(module) is nn.Identity:
        return []
    raise UnknownStepError


def _from_call(target: Callable[..., Any] | str, args: list[Any], settings: dict[str, Any]) -> list[Operation]:
    """Return the operations of a function or method call."""
    if target in _RELU and not args and set(settings) <= {"inplace"}:
        return [Relu()]
    if target in _FLATTEN and (args == [1] or settings == {"start_dim": 1}) and len(args) + len(settings) == 1:
        return [Flatten()]
    if target in _POOL:
        return [_pool(*args, **settings)]
    if target in _MEAN_POOL:
        return [_mean_pool(*args, **settings)]
    if target in _MEAN and len(args) + len(settings) == 1:
        dimensions = args[0] if args else settings.get("dim", ())
        if sorted(dimensions) in ([-2, -1], [2, 3]):
            return [Mean()]
    if target is torch.conv2d or target is functional.conv2d:
        return [_convolution(*args, **settings)]
    raise UnknownStepError


def _pool(size: Any, stride: Any = None, padding: Any = 0, **others: Any) -> MaxPool:  # noqa: ANN401
    if others.get("dilation", 1) != 1 or others.get("ceil_mode", False) or others.get("return_indices", False):
        raise UnknownStepError
    return MaxPool(_pair(size), _pair(size if stride is None else stride), _pair(padding))


def _mean_pool(  # torch's signature
    kernel_size: Any,  # noqa: ANN401
    stride: Any = None,  # noqa: ANN401
    padding: Any = 0,  # noqa: ANN401
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> MeanPool:
    if ceil_mode or divisor_override is not None or (_pair(padding) != (0, 0) and not count_include_pad):
        raise UnknownStepError
    return MeanPool(_pair(kernel_size), _pair(kernel_size if stride is None else stride), _pair(padding))


def _convolution(
    weight: Any,  # noqa: ANN401
    bias: Any = None,  # noqa: ANN401
    stride: Any = 1,  # noqa: ANN401
    padding: Any = 0,  # noqa: ANN401
    dilation: Any = 1,  # noqa: ANN401
    groups: int = 1,
) -> Convolution:
    shape = [_pair(setting) for setting in (stride, padding, dilation)]
    return Convolution(_name(weight), None if bias is None else _name(bias), shape[0], shape[1], shape[2], groups)


def _name(node: Any) -> str:  # noqa: ANN401 - whatever a call was given
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise UnknownStepError
    return str(node.target)


def _pair(value: int | Sequence[int]) -> Pair:
    first, second = (value, value) if isinstance(value, int) else value
    return operator.index(first), operator.index(second)
