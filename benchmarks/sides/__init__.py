"""What is measured: one side per file, each with ``measure(workload, seconds) -> seconds of every round``."""
