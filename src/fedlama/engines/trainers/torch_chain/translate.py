"""Translate a model into a chain of operations on stacked clients, if it is one.

A model is a chain if each step uses the result of the step before and nothing else, and all steps have an operation in
:mod:`~fedlama.engines.trainers.torch_chain.operations`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedlama import kernels as graph
from fedlama.choices.solvers.sgd import plain_sgd
from fedlama.engines.api import EngineSetup
from fedlama.engines.trainers.model_graph import example_input, read_graph
from fedlama.engines.trainers.torch_chain.operations import (
    ChainOperation,
    StackedConvolution,
    StackedDense,
    StackedDropout,
    StackedFlatten,
    StackedMaxPool,
    StackedRelu,
    StackImages,
)


def chain_for(setup: EngineSetup) -> list[ChainOperation] | None:
    """Return the chain that computes a federation's local steps, or None if they are not those of a chain.

    Args:
        setup: The federation's fixed parts.
    """
    x, chain = example_input(setup), translate(setup.model)
    if x is None or chain is None or setup.micro_batch_size is not None:  # chains take whole batches
        return None
    if setup.personal is not None and plain_sgd(setup.solver) is not None:  # whose steps a head does not take
        return None
    return chain if chain[0].data_dims in (None, x.dim()) else None


def translate(model: nn.Module) -> list[ChainOperation] | None:
    """Return a model's chain of operations, or None if it is not a chain of known operations.

    Args:
        model: A model without buffers, all of whose parameters are float32 and trained.

    >>> len(translate(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))) or [])
    4
    >>> translate(nn.Sequential(nn.Linear(4, 3), nn.Softplus())) is None
    True
    """
    if list(model.buffers()) or not all(parameter.requires_grad for parameter in model.parameters()):
        return None
    steps = read_graph(model)
    if not steps or any(step.inputs != (number,) for number, step in enumerate(steps)):
        return None
    return _link([step.operation for step in graph.pool_before_relu(steps)])


def _link(operations: Sequence[graph.Operation]) -> list[ChainOperation] | None:
    """Translate the operations in order, and keep track of the activations' form: "data", "images" or "flat"."""
    match operations[-1]:
        case graph.Dense():
            pass
        case _:
            return None  # the loss takes a dense layer's logits, classes first
    chain: list[ChainOperation] = []
    form = "data"
    for index, operation in enumerate(operations):
        match operation, form:
            case ((graph.Convolution() | graph.MaxPool()), "data"):
                chain.append(StackImages())
                form = "images"
        match operation, form:
            case graph.Dense(weight, bias), "data" | "flat":
                chain.append(StackedDense(weight, bias, classes_first=index == len(operations) - 1))
                form = "flat"
            case graph.Convolution(weight, bias, stride, padding, dilation, groups), "images":
                settings = list(stride), list(padding), list(dilation)
                chain.append(StackedConvolution(weight, bias, *settings, groups))
            case graph.MaxPool(size, stride, padding), "images":
                chain.append(StackedMaxPool(list(size), list(stride), list(padding)))
            case graph.Relu(), "images" | "flat":
                chain.append(StackedRelu())
            case graph.Dropout(rate), "images" | "flat":
                chain.append(StackedDropout(rate, images=form == "images"))
            case graph.Flatten(), "flat":
                pass
            case graph.Flatten(), _:
                chain.append(StackedFlatten(images=form == "images"))
                form = "flat"
            case _:
                return None
    return chain
