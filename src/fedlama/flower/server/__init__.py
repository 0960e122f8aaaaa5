"""The server's side: the engine and what it needs."""
