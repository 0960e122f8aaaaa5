"""Your own PyTorch model under FedLAMA."""
