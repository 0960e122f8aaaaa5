"""Compiled CPU kernels over NumPy arrays, built with Numba; never knows PyTorch, an engine or a federation."""

from fedlama.kernels.kernel import can_compile

__all__ = ["can_compile"]
