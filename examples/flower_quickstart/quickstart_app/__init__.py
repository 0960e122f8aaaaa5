"""Flower's PyTorch quickstart with FedLAMA in place of FedAvg."""
