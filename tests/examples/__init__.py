"""The scripts of examples/ run, and what they print is right."""
