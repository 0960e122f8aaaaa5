"""The contract of the `[model]` section: settings that build a network for a data set."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor, nn

from fedlama.errors import ConfigError


class DatasetLike(Protocol):
    """What a model may look at before it is built; :class:`fedlama.data.Dataset` has all of it."""

    @property
    def name(self) -> str:
        """The data set's name, for messages."""

    @property
    def train_x(self) -> Tensor:
        """Training inputs, (rows, ...)."""

    @property
    def train_y(self) -> Tensor:
        """Training labels, int64 (rows,), or (rows, positions) for sequences; or measurements, float32."""

    @property
    def classes(self) -> int:
        """Number of labels; 0 where the targets are measurements."""

    @property
    def outputs(self) -> int:
        """Number of values that the model returns: one for each label, or for each measurement."""


class Architecture(Protocol):
    """Settings that can build a network. An implementation is a frozen dataclass whose fields are the settings."""

    name: ClassVar[str]

    def build(self, dataset: DatasetLike) -> nn.Module:
        """Return a new network with initial weights.

        Args:
            dataset: The data set it will be trained on.

        Returns:
            A network from batches of `train_x`'s rows to logits (batch, classes). Initial weights are drawn from
            torch's global generator, which the caller seeds.

        Raises:
            ConfigError: The data set has another shape than the network takes.
        """


def expect_shape(model: str, dataset: DatasetLike, shape: tuple[int, ...]) -> None:
    """Refuse a data set whose rows have another shape.

    Args:
        model: Name of the model.
        dataset: The data set.
        shape: Shape of one input row.

    Raises:
        ConfigError: The shapes differ.
    """
    given = tuple(dataset.train_x.shape[1:])
    if given != shape:
        raise ConfigError(
            f"model {model!r} takes images of shape {shape}, the data set {dataset.name!r} has {given}; "
            "choose 'small-cnn' or 'mlp', or other data"
        )
