"""Trackers: what they write, offline, and what they say when something is missing."""
