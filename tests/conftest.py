"""Settings of all tests.

Torch keeps to one thread here and in the processes that tests start: the models are so small that threads would only
wait for each other, for minutes on a busy machine. Hypothesis draws the same examples in every run and minds no clock,
because a busy machine is not a failure. The tests on a GPU run without Hypothesis, too.
"""

from __future__ import annotations

import os

import torch

try:
    from hypothesis import settings
except ImportError:  # on a machine with PyTorch and pytest alone
    pass
else:
    settings.register_profile("fedlama", deadline=None, derandomize=True)
    settings.load_profile("fedlama")

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
