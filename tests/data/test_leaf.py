"""LEAF's JSON made by hand, right and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlama.data import leaf
from fedlama.errors import DataError


def content(users: dict[str, list[int]]) -> dict[str, object]:
    data = {user: {"x": [[label / 62] * 784 for label in labels], "y": labels} for user, labels in users.items()}
    return {"users": list(users), "num_samples": [len(labels) for labels in users.values()], "user_data": data}


def write(folder: Path, part: str, name: str, what: object) -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / part / f"{name}.json").write_text(what if isinstance(what, str) else json.dumps(what))


def test_users_become_groups_over_both_parts(tmp_path: Path) -> None:
    write(tmp_path / "data", "train", "all_data_0", content({"f2": [1, 61], "f1": [3]}))
    write(tmp_path / "data", "train", "all_data_1", content({"f9": [5]}))
    write(tmp_path / "data", "test", "all_data_0", content({"f1": [3], "f2": [1]}))
    data = leaf.load(tmp_path)
    assert data.train_x.shape == (4, 1, 28, 28)
    assert data.group_names == ("f1", "f2", "f9")
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 1, 2]
    assert data.train_y.tolist() == [3, 1, 61, 5]
    assert data.train_x[:, 0, 0, 0].tolist() == pytest.approx([3 / 62, 1 / 62, 61 / 62, 5 / 62])
    assert data.test_groups is not None
    assert data.test_groups.tolist() == [0, 1]
    assert data.classes == 62


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('{"users": [', "not whole JSON"),
        ("[" * 100_000, "not whole JSON"),
        ({"users": []}, "lacks one of"),
        ({"users": [], "num_samples": [], "user_data": {}}, "name no users"),
        ({"users": ["a"], "num_samples": [], "user_data": {}}, "not two lists of one length"),
        ({"users": ["a"], "num_samples": [1], "user_data": {}}, "user a: no lists 'x' and 'y'"),
        ({"users": ["a"], "num_samples": [2], "user_data": {"a": {"x": [[0] * 784], "y": [1]}}}, "num_samples 2"),
        (
            {"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [[0] * 700], "y": [1]}}},
            "lists of 784 numbers",
        ),
        (
            {"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [["z"] * 784], "y": [1]}}},
            "lists of 784 numbers",
        ),
        ({"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [[0] * 784], "y": [0.5]}}}, "not integers"),
        (content({"a": [62]}), "label 62 in row 0 is not in 0..61"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, wrong: object, message: str) -> None:
    write(tmp_path, "train", "all", wrong)
    write(tmp_path, "test", "all", content({"a": [1]}))
    with pytest.raises(DataError, match=message):
        leaf.load(tmp_path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", "all", json.dumps(content({"a": [0]})).replace("0.0", "NaN", 1))
    write(tmp_path, "test", "all", content({"a": [1]}))
    with pytest.raises(DataError, match="row 0 holds nan"):
        leaf.load(tmp_path)


def test_missing_folders_and_doubled_users_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sub-folders train and test"):
        leaf.load(tmp_path)
    (tmp_path / "train").mkdir()
    write(tmp_path, "test", "all", content({"a": [1]}))
    with pytest.raises(DataError, match=r"no \.json file"):
        leaf.load(tmp_path)
    write(tmp_path, "train", "one", content({"a": [1]}))
    write(tmp_path, "train", "two", content({"a": [1]}))
    with pytest.raises(DataError, match="user a is in another file"):
        leaf.load(tmp_path)


def both(folder: Path, samples: dict[str, tuple[list[object], list[object]]], test: str) -> None:
    """Write users' samples as the training part, and those of one user as the test part too."""
    for part, names in (("train", list(samples)), ("test", [test])):
        data = {name: {"x": samples[name][0], "y": samples[name][1]} for name in names}
        counts = [len(samples[name][1]) for name in names]
        write(folder, part, "all", {"users": names, "num_samples": counts, "user_data": data})


def test_shakespeare_predicts_the_character_after_each_text(tmp_path: Path) -> None:
    speakers = {"ROMEO": (["abca", "bcab"], ["b", "c"]), "JULIET": (["cccc"], ["a"])}
    both(tmp_path / "shakespeare" / "data", speakers, "ROMEO")
    data = leaf.load(tmp_path)
    assert data.name == "shakespeare"
    assert data.class_names == ("a", "b", "c")
    assert data.train_x.tolist() == [[2, 2, 2, 2], [0, 1, 2, 0], [1, 2, 0, 1]]
    assert data.train_y.tolist() == [[-100, -100, -100, 0], [-100, -100, -100, 1], [-100, -100, -100, 2]]
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 1]
    assert data.group_names == ("JULIET", "ROMEO")


