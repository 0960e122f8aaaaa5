"""The six data sets of the LEAF benchmark: what is in a user's lists ``x`` and ``y``, and the tensors it becomes.

Each set is one small class with ``inputs`` and ``targets`` of one user. Words are numbered by how often they occur in
the training part.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlama.core.losses import IGNORED
from fedlama.core.paths import expanded
from fedlama.data.picture_files import read_picture
from fedlama.errors import DataError, cut

PIXELS = 28 * 28
PADDING, UNKNOWN = 0, 1
"""Numbers of the place after a text's last word, and of words that are not in the vocabulary."""
_FIRST_WORD = 2
_WORD = re.compile(r"[\w']+|[.,!?;]")
_TWEET = 4
"""Position of the text in a row of Sentiment140: id, date, query, user, text."""
Array = NDArray[Any]


class User(NamedTuple):
    """One user's lists.

    Attributes:
        where: File and user, for messages.
        x: The samples.
        y: Their labels.
    """

    where: str
    x: list[Any]
    y: list[Any]


class LeafSet(Protocol):
    """What the users' lists hold."""

    title: ClassVar[str]
    counted: ClassVar[bool]
    """Whether ``num_samples`` is the length of the lists; in the Reddit set it is that of all parts."""

    def classes(self) -> tuple[int | None, tuple[str, ...]]:
        """Return the number of classes, None to count them, and their names."""

    def rows(self, user: User) -> tuple[Array, Array]:
        """Return a user's inputs and targets, (rows, ...).

        Raises:
            DataError: The lists hold something else.
        """


@dataclass(frozen=True)
class Femnist:
    """Handwritten characters: lists of 784 numbers in [0, 1], where 1 is white paper; 62 classes."""

    title: ClassVar[str] = "femnist"
    counted: ClassVar[bool] = True

    def classes(self) -> tuple[int | None, tuple[str, ...]]:
        """Return the 62 classes: digits, capitals and small characters."""
        return 62, ()

    def rows(self, user: User) -> tuple[Array, Array]:
        """Return float32 (rows, 1, 28, 28) and int64 (rows,)."""
        x = _numbers(user, user.x, PIXELS, "images")
        return x.reshape(-1, 1, 28, 28), _integers(user)


@dataclass(frozen=True)
class Synthetic:
    """Vectors of numbers.

    Args:
        features: Numbers of each vector.
    """

    title: ClassVar[str] = "synthetic"
    counted: ClassVar[bool] = True
    features: int

    def classes(self) -> tuple[int | None, tuple[str, ...]]:
        """Return that the classes are counted."""
        return None, ()

    def rows(self, user: User) -> tuple[Array, Array]:
        """Return float32 (rows, features) and int64 (rows,)."""
        return _numbers(user, user.x, self.features, "vectors"), _integers(user)


@dataclass(frozen=True)
class Shakespeare:
    """Eighty characters, and the one that follows.

    Args:
        characters: All characters of the files, in code-point order.
    """

    title: ClassVar[str] = "shakespeare"
    counted: ClassVar[bool] = True
    characters: str

    def classes(self) -> tuple[int | None, tuple[str, ...]]:
        """Return the characters."""
        return len(self.characters), tuple(self.characters)

    def rows(self, user: User) -> tuple[Array, Array]:
        """Return int64 (rows, 80), twice: only the last position has a target, the character that follows."""
        texts = [*user.x, *user.y]
        lengths = {len(text) if isinstance(text, str) else -1 for text in user.x}
        following = {len(text) if isinstance(text, str) else -1 for text in user.y}
        if len(lengths) > 1 or -1 in lengths or following - {1}:
            raise DataError(
                f"{user.where}: expected texts of one length in 'x' and one character for each in 'y'; write the file "
                "again"
            )
        numbers = {character: number for number, character in enumerate(self.characters)}
        ids = np.array([numbers[character] for character in "".join(texts)], dtype=np.int64)
        length = max(lengths, default=0)
        x = ids[: len(user.x) * length].reshape(len(user.x), length)
        y = np.full_like(x, IGNORED)
        y[:, -1:] = ids[len(user.x) * length :, None]
        return x, y


