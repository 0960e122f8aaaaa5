"""The structure of the source: rooms in one order, no cycles, files and functions of a size that a person can read."""
