"""Communication-efficient federated learning: layer-wise schedules, honest byte accounting, fast simulation."""

from fedlama.availability import Absence, Always, RandomAbsence, Trace
from fedlama.clients import ClientData, ClientSource, ReplayedClients, TensorClients
from fedlama.codecs import Float16, Float32
from fedlama.errors import ConfigError, DataError, DivergenceError, FedlamaError, MissingExtraError
from fedlama.evaluation import Score, TestSet
from fedlama.federation import Federation, Run
from fedlama.guards import Median, NoGuard, NormBound, TrimmedMean
from fedlama.layers import Layer, Layers, by_mapping, by_module, by_tensor
from fedlama.ledger import Ledger
from fedlama.records import LayerRecord, Result, RoundRecord
from fedlama.samplers import AllClients, UniformSampler
from fedlama.server_steps import Replace, ServerAdam, ServerMomentum
from fedlama.solvers import SGD, FedProx
from fedlama.strategies import Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Absence",
    "AllClients",
    "Always",
    "ClientData",
    "ClientSource",
    "ConfigError",
    "Cyclic",
    "DataError",
    "DivergenceError",
    "FedAvg",
    "FedLAMA",
    "FedLUAR",
    "FedProx",
    "Federation",
    "FedlamaError",
    "FixedIntervals",
    "Float16",
    "Float32",
    "Layer",
    "LayerRecord",
    "Layers",
    "Ledger",
    "Median",
    "MissingExtraError",
    "NoGuard",
    "NormBound",
    "RandomAbsence",
    "Replace",
    "ReplayedClients",
    "Result",
    "RoundRecord",
    "Run",
    "Score",
    "ServerAdam",
    "ServerMomentum",
    "TensorClients",
    "TestSet",
    "Trace",
    "TrimmedMean",
    "UniformSampler",
    "by_mapping",
    "by_module",
    "by_tensor",
]
