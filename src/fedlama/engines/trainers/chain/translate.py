"""Translate a model into a chain of operations on stacked clients, if it is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedlama.core.losses import cross_entropy
from fedlama.data.clients import TensorClients
from fedlama.engines.api import EngineSetup
from fedlama.engines.trainers import model_graph as graph
from fedlama.engines.trainers.chain.base import Operation
from fedlama.engines.trainers.chain.convolution import Convolution, MaxPool
from fedlama.engines.trainers.chain.dense import Dense
from fedlama.engines.trainers.chain.shape import Dropout, EnterImages, Flatten, Relu


def one_input(setup: EngineSetup) -> Tensor | None:
    """Return an input, (1, 1, ...), if local work is cross-entropy of one class per sample on float tensors, else None.

    Args:
        setup: The federation's fixed parts.
    """
    source = setup.clients
    if setup.objective is not cross_entropy or not isinstance(source, TensorClients):
        return None
    x, y = source.gather(source.rows[0][None, :1], [0], [0], setup.seed)
    return x if y.dim() == 2 and y.dtype == torch.int64 and x.dtype == torch.float32 else None


def chain_for(setup: EngineSetup) -> list[Operation] | None:
    """Return the chain that does a federation's local work, or None if it takes more than a chain.

    Args:
        setup: The federation's fixed parts.
    """
    x, found = one_input(setup), translate(setup.model)
    if x is None or found is None:
        return None
    expected = 5 if isinstance(found[0], EnterImages) else 3 if isinstance(found[0], Dense) else x.dim()
    return found if x.dim() == expected else None


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
    return _link([step.operation for step in graph.pool_before_relu(steps)])


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
    return found if isinstance(found[-1], Dense) else None
