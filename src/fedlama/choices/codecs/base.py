"""The contract of codecs: in how many bits a layer is sent, up and down.

A codec of the simple kind sees one tensor by itself. It defines `name`, `payload_bytes`, `encode` and `decode`, and
everything else follows by default; override `transmit` where the result for a whole cohort can be computed faster than
by encoding and decoding.

A codec that needs more inherits from :class:`ContextCodec`. It may encode a difference from the value that both sides
hold (`uses_reference`), keep tensors between rounds (`init`, such as the residual of error feedback), and draw random
numbers. All that is handed to it in a context, and it returns its new state instead of changing the old one. So the
caller decides whether a state counts: an upload for an evaluation, or one that is repeated, changes nothing.

A codec may have two members more. With ``leaves_out = True`` some numbers of an upload are not sent; they arrive as
NaN, and no other number may. Only an aggregator that counts elements can be used with it. A method
``for_layers(layers)`` returns the codec that a federation uses, for one that treats layers by their position.
:mod:`fedlama.choices.codecs.varying` has those of codecs whose payloads differ in length, or whose receiver keeps a
state.

Which side keeps what:

==========  ==================================================  ======================================================
direction   the state is kept by                                the reference is
==========  ==================================================  ======================================================
up          the client, while its cohort lasts; zero at first   the layer's global value that the client received last
down        the server, over the whole run                      the same value, which all clients in sync hold
==========  ==================================================  ======================================================
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from fedlama.core.layers import TensorSpec
from fedlama.core.randomness import seed_of
from fedlama.core.registry import is_ours
from fedlama.errors import ConfigError, shown

CodecState = Mapping[str, Tensor]
"""What the sender of one tensor keeps until it sends that tensor again, by name; never changed in place."""

SERVER = -1
"""In place of a client's number in the address of a download, which is the same for all clients."""


@dataclass(frozen=True)
class Address:
    """Where a tensor is sent: random numbers of a codec depend on this alone, so both sides can draw them.

    Attributes:
        seed: The run's seed.
        direction: ``"up"`` from a client, ``"down"`` from the server.
        round_index: The round, from 0, at whose end the value was computed.
        client: The client's number; :data:`SERVER` in downloads.
        tensor: The tensor's name.
    """

    seed: int
    direction: Literal["up", "down"]
    round_index: int
    client: int
    tensor: str

    @property
    def key(self) -> int:
        """63 random bits that belong to this address alone."""
        return seed_of(self.seed, f"codec {self.direction} {self.tensor}", self.round_index, self.client)


_AS_IT_IS: Codec | None = None
_NOWHERE = Address(0, "up", 0, SERVER, "")


@dataclass(frozen=True)
class CodecContext:
    """What a codec may use beside the tensor that it encodes or decodes.

    Attributes:
        reference: The value that both sides hold, of the tensor's shape and dtype; None means zero.
        state: The sender's state for this tensor; a receiver has none, unless both keep it.
        address: The address of random numbers.
    """

    reference: Tensor | None = None
    state: CodecState = field(default_factory=dict)
    address: Address = _NOWHERE


Spread = Callable[[Callable[[Any], None], Sequence[Any]], object]
"""Calls a function for every item."""


