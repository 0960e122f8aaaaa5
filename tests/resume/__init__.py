"""Interrupted runs that go on."""
