"""How a client trains: one local solver per file."""

from fedlama.solvers.base import LocalSolver, Memory
from fedlama.solvers.fedprox import FedProx
from fedlama.solvers.sgd import SGD

__all__ = ["SGD", "FedProx", "LocalSolver", "Memory"]
