"""How long two methods take on slow links, computed from the ledgers of their runs: nothing waits.

    python examples/08_time_on_a_link.py

The ledger holds every transfer by round, client, layer and direction, so one run can be timed on any number of links.
docs/how-to/links.md describes latency, loss, stragglers and price.
"""

import torch
from torch import nn

import fedlama as fl

torch.manual_seed(0)
digits = fl.data.digits.load()
rows = fl.data.partition.dirichlet(digits.train_y.numpy(), clients=16, seed=0, alpha=0.5)
clients = [fl.ClientData(digits.train_x[mine] / 255, digits.train_y[mine], batch_size=16) for mine in rows]
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
links = [fl.Link(f"{rate} kbit/s", up=rate * 1e3, down=rate * 1e3, compute=0.05) for rate in (50, 250, 5000)]

for strategy in (fl.FedAvg(6), fl.FedLAMA(base_interval=6, increase_factor=4)):
    result = fl.Federation(model, clients, strategy, local_steps=96).run()
    for timed in fl.clock(fl.Exchanges.of_records(result.rounds), links):
        print(f"{result.method} over {timed.link.name}: {timed.total:.1f} s, of which compute {96 * 0.05:.1f} s")
