#!/usr/bin/env bash
# Everything that needs a GPU, in under 8 minutes and without an installation: the tests of tests/gpu, then the benchmark.
#   benchmarks/gpu.sh [FOLDER]      writes tests.txt, rows.txt and gpu.json there (default: runs/gpu)
# PYTHON names the interpreter, with PyTorch and pytest. Both parts run whatever the other gives; the status is the tests'.
set -uo pipefail
out=$(realpath -m "${1:-runs/gpu}")
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"

timeout --kill-after=5 170 "${PYTHON:-python3}" -m pytest tests/gpu -m gpu -rsfE --tb=short --durations=10 \
  -p no:cacheprovider 2>&1 | tee "$out/tests.txt"
status=$?
timeout --kill-after=5 300 "${PYTHON:-python3}" -m benchmarks.gpu --output "$out/gpu.json" 2>&1 | tee "$out/rows.txt"
exit "$status"
