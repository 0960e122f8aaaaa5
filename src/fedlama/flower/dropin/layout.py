"""What a client must know of an app's arrays to read messages: the layers, the order of the arrays, and the codec.

A ClientApp of Flower builds its model inside of its own functions. So the server, which has the initial arrays, names
the layers, and sends them along with the full model. The client keeps them in a file beside its state.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Codec, Float32
from fedlama.core.layers import Layer, Layers, TensorSpec, by_tensor, sent_layers
from fedlama.errors import ConfigError, DataError, cut


@dataclass(frozen=True)
class Layout:
    """The arrays of an app, as both sides see them.

    Attributes:
        names: The arrays' names, in the app's own order.
        layers: The layers that are sent; together they hold exactly these arrays.
        codec: How uploads are compressed.
        tied: Array to the array with the same values, of models that share a parameter; it is sent once.
    """

    names: tuple[str, ...]
    layers: Layers
    codec: Codec
    tied: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text that a message carries."""
        layers = [
            [layer.name, [[t.name, list(t.shape), _name(t.dtype), t.trainable] for t in layer.tensors]]
            for layer in self.layers
        ]
        content: dict[str, Any] = {"names": self.names, "layers": layers, "tied": dict(self.tied)}
        if self.codec != Float32():
            from fedlama.experiment.options import plain_choice  # only here: a ClientApp starts faster without it

            content["codec"] = plain_choice(self.codec)
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read back what :meth:`to_json` returned.

        Raises:
            DataError: The text is not a layout.
        """
        try:
            content = json.loads(text)
            layers = tuple(
                Layer(str(name), tuple(_tensor(*fields) for fields in tensors), adaptive=False)
                for name, tensors in content["layers"]
            )
            names = tuple(map(str, content["names"]))
            codec = _codec(content["codec"]) if "codec" in content else Float32()
            tied = {str(name): str(other) for name, other in content["tied"].items()}
        except (AttributeError, ConfigError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"the message describes no layers ({cut(error)}); install the same version of fedlama on both sides"
            ) from error
        return cls(names, layers, codec, tied)

    def whole(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all arrays in the app's own order, tied ones included.

        Args:
            values: The tensors of all layers, by name.
        """
        return {name: values[self.tied.get(name, name)] for name in self.names}


def module_of(arrays: Mapping[str, Tensor]) -> nn.Module:
    """Return a module whose state dict has these arrays: floating-point ones as parameters, others as buffers.

    It takes the place of the model of an app that is not written in PyTorch, or that gives only its arrays.

    Args:
        arrays: Arrays by name; dots in names separate modules.

    >>> module = module_of({"0": torch.zeros(2, 3), "head.bias": torch.zeros(3), "head.seen": torch.tensor(0)})
    >>> [name for name, _ in module.named_parameters()], list(module.state_dict())
    (['0', 'head.bias'], ['0', 'head.bias', 'head.seen'])
    """
    root = nn.Module()
    for name, value in arrays.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if value.is_floating_point() or value.is_complex():
            module.register_parameter(last, nn.Parameter(value.clone()))
        else:
            module.register_buffer(last, value.clone())
    return root


def layout_of(names: tuple[str, ...], model: nn.Module, layers: Layers | None, codec: Codec) -> Layout:
    """Return the layout of an app.

    Args:
        names: The names of its initial arrays, in its order.
        model: Its model.
        layers: The labelling; None for one layer per parameter tensor.
        codec: How uploads are compressed.

    Raises:
        ConfigError: The layers hold other arrays than the app sends.
    """
    labelling = sent_layers(by_tensor(model) if layers is None else layers)
    sent = {spec.name for layer in labelling for spec in layer.tensors}
    tied = _tied(model, sent)
    problems = [
        f"initial_arrays has {name!r}, which no layer that is sent holds (it is frozen, local, or not in the model); "
        "leave it out of initial_arrays and let the ClientApp set it"
        for name in names
        if name not in sent and name not in tied
    ]
    problems += [
        f"initial_arrays lacks {name!r}, which a layer holds; give the model's whole state dict"
        for name in sorted(sent - set(names))
    ]
    if problems:
        raise ConfigError(problems)
    return Layout(names, labelling, codec, {name: other for name, other in tied.items() if name in names})


def _tied(model: nn.Module, sent: Collection[str]) -> dict[str, str]:
    """Return the tensors of a model that are others under a second name, each with the name that is sent."""
    first: dict[int, str] = {}
    tensors = model.state_dict(keep_vars=True)
    for name in sent:
        if name in tensors:
            first[id(tensors[name])] = name
    return {name: first[id(value)] for name, value in tensors.items() if name not in sent and id(value) in first}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensor(name: str, shape: list[int], dtype: str, trainable: bool) -> TensorSpec:
    kind = getattr(torch, dtype)
    if not isinstance(kind, torch.dtype):
        raise TypeError(f"{dtype} is not a type of tensors")
    return TensorSpec(str(name), tuple(map(int, shape)), kind, trainable=bool(trainable))


def _codec(given: Mapping[str, object]) -> Codec:
    from fedlama.experiment import resolve

    return resolve({"codec": dict(given)}).codec
