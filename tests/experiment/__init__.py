"""Experiments end to end: settings, run folders, forecasts, formats, the Python API."""
