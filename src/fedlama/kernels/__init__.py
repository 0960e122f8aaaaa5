"""Compiled kernels for local training and for synchronisation on a CPU; needs Numba. Nothing here imports PyTorch."""

from fedlama.kernels.kernel import can_compile

__all__ = ["can_compile"]