@dataclass(frozen=True)
class Sent140:
    """Tweets, and whether their mood is good.

    Args:
        vocabulary: Number of each word.
        words: Words of a tweet that are read.
    """

    title: ClassVar[str] = "sent140"
    counted: ClassVar[bool] = True
    vocabulary: dict[str, int]
    words: int

    def classes(self) -> tuple[int | None, tuple[str, ...]]:
        """Return the two moods."""
        return 2, ("negative", "positive")

    def rows(self, user: User) -> tuple[Array, Array]:
        """Return int64 (rows, words) and int64 (rows,)."""
        x = np.full((len(user.x), self.words), PADDING, dtype=np.int64)
        for row, text in enumerate(tweets(user)):
            ids = [self.vocabulary.get(word, UNKNOWN) for word in _WORD.findall(text)[: self.words]]
            x[row, : len(ids)] = ids
        return x, _integers(user)


@dataclass(frozen=True)
class Reddit:
    """Comments in sequences of ten words, each with the words that follow.

    Args:
        vocabulary: Number of each word.
        length: Words of a sequence.
    """

    title: ClassVar[str] = "reddit"
    counted: ClassVar[bool] = False
    vocabulary: dict[str, int]
    length: int

    def classes(self) -> tuple[int | None, tuple[str, ...]]:
        """Return the vocabulary with padding and unknown words."""
        return len(self.vocabulary) + _FIRST_WORD, ("(padding)", "(unknown)", *self.vocabulary)

    def rows(self, user: User) -> tuple[Array, Array]:
        """Return int64 (rows, length), twice: a row for each sequence; positions that do not count have target -100."""
        try:
            words = [sequence for comment in user.x for sequence in comment]
            following = [sequence for comment in user.y for sequence in comment["target_tokens"]]
            counts = np.array([mask for comment in user.y for mask in comment["count_tokens"]]).reshape(-1, self.length)
            x, y = self._ids(words), self._ids(following)
            if not len(x) == len(y) == len(counts):
                raise ValueError(f"{len(x)} sequences of words, {len(y)} of targets and {len(counts)} of counts")
        except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"{user.where}: expected comments as lists of sequences of {self.length} words in 'x', and their "
                f"targets and counts in the same form in 'y' ({cut(error)}); write the file again"
            ) from error
        return x, np.where(counts == 1, y, IGNORED)

    def _ids(self, sequences: Sequence[Sequence[str]]) -> Array:
        special = {"<PAD>": PADDING}
        ids = [special.get(word, self.vocabulary.get(word, UNKNOWN)) for sequence in sequences for word in sequence]
        return np.array(ids, dtype=np.int64).reshape(len(sequences), self.length)


@dataclass(frozen=True)
class CelebA:
    """Faces, by the names of their files, and whether they smile.

    Args:
        folder: Where the pictures are.
        side: Height and width to which they are scaled.
    """

    title: ClassVar[str] = "celeba"
    counted: ClassVar[bool] = True
    folder: Path
    side: int

    def classes(self) -> tuple[int | None, tuple[str, ...]]:
        """Return the two classes."""
        return 2, ()

    def rows(self, user: User) -> tuple[Array, Array]:
        """Return uint8 (rows, 3, side, side) and int64 (rows,)."""
        wrong = [name for name in user.x if not isinstance(name, str) or Path(name).name != name]
        if wrong:
            raise DataError(f"{user.where}: {cut(wrong[0], 80)} is not the name of a file; write the file again")
        x = np.empty((len(user.x), 3, self.side, self.side), dtype=np.uint8)  # (rows, channels, height, width)
        for row, name in enumerate(user.x):
            x[row] = read_picture(self.folder / name, "RGB", self.side)
        return x, _integers(user)


@dataclass(frozen=True)
class LeafOptions:
    """What cannot be seen in the files.

    Args:
        vocabulary: Words of the texts that have a number of their own, the most frequent ones.
        words: Words of a tweet that are read.
        side: Height and width of faces.
        pictures: Folder of the faces; None for the one that LEAF uses.
    """

    vocabulary: int = 10_000
    words: int = 25
    side: int = 84
    pictures: Path | None = None


