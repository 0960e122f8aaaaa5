"""Kronecker factors as they are sent: for every dense or convolutional layer two symmetric matrices, as triangles.

They are layers of their own, uploads only: ``"factors/fc"`` has the tensors ``"factors/fc/inputs"`` and
``"factors/fc/outputs"``. A triangle of an n x n matrix has n (n + 1) / 2 numbers, row by row from the diagonal on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedlama.core.layers import Layer, Layers, TensorSpec

FACTORS = "factors"
"""The kind of these layers."""


def factor_name(layer: str, side: str = "") -> str:
    """Return the name of the layer of factors of a layer, or of one of its tensors.

    Args:
        layer: The layer's name.
        side: ``"inputs"`` or ``"outputs"`` for a tensor.

    >>> factor_name("fc", "inputs")
    'factors/fc/inputs'
    """
    return f"{FACTORS}/{layer}/{side}" if side else f"{FACTORS}/{layer}"


def factored_modules(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """Return the modules that have factors, by the name of their layer: dense ones, and ungrouped 2-D convolutions.

    Args:
        model: The model.
        layers: The layers that are sent; one that holds the parameters of a single module may have factors.
    """
    owners: dict[str, nn.Module] = {}
    for layer in layers:
        names = {spec.name.rpartition(".")[0] for spec in layer.tensors if spec.trainable}
        if len(names) != 1:
            continue
        module = model.get_submodule(names.pop())
        whole = {id(parameter) for parameter in module.parameters()} == {
            id(model.get_parameter(spec.name)) for spec in layer.tensors if spec.trainable
        }
        if whole and is_factored(module):
            owners[layer.name] = module
    return owners


def is_factored(module: nn.Module) -> bool:
    """Return whether a module can have factors."""
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def factor_layers(model: nn.Module, layers: Layers) -> Layers:
    """Return the layers of factors.

    Args:
        model: The model.
        layers: The layers that are sent.

    >>> from fedlama.core.layers import by_module
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    >>> [(layer.name, layer.parameters) for layer in factor_layers(model, by_module(model))]
    [('factors/0', 12), ('factors/2', 9)]
    """
    return tuple(_factor_layer(name, module) for name, module in factored_modules(model, layers).items())


def _factor_layer(name: str, module: nn.Module) -> Layer:
    weight = module.get_parameter("weight")
    sizes = {"inputs": weight[0].numel() + (module.bias is not None), "outputs": len(weight)}
    specs = tuple(
        TensorSpec(factor_name(name, side), (size * (size + 1) // 2,), weight.dtype, trainable=False, extra=True)
        for side, size in sizes.items()
    )
    return Layer(factor_name(name), specs, adaptive=False)


def triangle(matrix: Tensor) -> Tensor:
    """Return the upper triangle of a symmetric matrix, row by row.

    >>> triangle(torch.tensor([[1, 2], [2, 3]])).tolist()
    [1, 2, 3]
    """
    rows, columns = torch.triu_indices(len(matrix), len(matrix), device=matrix.device)
    return matrix[rows, columns]


def from_triangles(triangles: Tensor) -> Tensor:
    """Return symmetric matrices of their upper triangles.

    Args:
        triangles: (clients, n (n + 1) / 2).

    Returns:
        (clients, n, n).

    >>> from_triangles(torch.tensor([[1, 2, 3]])).tolist()
    [[[1, 2], [2, 3]]]
    """
    size = int(((8 * triangles.shape[1] + 1) ** 0.5 - 1) / 2 + 0.5)
    rows, columns = torch.triu_indices(size, size, device=triangles.device)
    matrices = triangles.new_zeros(len(triangles), size, size)
    matrices[:, rows, columns] = triangles
    matrices[:, columns, rows] = triangles
    return matrices
