"""Guards against poisoned updates."""
