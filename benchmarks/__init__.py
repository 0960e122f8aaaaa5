"""Measures fedlama against other simulators and against the machine; not part of the package."""
