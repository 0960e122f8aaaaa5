"""Load a play as a next-character task with one client per speaker, as in tinyshakespeare."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.paths import expanded
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers
from fedlama.data.arrays import Dataset
from fedlama.data.files import decode_text, locate, read_whole
from fedlama.errors import ConfigError, DataError

OTHERS = "(others)"
_LIMIT = 1 << 30
_SPEECH = re.compile(r"(?:^|\n\n)([^\n]+):\n(.*?)(?=\n\n|\Z)", re.DOTALL)


def load(
    path: Path | str,
    sequence_length: int = 80,
    *,
    test_share: float = 0.1,
    min_sequences: int = 2,
    small: Literal["drop", "merge"] = "drop",
) -> Dataset:
    """Cut each speaker's text into sequences; the target of a sequence is the same text one character later.

    Args:
        path: The text file, or the folder of its ``input.txt``. A speech is a line ``NAME:`` after an empty line
            (or at the start), then lines up to the next empty line.
        sequence_length: Characters per sequence, T.
        test_share: Share of each speaker's text, from its end, that becomes test sequences; in (0, 1).
        min_sequences: A speaker whose training text gives fewer sequences is small.
        small: ``"drop"`` leaves small speakers out; ``"merge"`` joins their texts, in order of first appearance,
            into one speaker named ``(others)``.

    Returns:
        Inputs and labels int64 (N, T). The classes are the characters of the whole file in code-point order, which are
        the ``class_names``; ``groups`` and ``test_groups``, int64 (N,), are the speakers in order of first appearance.

    Raises:
        DataError: If the file is missing, is not UTF-8, or gives no speaker with enough text.
        ConfigError: If a setting is out of range.

    Speeches of a speaker are joined by a line end, so a sequence may run over two of them. Sequences do not
    overlap; the characters left over at the end of each part are not used, and no test character is a training
    target. Source of the split by speaker: McMahan et al., AISTATS 2017, and LEAF (arXiv:1812.01097); LEAF predicts
    only the character after each 80, here every position has a target.
    """
    _check(sequence_length, test_share, min_sequences, small)
    given = expanded(path)
    file = given if given.is_file() else locate(path, ["input.txt"], ["tinyshakespeare"])
    text = _decode(file)
    chosen = _select(_speakers(text), sequence_length, test_share, min_sequences, small)
    if not chosen:
        raise DataError(
            f"{file}: no speaker has text for {min_sequences} training sequences of {sequence_length} characters; "
            "expected speeches that begin with a line 'NAME:'; lower "
            "sequence_length or min_sequences, or set small to 'merge'"
        )
    alphabet = sorted(set(text))
    train: list[NDArray[np.int64]] = []
    test: list[NDArray[np.int64]] = []
    for speech in chosen.values():
        ids = np.searchsorted(_code_points("".join(alphabet)), _code_points(speech)).astype(np.int64)
        cut = _train_length(len(ids), test_share)
        train.append(_windows(ids[:cut], sequence_length))
        test.append(_windows(ids[cut:], sequence_length))
    train_x, train_y, groups = _stack(train)
    test_x, test_y, test_groups = _stack(test)
    name, class_names = file.parent.name or file.stem, tuple(alphabet)
    parts = (train_x, train_y, test_x, test_y, len(alphabet), groups, test_groups)
    return Dataset(name, *parts, class_names=class_names, group_names=tuple(chosen)).check()


def _check(sequence_length: int, test_share: float, min_sequences: int, small: str) -> None:
    problems = []
    if sequence_length < 1:
        problems.append(f"sequence_length is {sequence_length}, expected at least 1; raise it")
    if not 0 < test_share < 1:
        problems.append(f"test_share is {test_share}, expected a share between 0 and 1; use one such as 0.1")
    if min_sequences < 1:
        problems.append(f"min_sequences is {min_sequences}, expected at least 1; raise it")
    if small not in ("drop", "merge"):
        problems.append(f"small is {small!r}, expected 'drop' or 'merge'; choose one of them")
    if problems:
        raise ConfigError(problems)


def _decode(file: Path) -> str:
    return decode_text(read_whole(file, _LIMIT), str(file)).replace("\r\n", "\n")


def _speakers(text: str) -> dict[str, str]:
    speeches: dict[str, list[str]] = {}
    for name, speech in _SPEECH.findall(text):
        speeches.setdefault(name, []).append(speech)
    return {name: "\n".join(parts) for name, parts in speeches.items()}


def _select(speakers: dict[str, str], length: int, test_share: float, min_sequences: int, small: str) -> dict[str, str]:
    needed = min_sequences * length + 1
    kept = {name: text for name, text in speakers.items() if _train_length(len(text), test_share) >= needed}
    if small == "merge":
        others = "\n".join(text for name, text in speakers.items() if name not in kept)
        if _train_length(len(others), test_share) >= needed:
            kept[OTHERS] = others
    return kept


def _train_length(characters: int, test_share: float) -> int:
    return characters - int(characters * test_share)


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.uint32)


def _windows(ids: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Cut (N, length + 1) windows that share one character with their neighbour: inputs and shifted targets."""
    count = max((len(ids) - 1) // length, 0)
    windows: NDArray[np.int64] = ids[np.arange(count)[:, None] * length + np.arange(length + 1)]
    return windows


def _stack(windows: list[NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(np.concatenate(windows))
    groups = torch.from_numpy(np.repeat(np.arange(len(windows)), [len(window) for window in windows]))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), groups


@register("data")
@dataclass(frozen=True)
class Text:
    """A text of speeches such as tinyshakespeare, to be continued character by character.

    Args:
        path: The text file, or a folder with ``input.txt``.
        sequence_length: Characters per sample.
        test_share: Share of each speaker's text that becomes test sequences.
        min_sequences: Speakers with fewer training sequences are small.
        small: What becomes of small speakers: ``"drop"``, or ``"merge"`` into one.
    """

    name: ClassVar[str] = "text"
    path: Path
    sequence_length: int = 80
    test_share: float = field(default=0.1, metadata=LEFT_OUT_AT_DEFAULT)
    min_sequences: int = field(default=2, metadata=LEFT_OUT_AT_DEFAULT)
    small: Literal["drop", "merge"] = field(default="drop", metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        _check(self.sequence_length, self.test_share, self.min_sequences, self.small)

    def load(self) -> Dataset:
        """Read the text and cut it into sequences; see :func:`load`."""
        return load(
            self.path,
            self.sequence_length,
            test_share=self.test_share,
            min_sequences=self.min_sequences,
            small=self.small,
        )
