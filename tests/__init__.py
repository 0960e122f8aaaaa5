"""Tests of fedlama."""
