"""Random numbers that a model draws, such as dropout masks: every client gets those of the loop engine.

The loop engine seeds torch's global generator per client and round. Trainers that run several clients at once cannot
share one generator, so each client has its own with the same seed. Calls of dropout are intercepted and draw from it
directly; for a model that draws in other ways, torch's global generator continues one client's sequence at a time.

On the CPU the masks are those of the loop engine. On a GPU they are as random and as repeatable but different, since
torch's own dropout counts its draws differently there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fedlama.core.global_generators import global_generator
from fedlama.core.randomness import seed_of
from fedlama.engines.api import EngineSetup


def client_generators(
    setup: EngineSetup,
    round_index: int,
    clients: Sequence[int],
    going_on: dict[int, torch.Generator] | None = None,
) -> list[torch.Generator]:
    """Return one generator per client, in the state in which the loop engine starts a client's round.

    Args:
        setup: The federation's fixed parts.
        round_index: The round, from 0.
        clients: The clients.
        going_on: Generators of an earlier phase of the round, which go on; new ones are added.
    """

    def fresh(client: int) -> torch.Generator:
        return torch.Generator(setup.device).manual_seed(seed_of(setup.seed, "client", round_index, client))

    if going_on is None:
        return [fresh(client) for client in clients]
    going_on |= {client: fresh(client) for client in clients if client not in going_on}
    return [going_on[client] for client in clients]


@contextmanager
def borrowed_generator(generator: torch.Generator) -> Iterator[None]:
    """Let torch's global generator of the client's device continue the client's sequence; other threads wait.

    If the device is not the CPU, the CPU's global generator starts from the client's seed at each call.

    Args:
        generator: The client's.
    """
    device = generator.device
    on_cpu = device.type == "cpu"
    module = torch.random if on_cpu else torch.get_device_module(device)
    devices = () if on_cpu else (device,)
    with global_generator, torch.random.fork_rng(devices, device_type=device.type):
        if not on_cpu:
            torch.manual_seed(generator.initial_seed())
        module.set_rng_state(generator.get_state(), *devices)
        yield
        generator.set_state(module.get_rng_state(*devices))


@contextmanager
def watched_generator() -> Iterator[list[bool]]:
    """Find out whether the body draws from torch's global generators, of the CPU or of CUDA; other threads wait.

    Yields:
        A list that is empty at first, and after the body holds whether it drew.
    """
    answer: list[bool] = []
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()

    def states() -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]

    with global_generator, torch.random.fork_rng(devices):
        before = states()
        yield answer
        answer.append(not all(map(torch.equal, before, states())))


class ClientDropout(TorchFunctionMode):
    """While active, ``functional.dropout`` draws from the clients' own generators.

    Args:
        generators: One per client; a model that is not vectorised has one.
        vectorised: Whether to refuse what vmap is known to compute differently, in silence.

    Attributes:
        used: Whether dropout was called.
    """

    def __init__(self, generators: Sequence[torch.Generator], vectorised: bool = False) -> None:
        super().__init__()
        self._generators = generators
        self._vectorised = vectorised
        self.used = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        """Run every function as it is, except dropout."""
        if func is functional.dropout:
            return self._dropout(*args, **(kwargs or {}))
        if self._vectorised and func is functional.embedding and _has_padding(*args, **(kwargs or {})):
            raise RuntimeError("torch's vmap forgets the padding_idx of an embedding")
        return func(*args, **(kwargs or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return input
        self.used = True
        result: Tensor = _Mask.apply(input, p, self._generators)[0]  # type: ignore[no-untyped-call]
        return result


def _has_padding(
    input: Tensor,  # noqa: ARG001 - torch's signature
    weight: Tensor,
    padding_idx: int | None = None,
    *others: Any,  # noqa: ANN401, ARG001
    **settings: Any,  # noqa: ANN401, ARG001
) -> bool:
    """Return whether a call of ``functional.embedding`` trains all rows of its weight but the padding's.

    Weights that are trained have a dimension of clients, which vmap hides; others get no gradient.
    """
    return padding_idx is not None and torch._C._functorch.is_batchedtensor(weight)


class _Mask(torch.autograd.Function):
    """Multiply by a random mask; under vmap by one mask per client."""

    @staticmethod
    def forward(x: Tensor, p: float, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        mask = draw_mask(x.shape, p, generators[0], x.dtype)
        return x * mask, mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401, ARG004
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return gradient * ctx.saved_tensors[0], None, None

    @staticmethod
    def vmap(
        info: Any,  # noqa: ANN401 - torch's signature
        in_dims: tuple[int | None, ...],
        x: Tensor,
        p: float,
        generators: Sequence[torch.Generator],
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        rows = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        masks = [draw_mask(row.shape, p, drawn, row.dtype) for row, drawn in zip(rows, generators, strict=True)]
        mask = torch.stack(masks)  # (clients, ...) like the rows
        return (rows * mask, mask), (0, 0)


def draw_mask(shape: Sequence[int], p: float, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw a dropout mask from a client's generator.

    On a CPU it is the mask that torch's own dropout draws, so equal seeds give the masks of the loop engine. On CUDA it
    differs from the loop engine's: torch's dropout counts its draws differently there.

    Args:
        shape: Of one client's activations.
        p: The fraction that is dropped.
        generator: The client's; its device is the mask's.
        dtype: Of the mask.

    Returns:
        0 where an activation is dropped, and 1 / (1 - p) elsewhere.
    """
    return fill_mask(torch.empty(tuple(shape), dtype=dtype, device=generator.device), p, generator)


def fill_mask(mask: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Draw a dropout mask into an existing tensor; see :func:`draw_mask`.

    Args:
        mask: Dense; overwritten.
        p: The fraction that is dropped.
        generator: The client's.
    """
    return mask.zero_() if p == 1.0 else mask.bernoulli_(1 - p, generator=generator).div_(1 - p)


class ClientMasks:
    """Draws every client's dropout masks as the loop engine draws them.

    Args:
        generators: One per client; none if the model has no dropout.

    Attributes:
        lengths: Each client's batch size, or None while all batches are full.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators
        self.lengths: Sequence[int] | None = None

    def draw(self, shape: Sequence[int], rate: float) -> list[Tensor]:
        """Return one mask per client; it is 0 for samples that only fill up a short batch.

        Args:
            shape: One client's activations, (batch, ...).
            rate: The fraction that is dropped.
        """
        batch, *rest = shape
        lengths = [batch] * len(self._generators) if self.lengths is None else self.lengths
        masks = []
        for length, generator in zip(lengths, self._generators, strict=True):
            mask = draw_mask((length, *rest), rate, generator)
            masks.append(mask if length == batch else torch.cat([mask, mask.new_zeros(batch - length, *rest)]))
        return masks
