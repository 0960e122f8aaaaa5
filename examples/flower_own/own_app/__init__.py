"""A PyTorch model of one's own under FedLAMA."""
