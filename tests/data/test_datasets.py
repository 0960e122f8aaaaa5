"""Clients that are data sets, loaders, dicts of arrays or frames: the same batches as tensors, on every engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import fedlama as fl
from fedlama import ClientData, DataError, DatasetClients, FedAvg, Federation, PadCollate
from fedlama.data.local_sets import held_out
from fedlama.data.samples import stacked
from fedlama.data.sources import as_source
from fedlama.experiment import prepare, resolve

SIZES = (11, 8, 14)
GENERATOR = torch.Generator().manual_seed(3)
X = [torch.randn(size, 6, generator=GENERATOR) for size in SIZES]
Y = [torch.randint(0, 3, (size,), generator=GENERATOR) for size in SIZES]
ENGINES = ["loop", "stacked", "workers", "auto"]


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Draws from every global generator, as random crops and flips do."""

    def __init__(self, client: int) -> None:
        self.client = client

    def __len__(self) -> int:
        return SIZES[self.client]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(6) + random.random() + float(np.random.rand())
        return X[self.client][index] + 0.1 * noise, Y[self.client][index]


class Texts:
    """Rows of different lengths, as a tokeniser gives them; reads them in one call, as Hugging Face sets do."""

    column_names = ("ids", "labels")
    features = ()

    def __init__(self, client: int) -> None:
        self.client = client

    def __len__(self) -> int:
        return SIZES[self.client]

    def __getitem__(self, index: int) -> dict[str, object]:
        length = 2 + (index * 7 + self.client) % 4
        return {"ids": list(range(1, length + 1)), "labels": index % 3, "title": None}

    def __getitems__(self, rows: list[int]) -> list[dict[str, object]]:
        return [self[row] for row in rows]


