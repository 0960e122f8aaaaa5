"""The ServerApp: the run's experiment, driven by fedlama."""

from fedlama.flower.apps import server_app

app = server_app()
