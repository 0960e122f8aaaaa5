"""Every client's step recorded once and replayed: for GPUs, where starting kernels would take longer than they run."""
