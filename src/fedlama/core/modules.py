"""The user's model: copied in one place, put into training mode, and made to compute with a client's own tensors."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedlama.core.content import content_digest
from fedlama.core.description import code_digest
from fedlama.core.registry import is_ours
from fedlama.errors import ConfigError, cut


def copied(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a model on a device, every module in the mode in which the user left it.

    Args:
        model: The user's model; never changed.
        device: Where the copy is wanted.

    Raises:
        ConfigError: The model cannot be copied, has no values yet, or has hooks on its parameters, which a copy loses.
    """
    check_shapes_known(model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = [name for name, value in tensors.items() if value.device.type == "meta"]
    if meta and device.type != "meta":
        raise ConfigError(
            f"the tensor {meta[0]} of the model is on the device 'meta' and has no values; load or initialise the "
            "model first, for instance with model.to_empty(device='cpu')"
        )
    hooked = [
        name
        for name, parameter in model.named_parameters()
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    ]
    if hooked:
        raise ConfigError(
            f"the parameter {hooked[0]} has a gradient hook, which the clients' copies do not have; put its effect "
            "into the forward pass or the solver, or freeze the parameter with requires_grad_(False)"
        )
    try:
        return copy.deepcopy(model).to(device)
    except Exception as error:  # a module may hold anything
        raise ConfigError(
            f"the model {type(model).__name__} cannot be copied ({type(error).__name__}: {cut(error, 120)}); remove "
            "tensors with a gradient that it keeps from an earlier run (run it under torch.no_grad()), use "
            "torch.nn.utils.parametrizations for weight norm, and make pruning permanent with prune.remove"
        ) from error


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def model_digests(model: nn.Module) -> dict[str, str]:
    """Return digests of a model's structure and of its values, by which another model is recognised.

    The structure is what `print(model)` shows, and the code of each `forward` that is not of an installed library.

    Args:
        model: The model.

    Returns:
        ``structure`` and ``values``, each the first 16 hexadecimal digits of a SHA-256.

    >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> model_digests(first)["structure"] == model_digests(second)["structure"]
    True
    >>> model_digests(first)["values"] == model_digests(second)["values"]
    False
    """
    kinds = {type(module) for module in model.modules() if not _is_installed(type(module))}
    forwards: list[object] = [getattr(kind, "forward", None) for kind in kinds]
    functions = [forward for forward in forwards if isinstance(forward, FunctionType)]
    code = sorted(f"{function.__qualname__} {code_digest(function)}" for function in functions)
    structure = json.dumps([_ADDRESS.sub("", repr(model)), code])
    tensors = [*model.named_parameters(), *model.named_buffers()]
    values = json.dumps([(name, content_digest(value)) for name, value in tensors])
    parts = {"structure": structure, "values": values}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in parts.items()}


def _is_installed(kind: type[nn.Module]) -> bool:
    """Return whether a class is of an installed library, whose version the environment of a run names."""
    file = str(getattr(sys.modules.get(kind.__module__), "__file__", None) or "")
    return is_ours(kind) or "site-packages" in file or "dist-packages" in file


def check_shapes_known(model: nn.Module) -> None:
    """Refuse a model with lazy modules that have not seen a batch yet.

    Raises:
        ConfigError: A parameter or buffer has no shape.
    """
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(value):
            raise ConfigError(f"the tensor {name} of the model has no shape yet; run the model once on a batch before")


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that the user set to evaluation mode in a model that is in training mode.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    >>> [type(module).__name__ for module in frozen_modules(model)], frozen_modules(model.eval())
    (['BatchNorm1d'], [])
    """
    return [module for module in model.modules() if not module.training] if model.training else []


def set_training(model: nn.Module) -> nn.Module:
    """Set a model to training mode, except for modules that the user froze with ``eval()``; return it."""
    frozen = frozen_modules(model)
    model.train()
    for module in frozen:
        module.training = False
    return model


def keep_reassigned_buffers(
    model: nn.Module, tensors: Mapping[str, Tensor], names: Iterable[str], values: Mapping[str, Tensor]
) -> None:
    """Copy back buffers that a module replaced instead of updating in place, and put the old ones back.

    Args:
        model: The module that has just run.
        tensors: The tensors that belong in it, by name.
        names: Its buffers.
        values: The client's own tensors, overwritten where a buffer was replaced.
    """
    for name in names:
        module, _, short = name.rpartition(".")
        owner = model.get_submodule(module)
        current = owner.get_buffer(short)
        if current is not tensors[name]:
            values[name].copy_(current)
            setattr(owner, short, tensors[name])


def plain_attributes(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Return the attributes that modules hold beside parameters, buffers, submodules, functions and torch's own.

    Returns:
        Values by the name of the module and that of the attribute.

    >>> model = nn.Sequential(nn.Flatten())
    >>> model[0].calls = 3
    >>> plain_attributes(model)[("0", "calls")]
    3
    """
    torchs = nn.Module().__dict__.keys()
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in getattr(module, "__dict__", {}).items()
        if name not in torchs and not callable(value)
    }
