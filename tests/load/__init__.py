"""Memory that does not grow with what has been seen."""
