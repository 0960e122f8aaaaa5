"""Labels as people store them: the same class numbers for every form, or one sentence that says what to do."""

from __future__ import annotations

import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedlama.data import npz_folder
from fedlama.data.labels import class_numbers
from fedlama.errors import DataError
from tests.cli.call import SMALL, fedlama, refused
from tests.data.test_npz_folder import header

LABELS = np.array([2, 0, 1, 1, 2, 0] * 20)
X = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
NAMES = np.array(["ape", "bee", "cow"])
RUN = ("run", *SMALL, "data.name=npz", "partition.name=iid", "model.name=mlp", "--quiet")


def save(folder: Path, x: object, y: object, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    for part in ("train", "test"):
        np.savez_compressed(folder / f"{part}.npz", x=x, y=y, **more)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.uint8)[:, None],
        LABELS.astype(np.float64),
        LABELS.astype(np.float32)[:, None],
        LABELS.astype(">i2"),
        np.eye(3, dtype=int)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
        np.eye(3, dtype=np.float32)[LABELS],
        NAMES[LABELS],
        NAMES[LABELS][:, None],
        NAMES.astype(np.bytes_)[LABELS],
    ],
)
def test_every_form_of_labels_gives_the_same_classes(tmp_path: Path, labels: NDArray[np.generic]) -> None:
    data = npz_folder.load(save(tmp_path / "arrays", X, labels))
    assert data.train_y.tolist() == data.test_y.tolist() == LABELS.tolist()
    assert data.classes == 3
    assert data.class_names == (tuple(NAMES.tolist()) if labels.dtype.kind in "US" else ())


@pytest.mark.parametrize("labels", [LABELS > 0, np.where(LABELS > 0, 1, -1), np.where(LABELS > 0, 1.0, -1.0)])
def test_two_classes_may_be_truth_values_or_signs(tmp_path: Path, labels: NDArray[np.generic]) -> None:
    data = npz_folder.load(save(tmp_path / "arrays", X, labels))
    assert data.train_y.tolist() == (LABELS > 0).astype(int).tolist()
    assert data.classes == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS / 2, r"row 2 holds 0\.5, expected class numbers .*Federation\(objective=\.\.\.\)"),
        (np.where(LABELS > 1, np.nan, 0.0), "row 0 holds nan"),
        (LABELS - 1, "label -1 in row 1 is negative, .* leave such rows out"),
        (
            np.minimum(np.eye(3, dtype=int)[LABELS] + [1, 0, 0], 1),
            r"are not one-hot, .* of shape \(120,\), or, if a row",
        ),
        (np.eye(3)[LABELS] / 2 + 1 / 6, "expected class numbers"),
        (np.where(np.arange(120) == 3, 10**6, 0), "makes 1000001 classes, but there are 240 rows with 2 different"),
        (NAMES.astype(object)[LABELS], r"objects are never read, because they can run code; .* astype\(str\)"),
        (np.arange(120).astype("M8[D]"), "expected numbers or text"),
        (LABELS.astype(complex), "expected numbers or text"),
    ],
)
def test_what_cannot_be_classes_is_one_sentence_in_the_command_line(
    tmp_path: Path, labels: object, message: str
) -> None:
    folder = save(tmp_path / "arrays", X, labels)
    with pytest.raises(DataError, match=message):
        npz_folder.load(folder)
    (problem,) = refused(*RUN, f"data.path={folder}", f"--out={tmp_path}")
    assert problem.startswith(str(folder))


def test_labels_of_shape_n_1_train_as_those_of_shape_n(tmp_path: Path) -> None:
    scores = []
    forms = {"flat": LABELS, "column": LABELS[:, None], "hot": np.eye(3)[LABELS], "text": NAMES[LABELS]}
    for name, labels in forms.items():
        save(tmp_path / name, X, labels)
        out = f"--out={tmp_path / 'runs' / name}"
        called = fedlama(*RUN[:-1], f"data.path={tmp_path / name}", out, "--json")
        scores.append((called.json["runs"][0]["accuracy"], called.json["runs"][0]["loss"]))
    assert len(set(scores)) == 1
    assert 0 <= scores[0][0] <= 1


def test_sequences_keep_one_label_per_position(tmp_path: Path) -> None:
    tokens = np.array([[1, 0, 0, 0], [0, 0, 1, 0]] * 10)
    padded = tokens.copy()
    padded[:, 3] = -100
    assert npz_folder.load(save(tmp_path / "tokens", tokens, tokens)).train_y.tolist() == tokens.tolist()
    data = npz_folder.load(save(tmp_path / "padded", tokens, padded))
    assert data.train_y.tolist() == padded.tolist()
    assert data.classes == 2
    tagged = npz_folder.load(save(tmp_path / "tagged", np.zeros((20, 4, 3)), tokens))
    assert tagged.train_y.shape == (20, 4)


