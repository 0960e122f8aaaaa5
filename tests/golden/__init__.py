"""Recorded trajectories of other programs, to replay and compare with; see README.md."""
