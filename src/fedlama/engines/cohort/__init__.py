"""The cohort's state as stacked tensors, its mini-batches, and its synchronisation."""
