"""The `[data]` section of an experiment: which data set, read from where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from fedlama.data import cifar, digits, huggingface, idx, leaf, mnist_writers, npz_folder, text
from fedlama.data.arrays import Dataset


class DataSource(Protocol):
    """Settings that can load a data set."""

    name: ClassVar[str]

    def load(self) -> Dataset:
        """Read it; raises DataError when that fails."""


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8x8, embedded in the package: nothing to download."""

    name: ClassVar[str] = "digits"

    def load(self) -> Dataset:
        """Read the embedded file."""
        return digits.load()


@dataclass(frozen=True)
class Idx:
    """MNIST, Fashion-MNIST or EMNIST in their own idx files.

    Args:
        path: Folder with the files.
        split: None, or EMNIST's split such as ``"byclass"``.
    """

    name: ClassVar[str] = "idx"
    path: Path
    split: str | None = None

    def load(self) -> Dataset:
        """Read the files."""
        return idx.load(self.path, self.split)


@dataclass(frozen=True)
class MnistWriters:
    """MNIST with the writer of each digit from QMNIST's table, a natural federated split.

    Args:
        path: Folder with MNIST's files.
        table: Folder with QMNIST's tables; None to look below `path`.
    """

    name: ClassVar[str] = "mnist-writers"
    path: Path
    table: Path | None = None

    def load(self) -> Dataset:
        """Read both."""
        return mnist_writers.load(self.path, self.table)


@dataclass(frozen=True)
class Cifar:
    """CIFAR-10 or CIFAR-100, binary or python version.

    Args:
        path: Folder of the unpacked archive, or one that contains it.
        classes: 10 or 100.
        complete: Expect all 60,000 images; false takes a part.
    """

    name: ClassVar[str] = "cifar"
    path: Path
    classes: Literal[10, 100] = 10
    complete: bool = True

    def load(self) -> Dataset:
        """Read the files."""
        return cifar.load(self.path, self.classes, complete=self.complete)


@dataclass(frozen=True)
class Leaf:
    """LEAF's FEMNIST json files.

    Args:
        path: Folder with ``train`` and ``test``.
    """

    name: ClassVar[str] = "leaf"
    path: Path

    def load(self) -> Dataset:
        """Read the files."""
        return leaf.load(self.path)


@dataclass(frozen=True)
class Arrays:
    """A folder with ``train.npz`` and ``test.npz``.

    Args:
        path: The folder.
        classes: Number of classes; None for the largest label plus one.
        channels_last: Whether images are (N, H, W, C).
    """

    name: ClassVar[str] = "npz"
    path: Path
    classes: int | None = None
    channels_last: bool = False

    def load(self) -> Dataset:
        """Read the arrays."""
        return npz_folder.load(self.path, self.classes, channels_last=self.channels_last)


@dataclass(frozen=True)
class Text:
    """A text of speeches such as tinyshakespeare, to be continued character by character.

    Args:
        path: The text file, or a folder with ``input.txt``.
        sequence_length: Characters per sample.
    """

    name: ClassVar[str] = "text"
    path: Path
    sequence_length: int = 80

    def load(self) -> Dataset:
        """Read and cut the text."""
        return text.load(self.path, self.sequence_length)


@dataclass(frozen=True)
class HuggingFace:
    """A Hugging Face data set by name (extra ``datasets``).

    Args:
        dataset: Its name, or a folder it was saved to.
        image: Column of the inputs; None to find it.
        label: Column of the labels; None to find it.
        group: Column that tells the natural client.
    """

    name: ClassVar[str] = "huggingface"
    dataset: str
    image: str | None = None
    label: str | None = None
    group: str | None = None

    def load(self) -> Dataset:
        """Load it through the library."""
        return huggingface.load(self.dataset, image=self.image, label=self.label, group=self.group)