def in_turn(job: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Call a function for every item, one after another."""
    for item in items:
        job(item)


@dataclass(frozen=True)
class CohortContext:
    """The contexts of several clients that send the same tensor.

    Attributes:
        reference: The value that all of them hold, of one client's shape; None means zero.
        state: Their states, stacked: (clients, ...) by name.
        address: The address of the first client; those of the others differ in the client alone.
        clients: Their numbers, row by row.
        spread: Calls a function for every item of a list, in threads where the caller has some.
    """

    reference: Tensor | None
    state: CodecState
    address: Address
    clients: Sequence[int]
    spread: Spread = in_turn

    def row(self, index: int) -> CodecContext:
        """Return the context of one client."""
        state = {name: stacked[index] for name, stacked in self.state.items()}
        return CodecContext(self.reference, state, self.addresses()[index])

    def addresses(self) -> list[Address]:
        """Return the addresses of all clients."""
        return [replace(self.address, client=client) for client in self.clients]


class Codec(Protocol):
    """Encodes single tensors; an engine that does not really send calls :meth:`transmit_with` instead.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The codec's name in configuration files.
    """

    name: ClassVar[str]

    @property
    def needs_context(self) -> bool:
        """Whether a payload depends on more than the tensor: on a reference, a state or an address; by default not."""
        return False

    @property
    def uses_reference(self) -> bool:
        """Whether the codec encodes differences from a value that both sides hold; by default it does not."""
        return False

    @property
    def download(self) -> Codec | None:
        """The codec of downloads; by default None, which sends every tensor as it is.

        Without a context, it must be idempotent: a value that it has sent once is sent again without any change,
        because clients that join later receive the value that the others hold.
        """
        return _AS_IT_IS

    def init(self, spec: TensorSpec) -> CodecState:
        """Return the first state of a sender of one tensor; by default there is none.

        Args:
            spec: The tensor. The state must depend on it alone.
        """
        return {}

    @abstractmethod
    def payload_bytes(self, spec: TensorSpec) -> int:
        """Return the length of what :meth:`encode_with` writes for a tensor, in bytes.

        Args:
            spec: Name, shape and dtype of the tensor. The length must not depend on its values, unless the codec
                :func:`~fedlama.choices.codecs.varying.varies`; then it is the largest.
        """

    @abstractmethod
    def encode(self, tensor: Tensor) -> bytes:
        """Write one tensor by itself.

        Args:
            tensor: One client's tensor, on any device; never changed.
        """

    @abstractmethod
    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read one tensor.

        Args:
            data: What :meth:`encode` wrote, or anything else that a client sent.
            spec: Name, shape and dtype of the tensor.

        Returns:
            The tensor on the CPU, with the shape and dtype of `spec`.

        Raises:
            DataError: The bytes do not fit the spec.
        """

    def transmit(self, stacked: Tensor) -> Tensor:
        """Return what the server receives of a cohort's tensors; by default each one is encoded and decoded.

        Args:
            stacked: One tensor of every client, shape (clients, ...); never changed.

        Returns:
            A tensor of the same shape, dtype and device, equal bit for bit to decoding what :meth:`encode` writes.
        """
        spec = spec_of(stacked[0])
        received = []
        for tensor in stacked:
            data = self.encode(tensor)
            received.append(_checked(self, data, self.decode(data, spec), spec))
        return torch.stack(received).to(stacked.device)  # (clients, ...)

    def encode_with(self, tensor: Tensor, context: CodecContext) -> tuple[bytes, CodecState]:
        """Write one tensor with what both sides know; by default as :meth:`encode` does.

        Args:
            tensor: The sender's tensor, on any device; never changed.
            context: Reference, state and address.

        Returns:
            The payload, and the sender's new state, which counts only if the receiver gets the payload.
        """
        return self.encode(tensor), {}

    def decode_with(self, data: bytes, spec: TensorSpec, context: CodecContext) -> Tensor:
        """Read what :meth:`encode_with` wrote; by default as :meth:`decode` does.

        Args:
            data: What :meth:`encode_with` wrote, or anything else that arrived.
            spec: Name, shape and dtype of the tensor.
            context: The sender's, but without its state.

        Returns:
            The tensor on the CPU, with the shape and dtype of `spec`.

        Raises:
            DataError: The bytes do not fit the spec.
        """
        return self.decode(data, spec)

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Return what arrives of a cohort's tensors, and the senders' new states; by default as :meth:`transmit` does.

        Args:
            stacked: One tensor of every client, shape (clients, ...); never changed.
            context: Their contexts.

        Returns:
            A tensor of the same shape, dtype and device, equal bit for bit to decoding what :meth:`encode_with` writes
            for each client, and the new states, stacked in the same way.
        """
        return self.transmit(stacked), {}


class ContextCodec(Codec, Protocol):
    """The base of codecs that use a context: they define the methods with one, and by themselves start from zero."""

    @property
    def needs_context(self) -> bool:
        """Whether a payload depends on more than the tensor; it does."""
        return True

    @abstractmethod
    def encode_with(self, tensor: Tensor, context: CodecContext) -> tuple[bytes, CodecState]:
        """Write one tensor with what both sides know; see :meth:`Codec.encode_with`."""

    @abstractmethod
    def decode_with(self, data: bytes, spec: TensorSpec, context: CodecContext) -> Tensor:
        """Read what :meth:`encode_with` wrote; see :meth:`Codec.decode_with`."""

    def encode(self, tensor: Tensor) -> bytes:
        """Write one tensor as a difference from zero, with a first state."""
        return self.encode_with(tensor, CodecContext(state=on_device(self.init(spec_of(tensor)), tensor)))[0]

    def decode(self, data: bytes, spec: TensorSpec) -> Tensor:
        """Read a difference from zero."""
        return self.decode_with(data, spec, CodecContext())

    def transmit(self, stacked: Tensor) -> Tensor:
        """Return what arrives of differences from zero, with first states."""
        clients = range(len(stacked))
        state = stacked_state(self.init(spec_of(stacked[0])), stacked)
        return self.transmit_with(stacked, CohortContext(None, state, _NOWHERE, clients))[0]

    def transmit_with(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Encode and decode the tensors one by one; override it where a whole cohort can be computed faster."""
        spec = replace(spec_of(stacked[0]), name=context.address.tensor)
        received, states = [], []
        for index, tensor in enumerate(stacked):
            row = context.row(index)
            data, state = self.encode_with(tensor, row)
            received.append(_checked(self, data, self.decode_with(data, spec, row), spec).to(stacked.device))
            states.append(state)
        new = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        return torch.stack(received), new  # (clients, ...)


def _checked(codec: Codec, data: bytes, decoded: Tensor, spec: TensorSpec) -> Tensor:
    """Return what a codec of a user's own made of a payload, or refuse what breaks the contract.

    Raises:
        ConfigError: The payload has another length than the ledger counts, or the tensor another form.
    """
    kind, form = type(codec), (tuple(spec.shape), spec.dtype)
    if is_ours(kind):  # their tests hold the contract, and some need the tensor's name here
        return decoded
    size = codec.payload_bytes(spec)
    if not getattr(codec, "varies", False) and len(data) != size:
        raise ConfigError(
            f"{kind.__name__}: a payload of a tensor of shape {form[0]} has {len(data)} bytes, expected {size}, as "
            "payload_bytes says; correct one of them, because the ledger counts these"
        )
    if not isinstance(decoded, Tensor) or (tuple(decoded.shape), decoded.dtype) != form:
        what = f"{decoded.dtype} {tuple(decoded.shape)}" if isinstance(decoded, Tensor) else shown(decoded)
        raise ConfigError(f"{kind.__name__}: decode returned {what}, expected {form[1]} {form[0]}; return this form")
    return decoded


def spec_of(tensor: Tensor) -> TensorSpec:
    """Return the shape and dtype of a parameter, without a name."""
    return TensorSpec("", tuple(tensor.shape), tensor.dtype, trainable=True)


def on_device(state: CodecState, tensor: Tensor) -> CodecState:
    """Return a state on the device of a tensor."""
    return {name: value.to(tensor.device) for name, value in state.items()}


def stacked_state(state: CodecState, stacked: Tensor) -> CodecState:
    """Return one sender's state for each of several clients, on the device of their stacked tensors."""
    return {
        name: value.to(stacked.device).expand(len(stacked), *value.shape).clone()  # (clients, ...)
        for name, value in state.items()
    }
