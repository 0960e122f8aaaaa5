"""The checks at the door: dtype, shape and memory layout of every array that a caller hands in.

The kernels behind the door read and write memory without looking. So each array is checked here, once per call, and
the code that keeps its address (:class:`~fedlama.kernels.model.Model`, for the length of one call) keeps the array too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def check_array(name: str, array: NDArray[Any], dtype: DTypeLike, shape: Sequence[int | None]) -> None:
    """Check that an array is dense and has the expected dtype and shape.

    Args:
        name: What the error calls the array.
        array: The array.
        dtype: The expected dtype; it is never converted, because kernels write in place.
        shape: The expected shape; None stands for any length.

    Raises:
        TypeError: It is not a NumPy array, or has another dtype.
        ValueError: It has another shape, or its elements are not contiguous (C order).

    >>> check_array("weights", np.zeros((2, 3)), np.float32, (2, None))
    Traceback (most recent call last):
    ...
    TypeError: weights has dtype float64, expected float32; convert it before the call
    """
    fits = type(array) is np.ndarray and array.dtype is np.dtype(dtype) and array.shape == shape
    if fits and array.flags.c_contiguous:  # most arrays; in small models these checks are a good part of a round
        return
    _check_dtype(name, array, dtype)
    _check_shape(name, array, shape)
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous in memory, expected C order; pass numpy.ascontiguousarray({name})")


def check_change(values: NDArray[Any], reference: NDArray[Any], residual: NDArray[Any]) -> int:
    """Check the arrays of a codec's difference x - r + e, all float32; return how many columns they have.

    Args:
        values: x, (columns,).
        reference: r, (columns,).
        residual: e, (columns,), or empty for zero.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or an array is not contiguous.
    """
    check_array("values", values, np.float32, (None,))
    columns = len(values)
    check_array("reference", reference, np.float32, (columns,))
    check_array("residual", residual, np.float32, (columns if len(residual) else 0,))
    return columns


def check_rows(name: str, array: NDArray[Any], dtype: DTypeLike, shape: Sequence[int | None]) -> None:
    """Check a matrix of which columns may have been cut out: only the elements of a row must be contiguous.

    Args:
        name: What the error calls the array.
        array: The array.
        dtype: The expected dtype.
        shape: The expected shape, (rows, columns); None stands for any length.

    Raises:
        TypeError: It is not a NumPy array, or has another dtype.
        ValueError: It has another shape, or its rows are not contiguous.
    """
    _check_dtype(name, array, dtype)
    _check_shape(name, array, shape)
    if array.flags.c_contiguous:
        return
    down, right = array.strides
    size = array.itemsize
    if array.size and ((array.shape[1] > 1 and right != size) or (array.shape[0] > 1 and (down < 0 or down % size))):
        raise ValueError(f"the rows of {name} are not contiguous in memory; pass numpy.ascontiguousarray({name})")


def address_of(array: Any) -> int:
    """Return where an array's first element is; valid only as long as the caller keeps the array.

    Args:
        array: A NumPy array, checked before.
    """
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # empty, read-only, or rows apart; this way takes seven times as long
        address: int = array.__array_interface__["data"][0]
        return address


def _check_dtype(name: str, array: NDArray[Any], dtype: DTypeLike) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}, expected a NumPy array")
    if array.dtype != dtype:
        raise TypeError(f"{name} has dtype {array.dtype}, expected {np.dtype(dtype)}; convert it before the call")


def _check_shape(name: str, array: NDArray[Any], shape: Sequence[int | None]) -> None:
    fits = len(array.shape) == len(shape)
    for length, wanted in zip(array.shape, shape, strict=False):
        fits = fits and (wanted is None or length == wanted)
    if not fits:
        lengths = ["any" if wanted is None else str(wanted) for wanted in shape]
        expected = f"({lengths[0]},)" if len(lengths) == 1 else f"({', '.join(lengths)})"
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
