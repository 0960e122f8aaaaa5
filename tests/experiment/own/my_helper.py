"""What the options of a user share."""

HIDDEN = 6
