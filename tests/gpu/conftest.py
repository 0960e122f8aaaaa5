"""Fixtures of the tests on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def plain_numbers() -> Iterator[None]:
    """Products in float32 without TF32, and algorithms of cuDNN that repeat their bits."""
    dense, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = dense.allow_tf32, convolution.allow_tf32, convolution.deterministic, convolution.benchmark
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch announce other names of these flags
        dense.allow_tf32, convolution.allow_tf32 = False, False
        convolution.deterministic, convolution.benchmark = True, False
        yield
        dense.allow_tf32, convolution.allow_tf32, convolution.deterministic, convolution.benchmark = before
