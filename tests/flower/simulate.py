"""Runs a small experiment in Flower's own simulation; its test starts it as a program."""

from __future__ import annotations

import json
import sys
import warnings

from fedlama.flower.apps import client_app, server_app
from tests.flower.live import small

if __name__ == "__main__":
    from flwr.simulation import run_simulation

    warnings.simplefilter("ignore")
    folder, aggregation, *changes = sys.argv[1:]
    experiment = json.dumps(small(*changes).to_json())
    config = {"experiment": experiment, "out": f"{folder}/runs", "state-dir": f"{folder}/states"}
    config["aggregation"] = aggregation
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server_app(config=config), client_app(config=config), 4, backend_config=backend)
