"""The door for training: a model's local steps, planned once and then run on arrays of stacked clients.

:func:`plan_model` turns a model's steps into a :class:`Model`, or says that there are no kernels for it.
:meth:`Model.run` checks the arrays of a block of steps, notes where they are in memory for the kernels, and keeps them
until the last thread is done. No address leaves this file but into the tables that the kernels read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels import table
from fedlama.kernels.arguments import Block, Sizes, Thread
from fedlama.kernels.arrays import address_of, check_array
from fedlama.kernels.kernel import operation
from fedlama.kernels.program import Program, write_program
from fedlama.kernels.steps import Step
from fedlama.kernels.table import Scratch, Size

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Parallel: TypeAlias = Callable[[Callable[[int], None], int], None]
"""Runs ``job(0), ..., job(count - 1)`` at the same time, given the job and the count, and returns when all are done."""


_NO_FLOATS, _NO_TOKENS = np.empty(0, np.float32), np.empty(0, np.int64)


class StackedTensor(NamedTuple):
    """One parameter, or one running statistic of a normalisation, of all clients.

    Attributes:
        values: float32, (clients, *shape); advanced in place.
        velocities: The momentum buffer, float32, (clients, *shape); advanced in place. None without momentum.
        reference: The global value for FedProx, float32, of one client's shape. None without a proximal term.
        weight_decay: Of this parameter.
        trained: Whether it is trained.
    """

    values: Floats
    velocities: Floats | None = None
    reference: Floats | None = None
    weight_decay: float = 0.0
    trained: bool = True


class Batches(NamedTuple):
    """The batches of several steps of several clients.

    Attributes:
        x: Inputs of a pool of samples, float32, (samples, *input shape); int64 if they are tokens.
        y: Their classes, int64, (samples,), or (samples, positions).
        rows: int64, (steps, clients, batch): which samples are in a batch.
        lengths: int64, (steps, clients): how many of them count; those beyond only fill up.
        masks: Every batch's dropout masks, float32, (steps, clients, batch * mask elements of a sample), each batch's
            masks one after another and each (samples that count, *size); None for a model without dropout.
    """

    x: Floats | Integers
    y: Integers
    rows: Integers
    lengths: Integers
    masks: Floats | None = None


class SGDSettings(NamedTuple):
    """SGD in PyTorch's convention, and FedProx: v <- m v + g + w x + mu (x - u), x <- x - eta v.

    Attributes:
        rates: eta of each step, float32, (steps,).
        momentum: m.
        proximal: mu.
        fresh: Whether velocities count as zero before the first step, whatever is in their memory.
    """

    rates: Floats
    momentum: float = 0.0
    proximal: float = 0.0
    fresh: bool = False


class Model:
    """A model's local training in compiled kernels. Threads may share it.

    Args:
        program: The model as the kernels read it.
        shapes: Every parameter's and running statistic's.

    Attributes:
        program: As given.
        names: The parameters and running statistics that :meth:`run` takes.
        multiply_adds: Multiplications of one sample's forward pass; a step takes about three times as many.
        masks: One sample's dropout masks, in the order in which they are drawn: their sizes and rates.
        counters: Buffers that count batches; the caller advances them.
        takes_tokens: Whether inputs are tokens.
        label_shape: Shape of one sample's classes: (), or (positions,).
    """

    def __init__(self, program: Program, shapes: Mapping[str, Sequence[int]]) -> None:
        self.program = program
        self.multiply_adds = program.multiply_adds
        self.masks = tuple(program.masks)
        self.takes_tokens, self.label_shape = program.vocabulary > 0, program.label_shape
        self.counters = tuple(row.count for row in program.rows if row.count is not None)
        self._shapes = {
            name: tuple(shapes.get(name, row.sizes[:1])) for row in program.rows for name in row.names if name
        }
        self.names = tuple(self._shapes)
        self._constants = np.array([row.constants for row in program.rows], np.float32)  # (operations, 2)
        self._tables: dict[tuple[int, tuple[str, ...]], tuple[Integers, int, int]] = {}

    def compile(self) -> None:
        """Compile what the model needs, or read it from disk; otherwise the first :meth:`run` does."""
        from fedlama.kernels.operations import OPERATIONS  # needs Numba

        for row in self.program.rows:
            for function in OPERATIONS[row.kind]:
                operation(function)

    def run(
        self,
        tensors: Mapping[str, StackedTensor],
        batches: Batches,
        solver: SGDSettings,
        losses: NDArray[np.float64],
        scratches: Sequence[Scratch],
        parallel: Parallel | None = None,
    ) -> None:
        """Take a block of local steps of every client, in place.

        Each thread takes the next client when it is free; which one takes which changes no bit of the result. A client
        stops at the first step whose loss is not finite.

        Args:
            tensors: State and settings of everything in `names`.
            batches: The block's batches.
            solver: How gradients move parameters.
            losses: float64, (clients,): the sum of a client's losses is added.
            scratches: One per thread.
            parallel: Runs a job on several threads; not needed with one scratch.

        Raises:
            TypeError: An array has another dtype.
            ValueError: Shapes do not fit together, an array is not contiguous, or a normalisation would meet a single
                number per channel.
            IndexError: A batch names a sample that does not exist, or a class or a token is not one of the model's.
        """
        from fedlama.kernels.advance import advance  # needs Numba

        self._check(tensors, batches, solver, losses)
        trained = tuple(name for name in self.names if tensors[name].trained)
        program, *elements = self._placed(batches.rows.shape[2], trained)
        sizes, block = self._sizes(batches, solver, *elements), self._block(batches, solver)
        parameters, decays = self._parameter_table(tensors), self._decays(tensors)
        context = np.zeros(table.CONTEXT, np.int64)
        context[table.PARAMETERS], context[table.DECAYS] = address_of(parameters), address_of(decays)
        context[table.COUNT], context[table.MARGIN] = len(parameters), self.program.margin
        settings = np.array([0.0, solver.momentum, solver.proximal], np.float32)
        room = sizes.scratch + sizes.spare + sizes.batch * math.prod(self.program.sizes[0]) + table.LANES
        turn = np.zeros(1, np.int64)  # the next client; all threads share it

        def work(number: int) -> None:
            scratch = scratches[number]
            scratch.resize(room)
            thread = Thread(context.copy(), settings.copy(), scratch.room, scratch.state)
            try:
                advance(program, self._constants, block, thread, losses, turn, sizes)
            except IndexError as error:  # in checked mode only
                raise IndexError(self._explained(error)) from None

        if parallel is None or len(scratches) == 1:
            work(0)
        else:
            parallel(work, len(scratches))
        if turn[0] < 0:
            raise IndexError(self._missing(len(batches.y)))

    def _missing(self, samples: int) -> str:
        """Say what a batch may have named that does not exist."""
        tokens = f", or a token is not among its {self.program.vocabulary}" if self.program.vocabulary else ""
        return (
            f"a batch names a sample that is not among the {samples} given ones, or a sample's class is not among the "
            f"model's {self.program.classes}{tokens}"
        )

    def _explained(self, error: IndexError) -> str:
        """Say which operation has failed, if the error holds its number and its direction."""
        from fedlama.kernels.operations import OPERATIONS  # needs Numba

        if len(error.args) != 2:
            return str(error)
        number, direction = error.args
        function = OPERATIONS[self.program.rows[number].kind][direction - table.FORWARD]
        return f"{function.__qualname__} (operation {number}) accesses memory outside of its regions"

    def _check(
        self, tensors: Mapping[str, StackedTensor], batches: Batches, solver: SGDSettings, losses: NDArray[np.float64]
    ) -> None:
        """Check everything that the kernels will read or write without looking."""
        steps, clients = self._check_batches(batches)
        check_array("solver.rates", solver.rates, np.float32, (steps,))
        check_array("losses", losses, np.float64, (clients,))
        for name, shape in self._shapes.items():
            tensor = tensors[name]
            check_array(f"values of {name}", tensor.values, np.float32, (clients, *shape))
            if solver.momentum > 0.0 and tensor.trained:
                self._check_needed(f"velocities of {name}", tensor.velocities, (clients, *shape))
            if solver.proximal > 0.0 and tensor.trained:
                self._check_needed(f"reference of {name}", tensor.reference, shape)

    @staticmethod
    def _check_needed(name: str, array: Floats | None, shape: Sequence[int]) -> None:
        if array is None:
            raise ValueError(f"{name} is None, but the solver's settings need it")
        check_array(name, array, np.float32, shape)

    def _check_batches(self, batches: Batches) -> tuple[int, int]:
        """Check a block's arrays; return how many steps and clients it has."""
        check_array("batches.rows", batches.rows, np.int64, (None, None, None))
        steps, clients, batch = batches.rows.shape
        check_array("batches.lengths", batches.lengths, np.int64, (steps, clients))
        check_array("batches.y", batches.y, np.int64, (None, *self.program.label_shape))
        samples, features = len(batches.y), math.prod(self.program.sizes[0])
        kind = np.int64 if self.program.vocabulary else np.float32
        check_array("batches.x", batches.x, kind, (samples, *[None] * (batches.x.ndim - 1)))
        if math.prod(batches.x.shape[1:]) != features:
            raise ValueError(f"batches.x has inputs of shape {batches.x.shape[1:]}, expected {features} elements")
        drawn = sum(math.prod(size) for size, _ in self.masks)
        if drawn and batches.masks is None:
            raise ValueError("batches.masks is None, but the model has dropout")
        if batches.masks is not None:
            check_array("batches.masks", batches.masks, np.float32, (steps, clients, batch * drawn))
        lengths = batches.lengths
        if lengths.size and not 1 <= lengths.min() <= lengths.max() <= batch:
            raise ValueError(f"batches.lengths are {lengths.min()} to {lengths.max()}, expected 1 to {batch}")
        self._check_statistics(lengths)
        return steps, clients

    def _check_statistics(self, lengths: Integers) -> None:
        """Refuse, as PyTorch does, to normalise a channel, or a group of a batch's only sample, by a single number."""
        norms = [row for row in self.program.rows if row.kind in table.NORMS]
        counts = [math.prod(row.sizes[1:3]) * (row.sizes[5] if row.kind == table.GROUP_NORM else 1) for row in norms]
        if counts and lengths.size and min(counts) * lengths.min() < 2:
            raise ValueError(
                f"a normalisation in training needs more than one number per channel or group, but a client's batch of "
                f"{lengths.min()} sample meets images of one pixel there; give batches of two samples or more"
            )

    def _placed(self, batch: int, trained: tuple[str, ...]) -> tuple[Integers, int, int]:
        """Lay the scratch out for a batch size, unless that was done before; return its elements and the spare ones."""
        from fedlama.kernels.operations import OPERATIONS  # needs Numba

        if (batch, trained) not in self._tables:
            rows, scratch = self.program.write_table(batch, self.names, trained)
            code = [[operation(function).address for function in OPERATIONS[row.kind]] for row in self.program.rows]
            rows[:, table.FORWARD : table.BACKWARD + 1] = code
            self._tables[batch, trained] = rows, scratch, self.program.spare(batch)
        return self._tables[batch, trained]

    def _sizes(self, batches: Batches, solver: SGDSettings, scratch: int, spare: int) -> Sizes:
        """Put the numbers together that the kernel asks for."""
        steps, clients, batch = batches.rows.shape
        channels, height, width = (*self.program.sizes[0], 0, 0)[:3]
        masks = sum(math.prod(size) for size, _ in self.masks)
        return Sizes(
            clients, steps, batch, len(batches.y), channels, height, width, self.program.classes,
            math.prod(self.program.label_shape), self.program.vocabulary, masks, scratch, spare,
            solver.fresh and solver.momentum > 0.0,
        )  # fmt: skip

    def _block(self, batches: Batches, solver: SGDSettings) -> Block:
        """Put the arrays together that the kernel reads, all of them flat or of a fixed number of dimensions."""
        masks = _NO_FLOATS if batches.masks is None else batches.masks.reshape(-1)
        given, y = batches.x.reshape(-1), batches.y.reshape(-1)
        x, tokens = (_NO_FLOATS, given) if self.program.vocabulary else (given, _NO_TOKENS)
        return Block(solver.rates, x, tokens, y, batches.rows, batches.lengths, masks)

    def _parameter_table(self, tensors: Mapping[str, StackedTensor]) -> Integers:
        """Note where every tensor is in memory; see :mod:`~fedlama.kernels.table`."""
        updating = self.program.updating
        rows = []
        for name, shape in self._shapes.items():
            tensor = tensors[name]
            arrays = tensor.values, tensor.velocities, tensor.reference
            addresses = [0 if array is None else address_of(array) for array in arrays]
            rows.append([*addresses, math.prod(shape), (2 if name in updating else 1) if tensor.trained else 0])
        return np.array(rows, np.int64)

    def _decays(self, tensors: Mapping[str, StackedTensor]) -> Floats:
        return np.array([tensors[name].weight_decay for name in self.names], np.float32)


def plan_model(
    steps: Sequence[Step], shapes: Mapping[str, Sequence[int]], input_shape: Size, batch: int
) -> Model | None:
    """Plan a model's local training, or return None if a part of the model has no kernel.

    Args:
        steps: What the model computes; the last step makes the logits.
        shapes: Every parameter's shape, by name.
        input_shape: One sample's, (channels, height, width), (features,), or (positions,) of tokens.
        batch: The usual batch; which kernels are the faster ones depends on it.

    >>> from fedlama.kernels import Dense, Relu
    >>> steps = [Step(Dense("a.weight", None), (0,)), Step(Relu(), (1,)), Step(Dense("b.weight", "b.bias"), (2,))]
    >>> shapes = {"a.weight": (8, 4), "b.weight": (3, 8), "b.bias": (3,)}
    >>> plan_model(steps, shapes, (4,), 16).multiply_adds
    56
    """
    program = write_program(steps, shapes, input_shape, batch)
    return None if program is None else Model(program, shapes)
