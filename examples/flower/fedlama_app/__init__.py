"""FedLAMA: A Flower app."""
