"""Codecs with a reference, a state and random numbers: their arithmetic, and every engine that applies them."""