def recognise(folder: Path, train: Sequence[User], test: Sequence[User], options: LeafOptions) -> LeafSet:
    """Return which set the users' lists hold, by the form of their first samples.

    Args:
        folder: The folder of ``train`` and ``test``.
        train: The users of the training part.
        test: Those of the test part.
        options: What cannot be seen in the files.

    Raises:
        DataError: The form is that of none of the six sets.
    """
    firsts = [user.x[0] for user in (*train, *test) if user.x]
    if any(isinstance(first, list) and len(first) == PIXELS for first in firsts):
        return Femnist()
    first = firsts[0] if firsts else None
    if isinstance(first, str) and first.lower().endswith((".jpg", ".jpeg", ".png")):
        return CelebA(_faces(folder, options.pictures), options.side)
    if isinstance(first, str):
        texts = [text for user in (*train, *test) for text in (*user.x, *user.y) if isinstance(text, str)]
        return Shakespeare("".join(sorted(set("".join(texts)))))
    if isinstance(first, list) and first and isinstance(first[0], list):
        words = (word for user in train for comment in user.x for word in _flat(comment))
        return Reddit(_vocabulary(words, options.vocabulary), len(first[0]))
    if isinstance(first, list) and first and isinstance(first[0], str):
        words = (word for user in train for text in tweets(user) for word in _WORD.findall(text))
        return Sent140(_vocabulary(words, options.vocabulary), options.words)
    if isinstance(first, list) and first:
        return Synthetic(len(first))
    where = next((user.where for user in (*train, *test)), str(folder))
    raise DataError(
        f"{where}: the first sample is {cut(first, 60)}, expected one of LEAF's sets: lists of numbers, texts, tweets, "
        "comments or names of pictures; write the file again"
    )


def tweets(user: User) -> list[str]:
    """Return the texts of a user's tweets.

    Raises:
        DataError: A row has another form.
    """
    for row in user.x:
        if not isinstance(row, list) or len(row) <= _TWEET or not isinstance(row[_TWEET], str):
            raise DataError(
                f"{user.where}: expected tweets as lists of id, date, query, user and text, or images as lists of "
                f"{PIXELS} numbers ({cut(row, 60)}); write the file again"
            )
    return [row[_TWEET] for row in user.x]


def _flat(comment: Any) -> Iterable[str]:  # noqa: ANN401  (what a file holds)
    sequences = comment if isinstance(comment, list) else []
    return (word for sequence in sequences if isinstance(sequence, list) for word in sequence if isinstance(word, str))


def _vocabulary(words: Iterable[str], most: int) -> dict[str, int]:
    """Return numbers for the most frequent words; equally frequent ones in alphabetical order."""
    counts = Counter(words)
    del counts["<PAD>"]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    return {word: number for number, word in enumerate(ranked, _FIRST_WORD)}


def _faces(folder: Path, given: Path | None) -> Path:
    usual = [
        folder / "raw" / "img_align_celeba",
        folder.parent / "raw" / "img_align_celeba",
        folder / "img_align_celeba",
    ]
    for candidate in usual if given is None else [expanded(given)]:
        if candidate.is_dir():
            return candidate
    raise DataError(
        f"{given or usual[0]} is missing, expected the folder of CelebA's aligned faces; unpack them there, or set "
        "data.pictures to their folder"
    )


def _numbers(user: User, lists: list[Any], length: int, what: str) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # infinite values are named by the check of the data set
            return np.asarray(lists, dtype=np.float32).reshape(len(lists), length)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{user.where}: expected {what} as lists of {length} numbers and labels as a list of integers "
            f"({cut(error)})"
        ) from error


def _integers(user: User) -> NDArray[np.int64]:
    try:
        y = np.asarray(user.y)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{user.where}: the labels are not integers ({cut(error)}); write the file again") from error
    if len(y) and not (np.issubdtype(y.dtype, np.integer) and y.ndim == 1):
        raise DataError(f"{user.where}: the labels are not integers")
    return y.astype(np.int64)
