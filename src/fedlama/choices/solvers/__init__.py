"""How a client trains: one local solver per file, and what all of them share."""

from fedlama.choices.solvers.adam import Adam, AdamW
from fedlama.choices.solvers.base import LocalSolver, OptimizerState
from fedlama.choices.solvers.clipping import Clipping
from fedlama.choices.solvers.exchanged import Exchanged, server_value_of
from fedlama.choices.solvers.feddyn import FedDyn
from fedlama.choices.solvers.fedlamb import FedAMS, FedLAMB
from fedlama.choices.solvers.fedprox import FedProx
from fedlama.choices.solvers.fedrep import FedRep
from fedlama.choices.solvers.groups import ParameterGroup
from fedlama.choices.solvers.layer_rates import LayerRates
from fedlama.choices.solvers.mimelamb import MimeLAMB
from fedlama.choices.solvers.options import SolverOptions
from fedlama.choices.solvers.per_client import along_clients, client_norms, tensor_norms
from fedlama.choices.solvers.scaffold import Scaffold
from fedlama.choices.solvers.schedule import Schedule
from fedlama.choices.solvers.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Clipping",
    "Exchanged",
    "FedAMS",
    "FedDyn",
    "FedLAMB",
    "FedProx",
    "FedRep",
    "LayerRates",
    "LocalSolver",
    "MimeLAMB",
    "OptimizerState",
    "ParameterGroup",
    "Scaffold",
    "Schedule",
    "SolverOptions",
    "along_clients",
    "client_norms",
    "server_value_of",
    "tensor_norms",
]
