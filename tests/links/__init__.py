"""Time on a link: the clock by hand, the units, the profiles, and runs read back."""
