"""Whole deployments: on a server, on this machine, and Flower's own programs as child processes."""
