"""The ServerApp: runs the experiment with fedlama."""

from fedlama.flower.apps import server_app

app = server_app()
