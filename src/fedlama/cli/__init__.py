"""The command line: reads arguments, calls the other rooms, prints; never does what Python users cannot do."""
