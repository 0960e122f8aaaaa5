"""Tests of the core: strategies, solvers, codecs, the driver, the loop engine, the wire format and the ledger."""
