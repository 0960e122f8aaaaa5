"""Which recorded operations depend on the client and its batch, and which give the same in every step.

The latter are left out of a traced step: what they returned when the step was recorded is kept. Such are the attention
mask of texts without padding, positions, and transposed weights that are not trained. It is decided by memory: what
reads memory that changes from step to step is computed again, and so is what makes memory that is written later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedlama.engines.trainers.traced.recorder import CannotTraceError, Operation, storage_of


def varying_operations(
    operations: Sequence[Operation], inputs: Iterable[Tensor], outputs: Iterable[Tensor]
) -> list[Operation]:
    """Return the operations that have to be computed in every step.

    Args:
        operations: All operations of a step.
        inputs: What differs from step to step.
        outputs: What the step returns; the caller may overwrite it, so it is never kept.

    Raises:
        CannotTraceError: The step writes to memory that is not a client's, or depends on values in a way that other
            batches may not share.
    """
    given = _storages(inputs)
    _refuse_side_effects(operations, given)
    rewritten = _storages(outputs)
    while True:
        varying, written_later = _one_pass(operations, given | rewritten)
        if written_later <= rewritten:
            break
        rewritten |= written_later
    for operation in varying:
        _refuse_values(operation)
    return varying


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {storage_of(tensor) for tensor in tensors}


def _refuse_side_effects(operations: Sequence[Operation], given: set[int]) -> None:
    """Refuse a step that writes to a tensor which is neither its client's nor made in the step."""
    made: set[int] = set()
    for operation in operations:
        if not _storages(operation.written) <= given | made:
            raise CannotTraceError("the model changes a tensor that is not one of its parameters and buffers")
        made |= _storages(operation.made) - _storages(operation.read)


def _one_pass(operations: Sequence[Operation], changing: set[int]) -> tuple[list[Operation], set[int]]:
    """Find the operations that touch memory which changes from step to step.

    Args:
        operations: All operations.
        changing: Storages that are known to change.

    Returns:
        These operations, and storages that were taken to be constant and that one of them writes to.
    """
    changing, used = set(changing), set[int]()
    varying: list[Operation] = []
    written_later: set[int] = set()
    for operation in operations:
        read, made, written = (_storages(part) for part in (operation.read, operation.made, operation.written))
        if operation.draws or (read | made) & changing:
            varying.append(operation)
            written_later |= written - changing
            used |= read - changing
            changing |= made | written
        elif written & used:
            raise CannotTraceError("a constant of the model is changed after it has been used")
    return varying, written_later


def _refuse_values(operation: Operation) -> None:
    """Refuse an operation through which values, and not only shapes, decide what is computed.

    Raises:
        CannotTraceError: It returns numbers to Python, or as many rows as a mask has true entries.
    """
    if any(isinstance(result, bool | int | float | complex) for result in operation.results):
        raise CannotTraceError("the model looks at a number")
    if torch.Tag.dynamic_output_shape in operation.function.tags:
        indices = operation.arguments[1] if operation.function is torch.ops.aten.index.Tensor else None
        if indices is None or any(index is not None and index.dtype in _MASKS for index in indices):
            raise CannotTraceError("the shape of a result depends on values")


_MASKS = (torch.bool, torch.uint8)
"""Types of tensors that select by their values where they are indices."""
