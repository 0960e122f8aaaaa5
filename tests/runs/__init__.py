"""Runs of federations that are built in Python."""
