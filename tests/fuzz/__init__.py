"""Hostile and damaged input: every reader either accepts it or refuses it with a sentence.

``targets/`` has one file per reader. ``python -m tests.fuzz --inputs 100000`` runs them all; the test suite runs a
seeded part of the same.
"""