def test_sent140_numbers_the_words_of_the_training_part(tmp_path: Path) -> None:
    rows = [["1", "Mon", "q", "ann", text] for text in ("good day, good sun", "bad")]
    both(tmp_path, {"ann": (rows, [1, 0]), "bob": ([["2", "Tue", "q", "bob", "good night"]], [1])}, "ann")
    data = leaf.load(tmp_path, leaf.LeafOptions(vocabulary=3, words=5))
    assert data.name == "sent140"
    # good (3 times) is 2; the others occur once and are numbered in alphabetical order: ',' 3, 'bad' 4
    assert data.train_x.tolist() == [[2, 1, 3, 2, 1], [4, 0, 0, 0, 0], [2, 1, 0, 0, 0]]
    assert data.train_y.tolist() == [1, 0, 1]
    assert data.classes == 2


def test_reddit_has_a_row_for_each_sequence_of_a_comment(tmp_path: Path) -> None:
    comment = [["<BOS>", "hello", "you"], ["<EOS>", "<PAD>", "<PAD>"]]
    answer = {"target_tokens": [["hello", "you", "<EOS>"], ["<PAD>"] * 3], "count_tokens": [[1, 1, 1], [1, 0, 0]]}
    short = {"target_tokens": [["hm", "<EOS>", "<PAD>"]], "count_tokens": [[1.0, 1.0, 0.0]]}
    samples = {"ann": ([comment, [["<BOS>", "hm", "<EOS>"]]], [answer, short]), "bob": ([], [])}
    both(tmp_path, samples, "ann")
    content = json.loads((tmp_path / "train" / "all.json").read_text())
    write(tmp_path, "train", "all", content | {"num_samples": [30, 20]})  # of all parts, as LEAF writes it
    data = leaf.load(tmp_path)
    # <BOS> and <EOS> occur twice, then hello, hm, you
    assert data.class_names == ("(padding)", "(unknown)", "<BOS>", "<EOS>", "hello", "hm", "you")
    assert data.train_x.tolist() == [[2, 4, 6], [3, 0, 0], [2, 5, 3]]
    assert data.train_y.tolist() == [[4, 6, 3], [0, -100, -100], [5, 3, -100]]
    assert data.groups is not None
    assert data.groups.tolist() == [0, 0, 0]


def test_synthetic_vectors(tmp_path: Path) -> None:
    both(tmp_path, {"f_0": ([[0.5, 1.0], [2.0, 3.0]], [0, 4]), "f_1": ([[7.0, 8.0]], [1])}, "f_1")
    data = leaf.load(tmp_path)
    assert data.name == "synthetic"
    assert data.train_x.tolist() == [[0.5, 1.0], [2.0, 3.0], [7.0, 8.0]]
    assert data.classes == 5


def test_celeba_reads_the_pictures_that_the_files_name(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "celeba" / "data"
    both(folder, {"7": (["1.png", "2.png"], [0, 1])}, "7")
    with pytest.raises(DataError, match=r"img_align_celeba is missing, .*data\.pictures"):
        leaf.load(tmp_path)
    (folder / "raw" / "img_align_celeba").mkdir(parents=True)
    for name, colour in (("1.png", (255, 0, 0)), ("2.png", (0, 10, 20))):
        image.new("RGB", (6, 8), colour).save(folder / "raw" / "img_align_celeba" / name)
    data = leaf.load(tmp_path, leaf.LeafOptions(side=4))
    assert data.train_x.shape == (2, 3, 4, 4)
    assert data.train_x[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 10, 20]]
    with pytest.raises(DataError, match=r"1\.png has 8 x 6 pixels, fewer than 7"):
        leaf.load(tmp_path, leaf.LeafOptions(side=7))
    both(folder, {"7": (["../1.png"], [0])}, "7")
    with pytest.raises(DataError, match=r"'?\.\./1\.png'? is not the name of a file"):
        leaf.load(tmp_path, leaf.LeafOptions(side=4))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (["abc", "ab"], ["a", "b"], "texts of one length in 'x' and one character"),
        (["abc", "abd"], ["a", "bb"], "texts of one length in 'x' and one character"),
        ([["1", "2", "3", "4", "hi"], ["1"]], [1, 0], "expected tweets as lists of id, date, query, user and text"),
        ([[["a", "b"]], [["a"]]], [{"target_tokens": [["b", "c"]], "count_tokens": [[1, 1]]}] * 2, "expected comments"),
        ([[["a", "b"]]], [{}], "expected comments as lists of sequences of 2 words"),
        ([[1.0, 2.0], [1.0]], [0, 1], "user a: expected vectors as lists of 2 numbers"),
        ([{"a": 1}], [0], "expected one of LEAF's sets"),
        ([], [], "no user of this part has samples|expected one of LEAF's sets"),
    ],
)
def test_wrong_samples_of_other_sets_are_refused(
    tmp_path: Path, x: list[object], y: list[object], message: str
) -> None:
    both(tmp_path, {"a": (x, y)}, "a")
    with pytest.raises(DataError, match=message):
        leaf.load(tmp_path)
