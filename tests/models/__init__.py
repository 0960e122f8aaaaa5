"""Tests of fedlama.models."""
