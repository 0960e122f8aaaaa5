"""How the average enters the global model: one server optimizer per file."""

from fedlama.choices.server_optimizers.adam import ServerAdam
from fedlama.choices.server_optimizers.base import ServerOptimizer, ServerOptimizerState
from fedlama.choices.server_optimizers.momentum import ServerMomentum
from fedlama.choices.server_optimizers.nesterov import ServerNesterov
from fedlama.choices.server_optimizers.replace import Replace

__all__ = ["Replace", "ServerAdam", "ServerMomentum", "ServerNesterov", "ServerOptimizer", "ServerOptimizerState"]