def test_names_of_both_parts_are_numbered_together() -> None:
    labels = class_numbers("toy", np.array(["b", "d"]), np.array(["c", "a"]))
    assert (labels.train.tolist(), labels.test.tolist(), labels.names) == ([1, 3], [2, 0], ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("train", "test"), [(np.array(["1"]), np.array([1])), (np.eye(3, dtype=int), np.eye(2, dtype=int))]
)
def test_parts_in_different_forms_are_refused(train: NDArray[np.generic], test: NDArray[np.generic]) -> None:
    with pytest.raises(DataError, match="toy"):
        class_numbers("toy", train, test)


def test_groups_may_be_names(tmp_path: Path) -> None:
    data = npz_folder.load(save(tmp_path / "arrays", X, LABELS, group=NAMES[LABELS]))
    assert data.group_names == tuple(NAMES.tolist())
    assert data.groups is not None
    assert data.groups.tolist() == LABELS.tolist()


@pytest.mark.parametrize("names", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_one_file_with_both_parts_is_read(tmp_path: Path, names: tuple[str, str]) -> None:
    images = np.arange(120 * 36, dtype=np.int64).reshape(120, 6, 6).astype(np.uint8)
    arrays = {names[0].format(part): images for part in ("train", "test")}
    arrays |= {names[1].format(part): LABELS[:, None] for part in ("train", "test")}
    np.savez(tmp_path / "all.npz", **arrays)  # type: ignore[arg-type]
    data = npz_folder.load(tmp_path / "all.npz")
    assert torch.from_numpy(images).unsqueeze(1).equal(data.train_x)
    assert data.name == "all"
    assert (data.train_y.tolist(), data.classes) == (LABELS.tolist(), 3)
    np.savez(tmp_path / "all.npz", a=images)
    with pytest.raises(DataError, match="holds a, expected x_train, y_train, x_test and y_test; write it so, or"):
        npz_folder.load(tmp_path / "all.npz")
    with pytest.raises(DataError, match=r"write train\.npz and test\.npz there, or give the path of one \.npz file"):
        npz_folder.load(tmp_path)


@pytest.mark.parametrize(("shape", "last"), [((4, 8, 8, 3), True), ((4, 3, 8, 8), False)])
def test_the_order_of_dimensions_is_checked(tmp_path: Path, shape: tuple[int, ...], last: bool) -> None:
    save(tmp_path / "arrays", np.zeros(shape, np.uint8), np.arange(4) % 2)
    assert npz_folder.load(tmp_path / "arrays", channels_last=last).train_x.shape == (4, 3, 8, 8)
    with pytest.raises(DataError, match=f"set channels_last to {str(last).lower()}"):
        npz_folder.load(tmp_path / "arrays", channels_last=not last)


@pytest.mark.parametrize("shape", ["(True, 4)", "(2.0, 2)", "(-1, 4)", "(4, None)", "('4',)", "4"])
def test_a_shape_that_no_array_has_is_refused(tmp_path: Path, shape: str) -> None:
    save(tmp_path / "arrays", np.zeros((1, 4)), np.array([0]))
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "arrays" / "train.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(4))
        archive.writestr("y.npy", header((1,)) + b"\0")
    with pytest.raises(DataError, match=r"which no array has|not a plain \.npy array"):
        npz_folder.load(tmp_path / "arrays")


def test_headers_that_contradict_each_other_cost_no_memory(tmp_path: Path) -> None:
    big, zeros = 1 << 29, bytes(1 << 20)
    for rows, expected in ((64, "1048576 inputs but 64 labels"), (1 << 20, "makes 100000001 classes")):
        folder = tmp_path / str(rows)
        folder.mkdir()
        for part in ("train", "test"):
            with zipfile.ZipFile(folder / f"{part}.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                with archive.open("x.npy", "w") as stream:
                    stream.write(header((1 << 20, 512)))
                    for _ in range(big // len(zeros)):
                        stream.write(zeros)
                labels = np.zeros(rows, np.int64)
                labels[:1] = 0 if rows == 64 else 10**8
                archive.writestr("y.npy", header((rows,), "<i8") + labels.tobytes())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match=expected):
            npz_folder.load(folder)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; the inputs take 512 MiB
