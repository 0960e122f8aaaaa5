"""A client with the user's own model and training function."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from fedlama import Federation, FedLAMA, Run
from fedlama.flower import Flower
from fedlama.flower.client.function import FunctionTrainer
from fedlama.flower.client.respond import respond
from fedlama.flower.client.trainer import LocalRound
from fedlama.flower.protocol import TrainReply, TrainRequest
from fedlama.flower.server.nodes import RemoteClients
from tests.core.helpers import Normed, skewed_clients
from tests.flower.cases import QUICK
from tests.flower.in_process import InProcessChannel


class OwnFunction(InProcessChannel):
    """Clients that train with plain PyTorch."""

    def _reply(self, client: int, request: TrainRequest) -> TrainReply:
        own = skewed_clients()[client]

        def train(model: nn.Module, local_round: LocalRound) -> float:
            assert local_round.client == client
            optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(local_round.steps_done, local_round.steps_done + local_round.steps):
                rows = torch.arange(step * 5, step * 5 + 5) % len(own.x)
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(model(own.x[rows]), own.y[rows])
                loss.backward()
                optimiser.step()
            return float(loss.detach())

        return respond(request, FunctionTrainer(Normed(), train, len(own.x)), self.path(client))


def test_a_training_function_is_all_it_takes(tmp_path: Path) -> None:
    model = Normed()
    federation = Federation(copy.deepcopy(model), RemoteClients([10, 15, 20, 25]), FedLAMA(3, 2), local_steps=36)
    channel = OwnFunction(lambda: None, 4, tmp_path)  # type: ignore[arg-type, return-value]
    channel._setup = _Samples  # type: ignore[assignment]
    run = Run(Federation(**{**vars(federation), "engine": Flower(channel, QUICK)}))
    result = run.to_end([])
    assert result.rounds[-1].loss < result.rounds[0].loss
    held = [layer for record in result.rounds[2:] for layer in record.layers.values() if not layer.synchronised]
    assert held


class _Samples:
    clients = RemoteClients([10, 15, 20, 25])
