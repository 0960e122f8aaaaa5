"""Methods by seeds: intervals, paired differences, reuse of what is done, command lines that reproduce a row."""
