"""A language model of characters, compared by perplexity; sentences of different lengths are padded.

    python examples/13_language_model.py

Every client speaks its own dialect of a small language. Positions after the end of a sentence have the label -100 and
do not count. It takes some seconds and needs no download.
"""

import random

import torch
from torch import Tensor, nn

import fedlama as fl

torch.manual_seed(0)
ALPHABET = " abcdefghijklmnopqrstuvwxyz"
NAMES, VERBS = ["the cat", "a dog", "the old man"], ["sees", "likes", "finds"]


class Model(nn.Module):
    """A recurrent network that predicts the next character at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(len(ALPHABET), 24), nn.RNN(24, 48, batch_first=True)
        self.head = nn.Linear(48, len(ALPHABET))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits, (batch, positions, characters)."""
        logits: Tensor = self.head(self.recurrent(self.embedding(input_ids))[0])
        return logits


def sentences(count: int, dialect: int) -> dict[str, Tensor]:
    """Return padded sentences, (count, positions): the tokens, and the same as labels."""
    draw, tokens = random.Random(dialect), []
    for _ in range(count):
        text = f"{draw.choice(NAMES)} {draw.choice(VERBS)} {NAMES[dialect % 3]}".ljust(29)[: draw.randint(20, 29)]
        tokens.append(torch.tensor([ALPHABET.index(character) for character in text]))
    whole = {"input_ids": torch.zeros(29, dtype=torch.int64), "labels": torch.full((29,), -100)}  # the longest
    padded = fl.pad([whole, *({"input_ids": t, "labels": t} for t in tokens)], fill={"labels": -100})
    return {name: value[1:] for name, value in padded.items()}


federation = fl.Federation(
    model=Model(),
    clients=[fl.ClientData(sentences(40, dialect), None, batch_size=8) for dialect in range(6)],
    strategy=fl.FedLAMA(base_interval=5, increase_factor=2),
    local_steps=100,
    solver=fl.SGD(learning_rate=0.3, momentum=0.9),
    task=fl.LanguageModel(),
    test_set=fl.TestSet(sentences(60, 7)),
    engine="workers",
)
result = federation.run()
assert result.score is not None
print(f"perplexity {result.score.value:.2f} of {len(ALPHABET)} characters")
print(f"next characters that are right: {result.score.accuracy:.1%}")
