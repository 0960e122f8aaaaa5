"""Same seed, same bits."""
