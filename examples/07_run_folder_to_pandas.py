"""A run folder as a table: one row per round and layer, as a pandas DataFrame, or as a CSV file without pandas.

    fedlama run local_steps=96
    python examples/07_run_folder_to_pandas.py runs/digits

The argument is a run folder, or a folder that holds some; the last one below it is read.
"""

import csv
import sys
from pathlib import Path

import fedlama as fl

run = fl.load_run(fl.find_runs([Path(sys.argv[1] if len(sys.argv) > 1 else "runs")])[-1])
rows = [
    {
        "round": record.round_index,
        "local_steps": record.local_steps,
        "layer": name,
        "interval": layer.interval,  # in rounds
        "discrepancy": layer.unit_discrepancy,  # the paper's d_l; None where the layer was not synchronised
        "bytes_up": layer.bytes_up,
        "bytes_down": layer.bytes_down,
    }
    for record in run.rounds
    for name, layer in record.layers.items()
]
print(f"{run.title}, seed {run.seed}: {len(run.rounds)} rounds, {run.ledger.total_bytes('up')} bytes up")

try:
    import pandas
except ModuleNotFoundError:
    with Path("layers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"pandas is not installed: wrote {len(rows)} rows to layers.csv")
else:
    table = pandas.DataFrame(rows)
    print(table.groupby("layer").agg({"interval": "last", "discrepancy": "mean", "bytes_up": "sum"}))
