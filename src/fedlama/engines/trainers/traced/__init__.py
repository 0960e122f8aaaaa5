"""A client's step as a list of operations that was recorded once and runs without Python; with the same bits."""
