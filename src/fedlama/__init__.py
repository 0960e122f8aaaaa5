"""Communication-efficient federated learning: layer-wise schedules, honest byte accounting, fast simulation."""

from fedlama.choices.aggregators import Mean, Median, NormBound, TrimmedMean
from fedlama.choices.availability import Absence, Always, RandomAbsence, Trace
from fedlama.choices.codecs import Float16, Float32
from fedlama.choices.samplers import AllClients, UniformSampler
from fedlama.choices.server_optimizers import Replace, ServerAdam, ServerMomentum
from fedlama.choices.solvers import SGD, FedProx
from fedlama.choices.strategies import Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals
from fedlama.core.layers import Layer, Layers, by_mapping, by_module, by_tensor
from fedlama.core.ledger import Ledger
from fedlama.core.records import LayerRecord, Result, RoundRecord
from fedlama.data.clients import ClientData, ClientSource, ReplayedClients, TensorClients
from fedlama.errors import ConfigError, DataError, DivergenceError, FedlamaError, MissingExtraError
from fedlama.federation.evaluation import Score, TestSet
from fedlama.federation.federation import Federation, Run

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
    "Mean",
    "Median",
    "MissingExtraError",
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
