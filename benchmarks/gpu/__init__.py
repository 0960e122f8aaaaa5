"""Measure everything that a GPU is used for, in one run of a few minutes: ``python -m benchmarks.gpu``.

A row is one measurement (:mod:`benchmarks.gpu.rows` lists them in order of importance). Rows run one after another in a
second process, so that a row that crashes, or that takes longer than its limit, costs itself and no other. The results
are written after every row, so a run that is cut short keeps what it has measured.
"""
