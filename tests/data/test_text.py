"""A play of a few lines, split by speaker and in time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedlama.data import Dataset, text
from fedlama.errors import ConfigError, DataError

PLAY = (
    "ANN:\n"
    + "abcdefghij" * 4
    + "\n\nBOB:\nhi\n\nANN:\n"
    + "klmnopqrst" * 4
    + "\n\nCID:\n"
    + "uvwxyz" * 4
    + "\n\nDAN:\nyo\n"
)


def write(folder: Path, content: str = PLAY) -> Path:
    (folder / "input.txt").write_text(content, encoding="utf-8")
    return folder


def spell(data: Dataset, ids: torch.Tensor) -> str:
    return "".join(data.class_names[index] for index in ids.tolist())


def test_speakers_are_clients_and_targets_are_one_character_ahead(tmp_path: Path) -> None:
    data = text.load(write(tmp_path), sequence_length=5, test_share=0.25)
    assert data.group_names == ("ANN", "CID")
    assert data.classes == len(set(PLAY))
    assert spell(data, data.train_x[0]) == "abcde"
    assert spell(data, data.train_y[0]) == "bcdef"
    assert data.groups is not None
    # ANN has 81 characters: 61 for training (12 sequences), the last 20 for test (3). CID: 18 (3) and 6 (1).
    assert torch.bincount(data.groups).tolist() == [12, 3]
    assert data.test_groups is not None
    assert torch.bincount(data.test_groups).tolist() == [3, 1]
    assert spell(data, data.test_x[0]) == "klmno"


def test_every_training_character_is_used_once_in_order(tmp_path: Path) -> None:
    data = text.load(write(tmp_path), sequence_length=5, test_share=0.25)
    assert spell(data, data.train_x[:12].flatten()) == ("abcdefghij" * 4 + "\n" + "klmnopqrst" * 4)[:60]


def test_small_speakers_can_be_merged(tmp_path: Path) -> None:
    data = text.load(write(tmp_path), sequence_length=2, test_share=0.1, min_sequences=2, small="merge")
    assert data.group_names == ("ANN", "CID", "(others)")
    assert data.groups is not None
    first = spell(data, data.train_x[data.groups == 2][0])
    assert first == "hi"
    assert text.load(tmp_path, 2, min_sequences=2).group_names == ("ANN", "CID")


def test_the_file_itself_and_line_ends_of_windows_are_accepted(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "other.txt").write_bytes(PLAY.replace("\n", "\r\n").encode())
    one, two = text.load(tmp_path, 5), text.load(tmp_path / "other.txt", 5)
    assert one.train_x.equal(two.train_x)


def test_wrong_files_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of input\.txt"):
        text.load(tmp_path)
    (tmp_path / "input.txt").write_bytes(b"ANN:\n\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8 text at byte 5"):
        text.load(tmp_path)
    for content in ("", "no speakers here\n", PLAY):
        with pytest.raises(DataError, match="no speaker has text for 2 training sequences of 500"):
            text.load(write(tmp_path, content), 500)
    with pytest.raises(ConfigError) as caught:
        text.load(tmp_path, 0, test_share=1.0, min_sequences=0, small="keep")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4
