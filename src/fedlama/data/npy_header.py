"""What a .npy array says of itself, read without believing it."""

from __future__ import annotations

import numpy as np

from fedlama.data.files import Readable
from fedlama.errors import DataError, cut, shown

_HEADER_LIMIT = 4096
_DIMENSIONS, _LONGEST = 8, 1 << 40


def read_header(stream: Readable, where: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Read the header of an array of plain numbers.

    Args:
        stream: At the beginning of the array; afterwards at its first element.
        where: What to call it in messages.

    Returns:
        Shape, whether the elements stand in Fortran's order, and type. Compare them with the bytes that are really
        there before taking memory for as many.

    Raises:
        DataError: It is no .npy array, or one of objects, or its shape is beyond reason.
    """
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[version](stream, max_header_size=_HEADER_LIMIT)
    # NumPy parses the header as Python text, which fails in as many ways as there are to misspell Python.
    except Exception as error:
        raise DataError(f"{where} is not a plain .npy array ({cut(error)}); write it again with numpy.savez") from error
    if dtype.kind not in "uifb" or len(shape) > _DIMENSIONS or not all(0 <= size <= _LONGEST for size in shape):
        raise DataError(f"{where} is {dtype} {shown(shape)}, expected integers or floats; objects are never read")
    return shape, fortran, dtype
