"""Secure aggregation: sums of masked numbers, of which the server learns the sums alone; see :mod:`.agreement`."""