class Bag(nn.Module):
    """Classifies a text by the mean of its words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(8, 5), nn.Linear(5, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head((self.words(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def pairs() -> list[TensorDataset]:
    return [TensorDataset(x, y) for x, y in zip(X, Y, strict=True)]


def run(clients: Any, engine: str = "loop", model: nn.Module | None = None, steps: int = 12) -> fl.Result:  # noqa: ANN401
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) if model is None else model
    return Federation(model, clients, FedAvg(2), local_steps=steps, seed=5, engine=engine).run()


def equal(first: fl.Result, second: fl.Result, tolerance: float = 0.0) -> bool:
    return all(
        torch.allclose(value, second.model[name], rtol=tolerance, atol=tolerance) for name, value in first.model.items()
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_data_set_gives_the_run_of_the_same_tensors(engine: str) -> None:
    tensors = [ClientData(x, y, 4) for x, y in zip(X, Y, strict=True)]
    arrays = [{"0": x.numpy(), "1": y.numpy()} for x, y in zip(X, Y, strict=True)]
    expected = run(tensors, engine)
    tolerance = 0.0 if engine == "loop" else 1e-6  # the kernels know tensors, not data sets
    assert equal(run(DatasetClients(pairs(), 4), engine), expected, tolerance)
    assert equal(run(DatasetClients(arrays, 4, collate_fn=as_pairs), engine), expected, tolerance)
    loaders = [DataLoader(data, batch_size=4, shuffle=True) for data in pairs()]
    assert equal(run(loaders, engine), expected, tolerance)


def as_pairs(samples: Sequence[dict[str, np.ndarray[Any, Any]]]) -> tuple[Tensor, Tensor]:
    return torch.stack([torch.from_numpy(row["0"]) for row in samples]), torch.tensor(
        [int(row["1"]) for row in samples]
    )


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("drop_last", [False, True])
def test_random_data_sets_give_every_engine_the_same_batches(engine: str, drop_last: bool) -> None:
    def clients() -> DatasetClients:
        return DatasetClients([Noisy(client) for client in range(3)], 4, drop_last=drop_last)

    assert equal(run(clients(), engine), run(clients()), 1e-6)


def test_a_batch_depends_on_its_address_alone_and_disturbs_no_generator() -> None:
    clients = DatasetClients([Noisy(client) for client in range(3)], 4)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = clients.batch(2, 9, seed=5)
    clients.batch(0, 0, seed=5)
    again = clients.batch(2, 9, seed=5)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], clients.batch(2, 9, seed=6)[0])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()


def test_an_epoch_has_every_sample_once_and_epochs_differ() -> None:
    clients = DatasetClients([TensorDataset(torch.arange(11), torch.arange(11))], 4)
    assert clients.batches_per_epoch(0) == 3
    epochs = [torch.cat([clients.batch(0, 3 * epoch + step, 0)[0] for step in range(3)]) for epoch in range(3)]
    assert all(sorted(epoch.tolist()) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    assert [len(clients.batch(0, step, 0)[0]) for step in range(6)] == [4, 4, 3] * 2


@pytest.mark.parametrize("engine", ENGINES)
def test_drop_last_gives_equal_batches_of_tensors_and_of_data_sets(engine: str) -> None:
    ends = np.cumsum([0, *SIZES])
    rows = [np.arange(start, end) for start, end in pairwise(ends)]
    tensors = fl.TensorClients(torch.cat(X), torch.cat(Y), rows, 4, drop_last=True)
    assert [tensors.batches_per_epoch(client) for client in range(3)] == [2, 2, 3]
    assert {len(tensors.batch(client, step, 0)[0]) for client in range(3) for step in range(9)} == {4}
    datasets = DatasetClients(pairs(), 4, drop_last=True)
    assert equal(run(tensors, engine), run(datasets), 1e-6)
    assert not equal(run(tensors), run(DatasetClients(pairs(), 4)), 1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_texts_of_different_lengths_are_padded_per_batch(engine: str) -> None:
    clients = DatasetClients([Texts(client) for client in range(3)], 4, collate_fn=PadCollate(mask="mask", of="ids"))
    batch = clients.batch(1, 0, 0)
    assert list(batch) == ["ids", "labels", "mask"]
    assert batch["ids"].shape == batch["mask"].shape
    assert ((batch["ids"] != 0) == (batch["mask"] == 1)).all()
    torch.manual_seed(1)
    model = Bag()
    assert equal(run(clients, engine, model), run(clients, "loop", model), 1e-6)


def test_a_resumed_run_gets_the_batches_of_an_uninterrupted_one() -> None:
    torch.manual_seed(0)
    clients = DatasetClients([Noisy(client) for client in range(3)], 4)
    federation = Federation(nn.Linear(6, 3), clients, FedAvg(2), local_steps=12, seed=5)
    whole = federation.run()
    first = fl.Run(federation)
    records = [first.advance() for _ in range(3)]
    second = fl.Run(federation)
    second.load_state_dict(first.state_dict(), records)
    assert equal(second.to_end([], records), whole)


def test_loaders_bring_their_batch_size_collate_function_and_drop_last() -> None:
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([x for x, _ in samples]) * 2, torch.stack([y for _, y in samples])

    loaders = [
        DataLoader(data, batch_size=size, collate_fn=collate, drop_last=True)
        for data, size in zip(pairs(), (3, 4, 5), strict=True)
    ]
    source = as_source(loaders)
    assert isinstance(source, DatasetClients)
    assert [len(source.batch(client, 0, 0)[1]) for client in range(3)] == [3, 4, 5]
    assert [source.batches_per_epoch(client) for client in range(3)] == [3, 2, 2]
    assert torch.equal(source.batch(0, 0, 0)[0], 2 * DatasetClients(pairs(), 3).batch(0, 0, 0)[0])


class Stream(IterableDataset[Tensor]):
    """Samples without numbers."""

    def __iter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204
        yield from X[0]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda data: DataLoader(data, 4, sampler=SubsetRandomSampler([0, 1])), "sampler SubsetRandomSampler"),
        (lambda data: DataLoader(data, 4, sampler=WeightedRandomSampler([1.0] * 11, 11)), "sampler WeightedRandom"),
        (lambda data: DataLoader(data, 4, sampler=RandomSampler(data, replacement=True)), "sampler RandomSampler"),
        (lambda data: DataLoader(data, batch_size=None), "sampler NoneType"),
    ],
)
def test_samplers_of_the_users_own_are_refused(loader: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(DataError, match=f"client 0: its DataLoader has the {message}.*give it a batch_size"):
        as_source([loader(pairs()[0])])


def test_data_sets_need_a_batch_size_and_one_form() -> None:
    with pytest.raises(DataError, match=r"give clients=fedlama\.DatasetClients\(clients, batch_size=16\)"):
        as_source(pairs())
    with pytest.raises(DataError, match=r"DatasetClients\(clients, batch_size=16\)"):
        as_source([{"x": X[0], "labels": Y[0]}])
    with pytest.raises(DataError, match="the clients mix ClientData and TensorDataset"):
        as_source([ClientData(X[0], Y[0], 4), pairs()[1]])  # type: ignore[list-item]
    with pytest.raises(DataError, match="type Stream, whose samples have no numbers"):
        DatasetClients([Stream()], 4)


class Broken(Noisy):
    """One of its samples cannot be read."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 6:
            raise KeyError("no such file")
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DatasetClients([], 4), "there are no clients"),
        (lambda: DatasetClients([TensorDataset(X[0][:0], Y[0][:0])], 4), "client 0 has no samples; leave it out"),
        (lambda: DatasetClients([*pairs()[:2], TensorDataset(X[0][:3], Y[0][:3])], 4), "client 2 has 3 samples, fewer"),
        (lambda: DatasetClients(pairs(), 0), "client 0: batch_size is 0, expected 1 or more"),
        (lambda: DatasetClients(pairs(), [4, 4]), "there are 3 clients but 2 batch sizes"),
        (lambda: DatasetClients([{"x": [1, 2], "y": [1]}], 1), r"columns of different lengths \('x' 2, 'y' 1\)"),
        (lambda: DatasetClients([{"x": ["a", "b"]}], 1), "client 0, batch 0, 'x' is text, expected a tensor"),
        (lambda: DatasetClients([Broken(0)], 11), "sample 6 of Broken cannot be read: KeyError: .*no such file"),
        (
            lambda: DatasetClients(pairs(), 4, collate_fn=lambda rows: (rows[0][0], torch.zeros(len(rows)))),
            r"client 0, batch 0: the collate function returned .*\(6,\).*\(4,\).* for 4 samples, expected tensors",
        ),
        (
            lambda: DatasetClients(pairs(), 4, collate_fn=lambda rows: rows[99]),
            "the collate function failed on 4 samples: IndexError",
        ),
        (
            lambda: DatasetClients([Texts(0)], 8),
            r"samples of \['ids'\] .* and of .*, expected one shape; give collate_fn=fedlama.PadCollate\(\)",
        ),
        (
            lambda: DatasetClients([pairs()[0], TensorDataset(X[1].double(), Y[1])], 4),
            r"client 1 has batches of .*float64.*, but client 0 of .*float32.*; give all clients the same",
        ),
    ],
)
def test_bad_data_are_refused_before_training(make: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(DataError, match=message):
        make()


def test_a_model_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(DataError, match=r"the model Linear cannot take inputs .*\(6,\)"):
        run(DatasetClients(pairs(), 4), model=nn.Linear(7, 3))
    with pytest.raises(DataError, match=r"the labels of client \d run from \d to \d, but the model has 1 classes"):
        run(DatasetClients(pairs(), 4), model=nn.Linear(6, 1))


def test_clients_have_sets_of_their_own() -> None:
    tensors = as_source(
        [ClientData(X[0], Y[0], 4, test=(X[1], Y[1])), ClientData(X[1], Y[1], 4, validation=(X[2], Y[2]))]
    )
    datasets = DatasetClients(pairs()[:2], 4, test=[pairs()[1], None], validation=[None, pairs()[2]])
    for source in (tensors, datasets):
        (test,) = list(held_out(source, 0, "test") or [])
        assert torch.equal(test[0], X[1])
        assert torch.equal(test[1], Y[1])
        (validation,) = list(held_out(source, 1, "validation") or [])
        assert torch.equal(validation[0], X[2])
        assert held_out(source, 0, "validation") is None
        assert held_out(source, 1, "test") is None
    assert held_out(fl.ReplayedClients([[(X[0], Y[0])]]), 0, "test") is None


def test_a_test_set_can_be_a_data_set() -> None:
    test = fl.TestSet.from_dataset(pairs()[0])
    assert torch.equal(test.x, X[0])
    texts = fl.TestSet.from_dataset(Texts(0), PadCollate(mask="mask", of="ids"))
    assert texts.x["ids"].shape == (11, 5)
    assert texts.y is None


def test_replaced_data_and_another_collate_function_change_the_description() -> None:
    def described(datasets: list[Any], **changes: Any) -> object:  # noqa: ANN401
        clients = DatasetClients(datasets, 4, **changes)
        return Federation(nn.Linear(6, 3), clients, FedAvg(2), local_steps=4).describe()["clients"]

    plain = described(pairs())
    assert plain == described(pairs())
    assert plain != described([TensorDataset(x + 1, y) for x, y in zip(X, Y, strict=True)])
    assert plain != described(pairs(), drop_last=True)
    assert described(pairs(), collate_fn=PadCollate(1)) != described(pairs(), collate_fn=PadCollate(2)) != plain


def test_pandas_frames_are_features() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[0].numpy().astype("float64"), columns=list("abcdef")).assign(label=Y[0].numpy())
    shuffled = frame.sample(frac=1, random_state=0).sort_values("a")  # an index that does not count the rows
    client = ClientData(shuffled[list("abcdef")], shuffled["label"], 4)
    assert client.x.dtype == torch.float32
    assert torch.equal(client.x, X[0][X[0][:, 0].argsort()])
    assert client.y.dtype == torch.int64
    batch = DatasetClients([shuffled], 11).batch(0, 0, 0)
    assert sorted(batch["b"].tolist()) == pytest.approx(sorted(X[0][:, 1].tolist()))
    with pytest.raises(DataError, match="column 'c' has no value in row 1"):
        ClientData(frame.assign(c=[1.0, None] + [2.0] * 9), frame["label"], 4)
    with pytest.raises(DataError, match=r"column 'city' is (object|str)"):
        ClientData(frame.assign(city="Bonn"), frame["label"], 4)


