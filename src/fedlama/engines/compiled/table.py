"""How a model and its parameters are written down for the compiled kernels: tables of whole numbers."""

from __future__ import annotations

LANES = 16
"""Samples in a vector."""
DENSE, CONVOLUTION, POOL, RELU = range(4)
"""Kinds of operations."""
KIND, WEIGHT, BIAS, IN, OUT, BELOW, ABOVE, FIRST_SIZE = range(8)
"""Columns of a program: the kind; the numbers of weight and bias, -1 for none; where in the scratch, per block, the
input, the output and their gradients begin; then the sizes."""
COLUMNS = 22
VALUES, VELOCITIES, ANCHOR, ELEMENTS, TRAINED = range(5)
"""Columns of a table of parameters: the addresses of the first client's values and velocities and of the anchor, 0 for
none; the elements of one client; and whether it is trained."""
