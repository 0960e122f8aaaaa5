"""Chains as compiled kernels, sixteen samples in a vector: the fastest way for small models on a CPU.

Needs Numba, the extra ``fast``; without it :mod:`fedlama.engines.chain` does the same. Only the modules that are
imported lazily by :mod:`~fedlama.engines.compiled.trainer` ask for it.
"""

from fedlama.engines.compiled.kernel import can_compile
from fedlama.engines.compiled.trainer import CompiledTrainer, compiled_trainer

__all__ = ["CompiledTrainer", "can_compile", "compiled_trainer"]
