"""For apps that have a Flower strategy already: FedLAMA in its place, with a mod around the ClientApp."""
