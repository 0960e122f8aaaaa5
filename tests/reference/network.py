"""A dense network written out by hand: ReLU between the layers, softmax cross-entropy from the logits."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating]
"""float32 or float64, the same throughout a run."""

Model: TypeAlias = list[Array]
"""The variables in order: kernel 1 (in, out), bias 1 (out,), kernel 2, bias 2, ..."""

Batch: TypeAlias = tuple[Array, npt.NDArray[np.integer]]
"""Inputs (batch, features) and integer labels (batch,)."""


def random_model(widths: list[int], seed: int, dtype: type[np.floating] = np.float64) -> Model:
    """Glorot-uniform kernels and zero biases for the layer widths, input first."""
    rng = np.random.default_rng(seed)
    model: Model = []
    for fan_in, fan_out in pairwise(widths):
        limit = np.sqrt(6.0 / (fan_in + fan_out))
        model += [rng.uniform(-limit, limit, (fan_in, fan_out)).astype(dtype), np.zeros(fan_out, dtype)]
    return model


def activations(model: Model, inputs: Array) -> list[Array]:
    """The input of every dense layer in order, and the logits last."""
    values = [inputs]
    for index in range(0, len(model), 2):
        output = values[-1] @ model[index] + model[index + 1]
        values.append(output if index == len(model) - 2 else np.maximum(output, 0))
    return values


def cross_entropy(logits: Array, labels: npt.NDArray[np.integer]) -> float:
    """Mean over the batch of log(sum_c exp z_c) - z_label."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_partition = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_partition - shifted[np.arange(len(labels)), labels]))


def loss_and_gradient(model: Model, batch: Batch) -> tuple[float, Model]:
    """The mean cross-entropy of a batch and its gradient in every variable, by backpropagation."""
    inputs, labels = batch
    values = activations(model, inputs)
    error = softmax(values[-1])
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)  # d loss / d logits
    gradient: Model = []
    for index in range(len(model) - 2, -1, -2):
        layer_input = values[index // 2]
        gradient = [layer_input.T @ error, error.sum(axis=0), *gradient]
        error = (error @ model[index].T) * (layer_input > 0)  # unused after the first layer
    return cross_entropy(values[-1], labels), gradient


def softmax(logits: Array) -> Array:
    """Class probabilities, row by row."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
