"""How the average enters the global model: one server optimizer per file."""

from fedlama.choices.server_optimizers.adagrad import ServerAdagrad
from fedlama.choices.server_optimizers.adam import ServerAdam
from fedlama.choices.server_optimizers.base import ServerOptimizer, ServerOptimizerState
from fedlama.choices.server_optimizers.feddyn import ServerFedDyn
from fedlama.choices.server_optimizers.momentum import ServerMomentum
from fedlama.choices.server_optimizers.nesterov import ServerNesterov
from fedlama.choices.server_optimizers.replace import Replace
from fedlama.choices.server_optimizers.yogi import ServerYogi

__all__ = [
    "Replace",
    "ServerAdagrad",
    "ServerAdam",
    "ServerFedDyn",
    "ServerMomentum",
    "ServerNesterov",
    "ServerOptimizer",
    "ServerOptimizerState",
    "ServerYogi",
]
