"""From files of the standard formats through loader, partition and model to an aggregated model."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cli.call import fedlama, refused

ONE_ROUND = ("local_steps=2", "strategy.base_interval=2", "strategy.increase_factor=1", "batch_size=4")
TWO_ROUNDS = ("local_steps=4", "strategy.base_interval=2", "strategy.increase_factor=2", "batch_size=4")
DRAW = np.random.default_rng(0)


def idx(array: NDArray[np.generic], code: int = 8) -> bytes:
    head = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype({8: ">u1", 12: ">i4"}[code]).tobytes()


def write_mnist(folder: Path, rows: int = 32, writers: int = 4) -> None:
    """MNIST's four files, two of them compressed, and QMNIST's tables."""
    for part, table, count in (("train", "train", rows), ("t10k", "test", 8)):
        labels = np.arange(count) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(DRAW.integers(0, 256, (count, 28, 28))))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
        people = np.zeros((count, 8), dtype=np.int64)
        people[:, 0], people[:, 2] = labels, np.arange(count) % writers
        (folder / f"qmnist-{table}-labels-idx2-int").write_bytes(idx(people, 12))


def write_cifar(folder: Path) -> None:
    folder.mkdir()
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]:
        labels = DRAW.integers(0, 10, (4, 1))
        (folder / name).write_bytes(np.hstack([labels, DRAW.integers(0, 256, (4, 3072))]).astype(np.uint8).tobytes())
    (folder / "batches.meta.txt").write_text("a b c d e f g h i j\n")


def write_leaf(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / part).mkdir()
        users = [f"user{number}" for number in range(3)]
        rows = {"x": DRAW.random((6, 784)).round(3).tolist(), "y": [0, 1, 2, 61, 4, 5]}
        content = {"users": users, "num_samples": [6] * 3, "user_data": dict.fromkeys(users, rows)}
        (folder / part / "all.json").write_text(json.dumps(content))


def write_arrays(folder: Path, **changes: Any) -> None:  # noqa: ANN401
    for part, rows in (("train", 24), ("test", 6)):
        arrays = {
            "x": DRAW.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8),
            "y": np.arange(rows) % 3,
            "group": np.arange(rows) % 4,
        }
        np.savez_compressed(folder / f"{part}.npz", **(arrays | changes))


def write_play(folder: Path) -> None:
    speech = "to be or not to be that is the question "
    lines = "\n\n".join(f"{name}:\n{speech * 3}" for name in ("HAMLET", "OPHELIA", "HORATIO") for _ in range(3))
    (folder / "input.txt").write_text(lines + "\n")


def trained(out: Path, *arguments: str) -> dict[str, Any]:
    """Run the command and return its line of `--json`."""
    (run,) = fedlama("run", *arguments, "--json", "--out", out / "runs").json["runs"]
    assert 0 <= run["accuracy"] <= 1
    assert run["bytes_up"] > 0
    return dict(run)


def test_mnist_with_the_leaf_cnn(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = ("data.name=idx", f"data.path={tmp_path}", "model.name=leaf-cnn")
    trained(tmp_path, "digits", *data, "partition.name=iid", "partition.clients=2", *ONE_ROUND)


def test_mnist_by_its_writers(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    run = trained(tmp_path, "mnist-writers", f"data.path={tmp_path}", "sampler.active=2", *ONE_ROUND)
    assert run["rounds"] == 1
    (problem,) = refused("plan", "mnist-writers", f"data.path={tmp_path}", "sampler.active=5", *ONE_ROUND)
    assert "there are only 4 clients" in problem


def test_cifar_with_resnet20(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-bin")
    small = ("partition.name=iid", "partition.clients=2", "sampler.active=2", "data.complete=false")
    run = trained(tmp_path, "cifar10-resnet20", f"data.path={tmp_path}", *small, *ONE_ROUND)
    assert run["cost_percent"] == 100.0
    assert run["bytes_up"] > 2 * 4 * 269_722  # both clients' parameters, and the statistics of BatchNorm


def test_femnist_by_its_users(tmp_path: Path) -> None:
    write_leaf(tmp_path)
    data = ("data.name=leaf", f"data.path={tmp_path}", "partition.name=natural", "model.name=mlp", "model.hidden=[8]")
    run = trained(tmp_path, "digits", *data, *TWO_ROUNDS)
    assert run["rounds"] == 2


def test_arrays_with_the_small_cnn(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    data = ("data.name=npz", f"data.path={tmp_path}", "data.channels_last=true", "partition.name=shards")
    model = ("model.name=small-cnn", "model.widths=[4, 4]", "model.hidden=8", "augment=true")
    trained(tmp_path, "digits", *data, "partition.clients=3", *model, *TWO_ROUNDS)


def test_arrays_with_natural_clients_and_the_mlp(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    data = ("data.name=npz", f"data.path={tmp_path}", "data.channels_last=true", "partition.name=natural")
    trained(tmp_path, "digits", *data, "normalise=pixel", *TWO_ROUNDS)


def test_feature_rows_with_the_mlp(tmp_path: Path) -> None:
    for part, rows in (("train", 24), ("test", 6)):
        np.savez(tmp_path / f"{part}.npz", x=DRAW.normal(size=(rows, 5)), y=np.arange(rows) % 3)
    data = ("data.name=npz", f"data.path={tmp_path}", "partition.name=dirichlet", "partition.clients=2")
    trained(tmp_path, "digits", *data, "partition.min_size=4", *TWO_ROUNDS)


def test_text_with_the_transformer(tmp_path: Path) -> None:
    write_play(tmp_path)
    model = ("model.width=8", "model.heads=2", "model.blocks=1", "data.sequence_length=10")
    run = trained(tmp_path, "tinyshakespeare", f"data.path={tmp_path}", "sampler.active=2", *model, *TWO_ROUNDS)
    assert run["rounds"] == 2


def test_a_wide_resnet_is_built(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-bin")
    data = ("data.name=cifar", f"data.path={tmp_path}", "data.complete=false", "partition.name=iid")
    model = ("partition.clients=2", "model.name=wide-resnet", "model.depth=10", "model.widen=1", "model.dropout=0.3")
    seen = fedlama("plan", "digits", *data, *model, *ONE_ROUND, "--json").json
    assert seen["model"] == "wide-resnet"


@pytest.mark.parametrize(
    ("changes", "overrides", "part"),
    [
        ({"y": np.array([], dtype=np.int64), "x": np.zeros((0, 3))}, [], "there are no rows"),
        ({"x": np.full((6, 3), np.nan), "y": np.arange(6) % 2}, [], "row 0 holds nan"),
        ({"x": np.zeros((6, 3)), "y": np.arange(5)}, [], "6 inputs but 5 labels"),
        (
            {"x": np.zeros((6, 3)), "y": np.arange(6)},
            ["data.classes=3"],
            "is not in 0..2; correct the labels, or raise the number of classes to 6",
        ),
        ({"x": np.zeros((6, 3)), "y": np.arange(6) - 1}, [], "label -1 in row 0"),
        ({"x": np.zeros((6, 3)), "y": np.full(6, 0.5)}, [], "row 0 holds 0.5, expected class numbers"),
        ({"x": np.zeros((6, 3)), "y": np.zeros(6, dtype=int)}, ["partition.clients=7"], "7 clients with at least"),
        ({"x": np.zeros((6, 3)), "y": np.zeros(6, dtype=int)}, ["model.name=small-cnn"], "takes square images"),
        (
            {"x": np.zeros((6, 3)), "y": np.zeros(6, dtype=int)},
            ["augment=true"],
            "expected images (C, H, W); set augment=false",
        ),
    ],
)
def test_data_that_cannot_be_used(changes: dict[str, Any], overrides: list[str], part: str, tmp_path: Path) -> None:
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", **changes)
    data = ("data.name=npz", f"data.path={tmp_path}", "partition.name=iid", "partition.clients=1")
    (problem,) = refused("run", "digits", *data, *ONE_ROUND, *overrides)
    assert part in problem


def test_a_truncated_file(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    (problem,) = refused("run", "digits", "data.name=idx", f"data.path={tmp_path}")
    assert str(images) in problem
    assert "expected 25088 bytes of data, found 25087" in problem
