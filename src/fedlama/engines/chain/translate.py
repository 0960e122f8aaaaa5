"""Translate a model into a chain of operations on stacked clients, if it is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fedlama.clients import TensorClients
from fedlama.engines import graph
from fedlama.engines.base import Work
from fedlama.engines.chain.base import Operation
from fedlama.engines.chain.convolution import Convolution, MaxPool
from fedlama.engines.chain.dense import Dense
from fedlama.engines.chain.shape import Dropout, EnterImages, Flatten, Relu
from fedlama.objectives import cross_entropy


def classifies(work: Work) -> bool:
    """Tell whether local work is cross-entropy of one class per sample, on float inputs that are tensors.

    Args:
        work: The federation's fixed parts.
    """
    source = work.clients
    if work.objective is not cross_entropy or not isinstance(source, TensorClients):
        return False
    x, y = source.gather(source.rows[0][None, :1], [0], [0], work.seed)
    return y.dim() == 2 and y.dtype == torch.int64 and x.dtype == torch.float32


def chain_for(work: Work) -> list[Operation] | None:
    """Return the chain that does a federation's local work, or None if it takes more than a chain.

    Args:
        work: The federation's fixed parts.
    """
    found = translate(work.model) if classifies(work) else None
    if found is None:
        return None
    source = work.clients
    assert isinstance(source, TensorClients)
    dimensions = source.gather(source.rows[0][None, :1], [0], [0], work.seed)[0].dim()
    expected = 5 if isinstance(found[0], EnterImages) else 3 if isinstance(found[0], Dense) else dimensions
    return found if dimensions == expected else None


def translate(model: nn.Module) -> list[Operation] | None:
    """Return a module's chain of operations, or None if it is not a chain of known ones.

    Args:
        model: A model; parameters that are not float32 or not trained make it none.

    >>> len(translate(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))) or [])
    4
    >>> translate(nn.Sequential(nn.Linear(4, 3), nn.Softplus())) is None
    True
    """
    if list(model.buffers()) or not all(one.requires_grad for one in model.parameters()):
        return None
    steps = graph.read_graph(model)
    if not steps or any(step.inputs != (number,) for number, step in enumerate(steps)):
        return None
    return _link([step.operation for step in steps])


def _link(operations: Sequence[graph.Operation]) -> list[Operation] | None:
    """Go along the chain and remember the form of the activations: the data's, images or flat."""
    found: list[Operation] = []
    form = "data"
    for place, one in enumerate(operations):
        if isinstance(one, graph.Convolution | graph.MaxPool) and form == "data":
            found.append(EnterImages())
            form = "images"
        if isinstance(one, graph.Dense) and form != "images":
            found.append(Dense(one.weight, one.bias, classes_first=place == len(operations) - 1))
            form = "flat"
        elif isinstance(one, graph.Convolution) and form == "images":
            shape = list(one.stride), list(one.padding), list(one.dilation)
            found.append(Convolution(one.weight, one.bias, *shape, one.groups))
        elif isinstance(one, graph.MaxPool) and form == "images":
            found.append(MaxPool(list(one.size), list(one.stride), list(one.padding)))
        elif isinstance(one, graph.Relu) and form != "data":
            found.append(Relu())
        elif isinstance(one, graph.Dropout) and form != "data":
            found.append(Dropout(one.rate, images=form == "images"))
        elif isinstance(one, graph.Flatten):
            found += [Flatten(images=form == "images")] if form != "flat" else []
            form = "flat"
        else:
            return None
    return _pool_before_relu(found) if isinstance(found[-1], Dense) else None


def _pool_before_relu(found: list[Operation]) -> list[Operation]:
    """Swap ReLU and the max pooling after it: the result is the same, and ReLU has a quarter of the work."""
    order = list(found)
    for place in range(len(order) - 1):
        if isinstance(order[place], Relu) and isinstance(order[place + 1], MaxPool):
            order[place], order[place + 1] = order[place + 1], order[place]
    return order
