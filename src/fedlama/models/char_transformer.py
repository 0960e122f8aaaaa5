"""A small causal transformer that predicts the next character at every position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers
from fedlama.errors import ConfigError
from fedlama.models.base import DatasetLike


class CausalAttention(nn.Module):
    """Multi-head self-attention in which no position sees a later one.

    Args:
        width: Features of each position.
        heads: Attention heads; must divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    @property
    def attention_parts(self) -> tuple[str, int, str] | None:
        """Names of the layers before and after the heads, and how many heads; None if a subclass computes otherwise.

        It says that the module is causal self-attention: the first layer makes all queries, then all keys, then all
        values, each head by head; scores are divided by the root of a head's features. Compiled kernels ask for it.
        """
        unchanged = type(self).forward is CausalAttention.forward
        return ("query_key_value", self.heads, "output") if unchanged else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) to (B, T, width)."""
        batch, time, width = x.shape
        split = self.query_key_value(x).reshape(batch, time, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, time, width / heads)
        # Written out, because the fused kernel has no batching rule: vmap over clients would fall back to a loop.
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)  # (batch, heads, time, time)
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, time, width)  # (batch, time, width)
        result: Tensor = self.output(mixed)
        return result


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each after a layer norm and added to its input.

    Args:
        width: Features of each position.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.dense1 = nn.Linear(width, 4 * width)
        self.dense2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) to (B, T, width)."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.dense2(functional.gelu(self.dense1(self.norm2(x))))
        return x + y


class CharTransformer(nn.Module):
    """Token and position embeddings, pre-norm blocks, and a dense layer to the vocabulary.

    Args:
        vocabulary: Number of characters V.
        sequence_length: Length of the longest sequence.
        width: Features of each position.
        blocks: Transformer blocks.
        heads: Attention heads per block; must divide ``width``.

    Inputs are int64 (B, T) with T <= sequence_length, outputs logits (B, T, V).

    Raises:
        ConfigError: If a size is below 1 or the heads do not divide the width.

    Source: Vaswani et al., NeurIPS 2017, decoder only, layer norm first (Radford et al., 2019). Initialisation:
    normal with deviation 0.02, smaller by sqrt(2 * blocks) where a block adds to its input, zero biases. No dropout.
    """

    def __init__(
        self, vocabulary: int, sequence_length: int = 80, width: int = 64, blocks: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        _check(vocabulary, sequence_length, width, blocks, heads)
        self.characters = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(sequence_length, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Linear(width, vocabulary)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                adds = name.endswith(("attention.output", "dense2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * blocks) if adds else 0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map characters (B, T) to logits of the next one (B, T, V)."""
        position = torch.arange(x.shape[1], device=x.device)
        hidden = self.characters(x) + self.positions(position)  # (batch, time, width)
        logits: Tensor = self.dense(self.norm(self.blocks(hidden)))
        return logits


def _check(vocabulary: int, sequence_length: int, width: int, blocks: int, heads: int) -> None:
    sizes = {
        "vocabulary": vocabulary,
        "sequence_length": sequence_length,
        "width": width,
        "blocks": blocks,
        "heads": heads,
    }
    problems = [f"{name} is {size}, expected at least 1" for name, size in sizes.items() if size < 1]
    if not problems and width % heads:
        problems.append(f"width {width} is not a multiple of {heads} heads; change one of them")
    if problems:
        raise ConfigError(problems)


def char_transformer(
    vocabulary: int, sequence_length: int = 80, width: int = 64, blocks: int = 2, heads: int = 4
) -> CharTransformer:
    """Build a character transformer; see `CharTransformer`."""
    return CharTransformer(vocabulary, sequence_length, width, blocks, heads)


@register("model")
@dataclass(frozen=True)
class CharTransformerSettings:
    """A small causal transformer over characters.

    Args:
        width: Features of each position.
        blocks: Transformer blocks.
        heads: Attention heads per block.
    """

    name: ClassVar[str] = "char-transformer"
    width: int = 64
    blocks: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        normalise_numbers(self)

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Build the network; see :meth:`fedlama.models.base.Architecture.build`."""
        if dataset.train_y.ndim != 2:
            raise ConfigError(
                "model 'char-transformer' continues sequences, but the data have one label per row; use data 'text'"
            )
        length = dataset.train_x.shape[1]
        return char_transformer(dataset.outputs, length, self.width, self.blocks, self.heads)
