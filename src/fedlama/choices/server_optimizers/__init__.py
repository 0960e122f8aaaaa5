"""How the average enters the global model: one server step per file."""

from fedlama.choices.server_optimizers.adam import ServerAdam
from fedlama.choices.server_optimizers.base import Replace, ServerOptimizer, ServerOptimizerState
from fedlama.choices.server_optimizers.momentum import ServerMomentum

__all__ = ["Replace", "ServerAdam", "ServerMomentum", "ServerOptimizer", "ServerOptimizerState"]