def test_a_hugging_face_set_is_a_client() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [datasets.Dataset.from_dict({"ids": [[1, 2], [3], [4, 5, 6]], "labels": [0, 1, 2]}) for _ in range(2)]
    clients = DatasetClients(rows, 3, collate_fn=PadCollate({"labels": -100}, mask="mask"))
    assert clients.batch(0, 0, 0)["ids"].shape == (3, 3)
    assert sorted(clients.batch(0, 0, 0)["labels"].tolist()) == [0, 1, 2]
    torch.manual_seed(0)
    assert equal(run(clients, "stacked", Bag()), run(clients, "stacked", Bag()), 1.0)


def test_an_experiment_gives_clients_the_test_rows_of_their_groups(tmp_path: Path) -> None:
    for part, rows in (("train", 12), ("test", 6)):
        group = np.array(["b", "a", "c"])[np.arange(rows) % 3]
        x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        np.savez(tmp_path / f"{part}.npz", x=x, y=np.arange(rows) % 2, group=group)
    keys = {"data": {"name": "npz", "path": str(tmp_path)}, "batch_size": 3, "drop_last": True}
    natural = prepare(resolve({**keys, "partition": {"name": "natural"}})).clients
    (test,) = list(held_out(natural, 0, "test") or [])
    assert test[0].tolist() == [[2.0, 3.0], [8.0, 9.0]]  # test rows 1 and 4, of group a
    assert natural.batches_per_epoch(0) == 1
    mixed = prepare(resolve({**keys, "partition": {"name": "iid", "clients": 2}})).clients
    assert held_out(mixed, 0, "test") is None


