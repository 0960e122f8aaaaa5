"""Units of printed sizes."""

MEGABYTE = 1_000_000
"""Bytes."""
