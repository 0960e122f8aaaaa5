"""FedLAMA as a Flower app."""
