"""Options of a user's own, copied into a folder by the tests."""
