"""How a client trains: one local solver per file."""

from fedlama.choices.solvers.base import LocalSolver, OptimizerState
from fedlama.choices.solvers.fedprox import FedProx
from fedlama.choices.solvers.sgd import SGD

__all__ = ["SGD", "FedProx", "LocalSolver", "OptimizerState"]