@pytest.mark.parametrize(
    "samples",
    [
        [torch.zeros(2), torch.zeros(3)],
        [torch.zeros(2), torch.zeros(2, dtype=torch.float64)],
        [torch.zeros(2), (torch.zeros(2),)],
        [(torch.zeros(2), 0), (torch.zeros(2),)],
        [{"a": 1, "b": 2}, {"a": 1, "c": 2}],
        [[torch.zeros(2)], [torch.zeros(2), torch.zeros(2)]],
    ],
)
def test_samples_that_differ_are_refused_and_not_converted(samples: list[object]) -> None:
    with pytest.raises(DataError, match=r"the batch has samples of .* and of .*, expected one shape"):
        stacked(samples)


def test_samples_of_every_kind_are_stacked() -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(np.full((2, 2), 51, dtype=np.uint8))
    batch = stacked([{"p": picture, "n": np.float32(2), "l": [[1, 2], [3, 4]], "x": np.ones(2), "t": (1.5, True)}] * 3)
    assert batch["p"].shape == (3, 1, 2, 2)
    assert batch["p"].unique().tolist() == pytest.approx([0.2])
    assert batch["n"].tolist() == [2, 2, 2]
    assert batch["l"].shape == (3, 2, 2)
    assert batch["x"].dtype == torch.float64
    assert batch["t"][1].dtype == torch.bool


def test_a_collate_function_that_needs_several_samples_is_never_given_one() -> None:
    def first_two(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        assert len(samples) > 1
        return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])

    clients = DatasetClients(pairs(), 4, collate_fn=first_two, drop_last=True)
    assert "data" in Federation(nn.Linear(6, 3), clients, FedAvg(2), local_steps=4).describe()["clients"]
    assert len(fl.TestSet.from_dataset(pairs()[0], first_two)) == 11
    with pytest.raises(DataError, match="the data set has no samples; give some"):
        fl.TestSet.from_dataset(TensorDataset(X[0][:0], Y[0][:0]))
