"""The process that measures: ``python -m benchmarks.gpu.worker DEVICE OPTIONS ROW ...``, started by the benchmark.

It prints one line of JSON for every row, after a mark that libraries do not print. A row that
fails answers with the error; if the device does not answer after it, the process says so and ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
import warnings
from functools import partial

import torch

from benchmarks.gpu.rows import ROWS
from benchmarks.gpu.setting import Setting, Values, flags, machine, memory, set_numbers

MARK = "GPU-ROW "


def measured(setting: Setting, name: str) -> Values:
    """Measure one row; return its values, or the error."""
    row = ROWS[name]
    set_numbers(row.numbers, setting.autotune)
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
    start = time.perf_counter()
    values: Values = {"numbers": row.numbers, "flags": flags()}
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            values |= row.measure(setting)
            values |= memory(setting.device)
        ours = [str(w.message) for w in warned if issubclass(w.category, UserWarning)]
        values |= {"warnings": list(dict.fromkeys(ours))[:5]}
    except Exception:
        values["error"] = traceback.format_exc()[-3000:]
    return values | {"row_seconds": time.perf_counter() - start}


def cleaned(setting: Setting) -> bool:
    """Free what a row has left, and return whether the device still answers."""
    try:
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        if setting.device.type == "cuda":
            torch.cuda.synchronize(setting.device)
            torch.cuda.empty_cache()
        return float(torch.ones(3, device=setting.device).sum()) == 3.0
    except Exception:
        return False


def main() -> None:
    """Measure the rows and print their values."""
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("seconds", type=float)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--no-autotune", action="store_true")
    given = parser.parse_args()
    setting = Setting(torch.device(given.device), given.tiny, given.seconds, not given.no_autotune)
    if given.tiny:  # nothing is to take long: programs are traced and not compiled
        torch.compile = partial(torch.compile, backend="eager")
    print(MARK + json.dumps({"machine": machine(setting.device)}), flush=True)
    for name in given.rows:
        values = measured(setting, name)
        broken = not cleaned(setting)
        print(MARK + json.dumps({"row": name, "values": values, "broken": broken}), flush=True)
        if broken:
            return


if __name__ == "__main__":
    main()
