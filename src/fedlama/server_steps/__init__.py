"""How the average enters the global model: one server step per file."""

from fedlama.server_steps.adam import ServerAdam
from fedlama.server_steps.base import ServerMemory, ServerStep
from fedlama.server_steps.momentum import ServerMomentum
from fedlama.server_steps.replace import Replace

__all__ = ["Replace", "ServerAdam", "ServerMemory", "ServerMomentum", "ServerStep"]
