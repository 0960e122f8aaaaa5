"""Personal models: every client keeps a head of its own, and blends it with the global one at each download.

The local initialisation of Chen, Yang, Ren, Li and Wang, FLAYER, IJCAI 2025 (arXiv 2412.07062), equation 2. At the
beginning of a round a client of the cohort

1. takes the global value of every layer, but of layers tagged ``"head"`` a x_own + (1 - a) x_global, where a is its
   accuracy at its previous round, and 0 before its first;
2. trains the head alone for an epoch, with the solver's rate times `head_rate_factor`, by plain SGD;
3. scores its model, which gives its next a, and the score that a record calls the client's own.

Then it trains as every client does. Its head, its a, and normalisation statistics that stay on the clients are its own
for the whole run, also while other cohorts train. The head is sent up and averaged, so that others can blend with it.

The source's method is this with the solver :class:`~fedlama.choices.solvers.LayerRates`, the codec
:class:`~fedlama.choices.codecs.LayerMask` and the aggregator :class:`~fedlama.choices.aggregators.ElementMean`.

Deviations: a is measured on samples that the client holds back from its training data, where the authors' program uses
its test set, which leaks into the model; ``accuracy_from = "test"`` does the same. The program lets all clients do the
three steps in every round, also those that are not in the cohort; the paper, and this, the cohort alone, which is the
same where all clients take part. The program trains the head with the rate factors of the latest local epoch; those of
its CNN and of its fastText are 1/5 for the head (1/10 before the first round of fastText), and `head_rate_factor` is
one number for the whole head and the whole run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedlama.choices.solvers.per_client import along_clients
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse

OWN_SHARE = "own share"
"""The name under which a client keeps a among its tensors; of shape ()."""


@dataclass(frozen=True)
class Personal:
    """How clients blend and train their heads at the beginning of a round.

    Args:
        accuracy_from: The client's own set on which the accuracy a is measured: ``"validation"``, which is held back
            from its training data, or ``"test"``, only to reproduce the authors' program. A client without such samples
            takes the global head.
        own_share: A number in [0, 1] to be used in place of the accuracy; None for the accuracy.
        head_epochs: Epochs of the client's data in which the head is trained alone; 0 or more.
        head_rate_factor: Multiplies the solver's learning rate there; 0 or more.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> import torch
        >>> values = {"w": torch.tensor([[4.0]])}  # one client
        >>> blend(values, {"w": torch.tensor([8.0])}, ["w"], torch.tensor([0.25]))
        >>> values["w"]
        tensor([[7.]])
    """

    accuracy_from: Literal["validation", "test"] = "validation"
    own_share: float | None = None
    head_epochs: float = 1.0
    head_rate_factor: float = 0.2

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = one_of(self, "accuracy_from", ("validation", "test"))
        problems += at_least(self, 0, "head_epochs", "head_rate_factor")
        if self.own_share is not None:
            problems += at_least(self, 0, "own_share")
            if not problems and self.own_share > 1:
                problems.append(f"Personal: own_share is {self.own_share}, expected 1 or less; lower it")
        refuse(problems)


def blend(values: Mapping[str, Tensor], reference: Mapping[str, Tensor], names: list[str], shares: Tensor) -> None:
    """Replace the clients' tensors by a x_own + (1 - a) x_global, in place.

    Args:
        values: The clients' tensors, (clients, ...) by name.
        reference: The global values, of one client's shape.
        names: The tensors to blend.
        shares: a of each client, (clients,).
    """
    for name in names:
        head, common = values[name], reference[name]
        share = along_clients(shares, head)
        head.copy_(share * head + (1 - share) * common.to(head.device))
