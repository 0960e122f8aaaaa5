"""Evaluation: validation, early stopping, clients' scores, callbacks."""
