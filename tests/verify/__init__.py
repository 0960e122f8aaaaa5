"""`fedlama verify`."""
