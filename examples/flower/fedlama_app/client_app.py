"""The ClientApp: one client of the experiment, which keeps its model between rounds."""

from fedlama.flower.apps import client_app

app = client_app()
