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
    AddPositions,
    Attention,
    Convolution,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Gelu,
    GroupNorm,
    LayerNorm,
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

    Args:
        setup: The federation's fixed parts.

    Returns:
        An input of one client's batch of one sample, (1, 1, ...), or None if local work is anything else.
    """
    batch = example_batch(setup)
    return batch[0] if batch is not None and batch[0].dtype == torch.float32 else None


def example_batch(setup: EngineSetup) -> tuple[Tensor, Tensor] | None:
    """Return an input of the model and its classes, if local work is cross-entropy as compiled kernels know it.

    Trainers that write the backward pass themselves know this loss alone: of one class per sample on float32 inputs,
    or of one class per token on sequences of int64 tokens.

    Args:
        setup: The federation's fixed parts.

    Returns:
        One client's batch of one sample, (1, 1, ...) and (1, 1), or tokens and classes (1, 1, positions); None if local
        work is anything else.
    """
    source = tensor_clients(setup.clients)
    if setup.task.kernel_loss != "cross_entropy" or source is None or source.pair is None:
        return None
    targets = source.pair[1]
    if targets.numel() and int(targets.min()) < 0:  # positions that do not count, which these trainers do not know
        return None
    x, y = source.gather(source.rows[0][None, :1], [0], [0], setup.seed)
    numbers = x.dtype == torch.float32 and y.dim() == 2
    tokens = x.dtype == torch.int64 and x.dim() == 3 and y.shape == x.shape
    return (x, y) if y.dtype == torch.int64 and (numbers or tokens) else None


def read_graph(model: nn.Module, sequence: Sequence[int] | None = None) -> list[Step] | None:
    """Return a model's steps, of which the last computes the logits, or None if any part is unknown.

    Args:
        model: A model; it is unknown too if a parameter is not float32 or not used by exactly one step.
        sequence: The shape of one sample of tokens, (positions,), which all samples have; None for other inputs.

    >>> len(read_graph(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))) or [])
    4
    >>> read_graph(nn.Sequential(nn.Linear(4, 3), nn.Softplus())) is None
    True
    """
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    if hooked or frozen_modules(model) or any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return None
    try:
        copied = copy.deepcopy(model)  # recording leaves its proxies in plain attributes
        return _GraphReader(copied, sequence).steps()
    except Exception:  # fx raises many kinds of errors for models that it cannot record
        return None


_RELU: tuple[Any, ...] = (torch.relu, torch.relu_, functional.relu, "relu", "relu_")
_FLATTEN: tuple[Any, ...] = (torch.flatten, "flatten")
_POOL: tuple[Any, ...] = (functional.max_pool2d, torch.max_pool2d)
_MEAN_POOL: tuple[Any, ...] = (functional.avg_pool2d, torch._C._nn.avg_pool2d)
_ADD: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_MEAN: tuple[Any, ...] = (torch.mean, "mean")
_GELU: tuple[Any, ...] = (functional.gelu, torch._C._nn.gelu)


def _attention_parts(module: nn.Module) -> tuple[str, int, str] | None:
    """Return what a module says of itself if it is causal self-attention, as the character transformer's."""
    parts: tuple[str, int, str] | None = getattr(module, "attention_parts", None)
    return parts


class _Sequence(fx.Proxy):
    """Stands for a batch of tokens while a model is recorded: all but the number of samples is known.

    A model may ask for the number of positions to make numbers of them, which cannot be recorded.
    """

    def __init__(self, node: fx.Node, tracer: fx.Tracer, sizes: tuple[int, ...]) -> None:
        super().__init__(node, tracer)
        self._sizes = sizes

    @property
    def shape(self) -> _SequenceShape:
        return _SequenceShape(self._sizes)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")  # kernels are for models on the CPU


class _SequenceShape:
    """The shape of a batch of tokens, of which the number of samples may not be asked for."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes

    def __getitem__(self, dimension: int) -> int:
        if not 0 < dimension <= len(self._sizes):
            raise UnknownStepError
        return self._sizes[dimension - 1]


class _Tracer(fx.Tracer):
    """Records a model; attention that describes itself is one node."""

    def __init__(self, sequence: Sequence[int] | None) -> None:
        super().__init__()
        self._sequence = sequence

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or _attention_parts(m) is not None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if node.op == "placeholder" and self._sequence is not None:
            return _Sequence(node, self, tuple(self._sequence))
        return super().proxy(node)


class _GraphReader:
    """Translates the recorded nodes in order."""

    def __init__(self, model: nn.Module, sequence: Sequence[int] | None) -> None:
        self._model, self._sequence = model, sequence
        self._graph = _Tracer(sequence).trace(model)
        self._steps: list[Step] = []
        self._numbers: dict[fx.Node, int] = {}  # the number of each node's value; the model's input is 0
        self._positions: dict[fx.Node, str] = {}  # the table of each node that is a row for each position

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
        module = self._model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) is nn.Embedding and self._numbers_positions(node.args[0]):
            _check_plain(module)
            self._positions[node] = f"{node.target}.weight"
            return
        if node.target in _ADD and len(node.args) == 2 and not node.kwargs:
            self._translate_sum(node, *node.args)
            return
        first = self._value(node.args[0])
        if module is not None:
            operations = self._from_attention(str(node.target), module) or _from_module(str(node.target), module)
        else:
            operations = _from_call(node.target, list(node.args[1:]), dict(node.kwargs))
        self._numbers[node] = first
        for operation in operations:
            self._steps.append(Step(operation, (self._numbers[node],)))
            self._numbers[node] = len(self._steps)

    def _translate_sum(self, node: fx.Node, left: Any, right: Any) -> None:  # noqa: ANN401 - whatever a call was given
        """Translate the sum of two values, or of a value and a row for each position."""
        if left in self._positions:
            left, right = right, left
        if right in self._positions:
            self._steps.append(Step(AddPositions(self._positions[right]), (self._value(left),)))
        else:
            self._steps.append(Step(Add(), (self._value(left), self._value(right))))
        self._numbers[node] = len(self._steps)

    def _numbers_positions(self, node: Any) -> bool:  # noqa: ANN401 - whatever a call was given
        """Return whether a node is a constant with the numbers of all positions, from 0."""
        if not isinstance(node, fx.Node) or node.op != "get_attr" or self._sequence is None:
            return False
        constant = getattr(self._model, str(node.target), None)
        return isinstance(constant, Tensor) and torch.equal(constant, torch.arange(*self._sequence))

    def _from_attention(self, name: str, module: nn.Module) -> list[Operation]:
        """Return the operations of attention that describes itself; none for other modules."""
        parts = _attention_parts(module)
        if parts is None:
            return []
        before, heads, after = parts
        layers = [_from_module(f"{name}.{part}", module.get_submodule(part)) for part in (before, after)]
        return [*layers[0], Attention(heads), *layers[1]]


def _check_plain(module: nn.Embedding) -> None:
    """Refuse an embedding that does more than to look rows up."""
    if module.padding_idx is not None or module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        raise UnknownStepError


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
    if type(module) is nn.LayerNorm and module.weight is not None and bias is not None and module.eps > 0:
        return [LayerNorm(f"{name}.weight", bias, module.eps)]
    if type(module) is nn.Embedding:
        _check_plain(module)
        return [Embedding(f"{name}.weight")]
    if type(module) is nn.GELU and module.approximate == "none":
        return [Gelu()]
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
    if target in _GELU and not args and settings.get("approximate", "none") == "none" and len(settings) < 2:
        return [Gelu()]
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
