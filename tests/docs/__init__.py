"""The documentation: its commands and code run, what it names exists, and the site builds without a warning."""
