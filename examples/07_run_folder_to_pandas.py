"""A run folder as a table: one row per round and layer, as a pandas DataFrame, or as a CSV file without pandas.

    fedlama run local_steps=96
    python examples/07_run_folder_to_pandas.py runs/digits

The argument is a run folder, or a folder that holds some; the last one below it is read.
"""

import sys
from pathlib import Path

import fedlama as fl

run = fl.load_run(fl.find_runs([Path(sys.argv[1] if len(sys.argv) > 1 else "runs")])[-1])
print(f"{run.title}, seed {run.seed}: {len(run.rounds)} rounds, {run.ledger.total_bytes('up')} bytes up")

rows = run.layers  # run.metrics and run.ledger.table() are tables too
try:
    table = rows.to_pandas()
except fl.MissingExtraError:
    rows.to_csv("layers.csv")
    print(f"pandas is not installed: wrote {len(rows)} rows to layers.csv")
else:
    print(table.groupby("layer").agg({"interval": "last", "unit_discrepancy": "mean", "bytes_up": "sum"}))
