"""Tests of the compiled kernels: the door, each kernel, checked mode."""
