"""Whole rounds of local work as one compiled call per client: the fastest way on a CPU for the models it knows.

Needs Numba, the extra ``fast``; without it the other trainers do the same. Only the modules that are imported lazily
by :mod:`~fedlama.engines.compiled.trainer` ask for it.
"""

from fedlama.engines.compiled.kernel import can_compile
from fedlama.engines.compiled.trainer import CompiledTrainer, compiled_form

__all__ = ["CompiledTrainer", "can_compile", "compiled_form"]
