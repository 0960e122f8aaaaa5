"""Robust aggregators against poisoned updates."""
