"""What a round is made of: layers, plan, ledger, records, randomness; never trains and never reads a run folder."""
