"""The door of the kernels: literal results, what it refuses, and that nothing goes round it."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedlama
from fedlama import kernels
from fedlama.kernels import (
    AddPositions,
    Attention,
    Batches,
    Convolution,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Gelu,
    Model,
    Norm,
    Relu,
    SampleTable,
    Scratch,
    SGDSettings,
    StackedTensor,
    Step,
    average_rows,
    fill_rows,
    plan_model,
    shuffle_rows,
    squared_norms,
)

SOURCES = Path(fedlama.__file__).parent
ALLOWED = {"numpy", "numba", "llvmlite", "fedlama.core.randomness", "fedlama.kernels"}

needs_numba = pytest.mark.skipif(not kernels.can_compile(), reason="the extra 'fast' is not installed")


def _imports(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, imported module) of every import, those inside functions and under TYPE_CHECKING included."""
    for file in folder.rglob("*.py"):
        name = str(file.relative_to(SOURCES))
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                yield from ((name, f"{node.module}.{alias.name}") for alias in node.names)


def test_the_room_imports_only_numpy_numba_llvmlite_and_the_addressed_randomness() -> None:
    found = [
        (file, module)
        for file, module in _imports(SOURCES / "kernels")
        if module.split(".")[0] not in sys.stdlib_module_names
        and not any(module == name or module.startswith(f"{name}.") for name in ALLOWED)
    ]
    assert found == []


def test_other_rooms_use_only_what_the_door_exports() -> None:
    exported = {f"fedlama.kernels.{name}" for name in kernels.__all__} | {"fedlama.kernels"}
    found = [
        (file, module)
        for file, module in _imports(SOURCES)
        if module.startswith("fedlama.kernels") and not file.startswith("kernels") and module not in exported
    ]
    assert found == []


def test_no_address_is_taken_outside_the_room() -> None:
    users = {file for file, module in _imports(SOURCES) if module.startswith("fedlama.kernels")}
    found = [
        (file, node.attr)
        for file in users
        if not file.startswith("kernels")
        for node in ast.walk(ast.parse((SOURCES / file).read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"data_ptr", "ctypes", "__array_interface__"}
    ]
    assert found == []


def test_importing_the_door_loads_neither_torch_nor_numba() -> None:
    code = "import sys; sys.modules['torch'] = None; sys.modules['numba'] = None; import fedlama.kernels"
    package = f"import types; m = types.ModuleType('fedlama'); m.__path__ = [{str(SOURCES)!r}]; import sys; "
    run = subprocess.run([sys.executable, "-c", package + "sys.modules['fedlama'] = m; " + code], check=False)
    assert run.returncode == 0


@needs_numba
def test_average_of_literal_rows() -> None:
    stack = np.array([[1.0, 2.0, 9.0], [3.0, 6.0, 9.0], [np.nan, np.nan, np.nan]], np.float32)
    weights = np.array([0.25, 0.75, 0.0], np.float32)  # a row without weight is not read
    out = np.empty(3, np.float32)
    apart = average_rows(stack, weights, out)
    assert out.tolist() == [2.5, 5.0, 9.0]
    assert apart == pytest.approx(0.25 * (1.5**2 + 3**2) + 0.75 * (0.5**2 + 1))
    assert average_rows(stack, weights, out, measure=False) == 0.0


@needs_numba
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 8191, 8192, 8209])
def test_cut_columns_are_averaged_and_filled_alone(columns: int) -> None:
    draw = np.random.default_rng(columns)
    stack = draw.standard_normal((5, columns + 20), np.float32)
    before, weights = stack.copy(), np.full(5, 0.2, np.float32)
    out = np.full(columns + 2, 7.0, np.float32)
    cut = stack[:, 3 : 3 + columns]
    apart = average_rows(cut, weights, out[1:-1])
    exact = cut.astype(np.float64).mean(0)
    np.testing.assert_allclose(out[1:-1], exact, atol=1e-6)
    assert apart == pytest.approx(0.2 * np.square(cut - exact).sum(), rel=1e-5)
    assert out[[0, -1]].tolist() == [7.0, 7.0]
    fill_rows(cut, out[1:-1])
    assert (cut == out[1:-1]).all()
    assert np.array_equal(stack[:, :3], before[:, :3])
    assert np.array_equal(stack[:, 3 + columns :], before[:, 3 + columns :])


@needs_numba
def test_squared_norms_of_literal_numbers() -> None:
    new, old = np.array([1.0, 2.0, 3.0, 0.0], np.float32), np.array([1.0, 0.0, 0.0, 4.0], np.float32)
    assert squared_norms(new, old) == (29.0, 17.0)
    assert squared_norms(new[:0], old[:0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: average_rows(a.astype(np.float64), a[:, 0], a[0]), "stack has dtype float64, expected float32"),
        (lambda a: average_rows(a[:, ::2], a[:, 0].copy(), a[0, :2].copy()), "rows of stack are not contiguous"),
        (lambda a: average_rows(a[::-1], a[:, 0].copy(), a[0]), "rows of stack are not contiguous"),
        (lambda a: average_rows(a, a[:, 0], a[0]), "weights is not contiguous"),
        (lambda a: average_rows(a, a[0, :2], a[0]), r"weights has shape \(2,\), expected \(3,\)"),
        (lambda a: average_rows(a, a[:, 0].copy(), a[0, :3]), r"out has shape \(3,\), expected \(4,\)"),
        (lambda a: average_rows(a[0], a[0], a[0]), r"stack has shape \(4,\), expected \(any, any\)"),
        (lambda a: fill_rows(a, a[0, :3]), r"value has shape \(3,\), expected \(4,\)"),
        (lambda a: fill_rows(a.tolist(), a[0]), "stack is a list, expected a NumPy array"),
        (lambda a: squared_norms(a[0], a[0, :3]), r"old has shape \(3,\), expected \(4,\)"),
        (lambda a: squared_norms(a[:, 0], a[:, 0]), "new is not contiguous"),
    ],
)
@needs_numba
def test_arrays_that_do_not_fit_are_refused(call: Callable[[Any], object], message: str) -> None:
    array = np.ones((3, 4), np.float32)
    with pytest.raises((TypeError, ValueError), match=message):
        call(array)
    assert (array == 1.0).all()


def _table() -> SampleTable:
    return SampleTable(np.arange(5) * 10, np.array([0, 2, 5]), np.array([2, 2]))


@needs_numba
def test_shuffled_batches_hold_every_sample_once_an_epoch() -> None:
    rows, lengths = shuffle_rows(_table(), np.array([1, 0]), np.array([2, 0]), 4, np.uint64(7))
    assert lengths.tolist() == [[2, 2], [1, 2], [2, 2], [1, 2]]
    for epoch in (slice(0, 2), slice(2, 4)):
        drawn = [rows[step, 0, : lengths[step, 0]] for step in range(4)[epoch]]
        assert sorted(np.concatenate(drawn)) == [20, 30, 40]
    assert all(sorted(rows[step, 1]) == [0, 10] for step in range(4))
    assert rows[1, 0, 1] == rows[1, 0, 0]  # a short batch is filled up with its first sample
    again, _ = shuffle_rows(_table(), np.array([1]), np.array([4]), 2, np.uint64(7))
    assert np.array_equal(again[:, 0], rows[2:, 0])  # the same step gives the same batch


@needs_numba
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": np.array([2])}, "clients are numbered 2 to 2, expected 0 to 1"),
        ({"clients": np.array([-1])}, "clients are numbered -1 to -1"),
        ({"first": np.array([-1])}, "first is -1"),
        ({"first": np.array([0, 0])}, r"first has shape \(2,\), expected \(1,\)"),
        ({"table": _table()._replace(begins=np.array([0, 2, 6]))}, "does not give every asked client"),
        ({"table": _table()._replace(begins=np.array([0, 5, 5]))}, "does not give every asked client"),
        ({"table": _table()._replace(begins=np.array([0, 5]))}, r"table.begins has shape \(2,\), expected \(3,\)"),
        ({"table": _table()._replace(batch_sizes=np.array([2, 0]))}, "batch_sizes is below 1"),
        ({"table": _table()._replace(samples=np.arange(5.0))}, "table.samples has dtype float64"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"table": _table(), "clients": np.array([1]), "first": np.array([0])} | changes
    with pytest.raises((TypeError, ValueError), match=message):
        shuffle_rows(given["table"], given["clients"], given["first"], 1, np.uint64(0))


def _dense_model() -> Model:
    steps = [Step(Dense("w", "b"), (0,)), Step(Relu(), (1,)), Step(Dense("v", None), (2,))]
    model = plan_model(steps, {"w": (4, 3), "b": (4,), "v": (2, 4)}, (3,), 5)
    assert model is not None
    return model


def _given(clients: int = 2, momentum: float = 0.0) -> dict[str, Any]:
    """Everything that two steps of the dense model take."""
    draw = np.random.default_rng(0)

    def stacked(*shape: int) -> StackedTensor:
        values = draw.standard_normal((clients, *shape), np.float32)
        return StackedTensor(values, np.zeros_like(values) if momentum else None)

    return {
        "tensors": {"w": stacked(4, 3), "b": stacked(4), "v": stacked(2, 4)},
        "batches": Batches(
            draw.standard_normal((9, 3), np.float32),
            draw.integers(0, 2, 9),
            draw.integers(0, 9, (2, clients, 5)),
            np.full((2, clients), 5),
        ),
        "solver": SGDSettings(np.full(2, 0.1, np.float32), momentum),
        "losses": np.zeros(clients),
    }


def _run(model: Model, given: dict[str, Any]) -> None:
    model.run(given["tensors"], given["batches"], given["solver"], given["losses"], [Scratch()])


def _expected(given: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Train the dense model with NumPy in float64."""
    values = {name: tensor.values.astype(np.float64) for name, tensor in given["tensors"].items()}
    velocities = {name: np.zeros_like(value) for name, value in values.items()}
    batches, losses = given["batches"], np.zeros(len(given["losses"]))
    for step, client in np.ndindex(*batches.lengths.shape):
        own = {name: value[client] for name, value in values.items()}
        chosen = batches.rows[step, client, : batches.lengths[step, client]]
        x, y = batches.x[chosen].astype(np.float64), batches.y[chosen]
        before = x @ own["w"].T + own["b"]
        hidden = np.maximum(before, 0)
        logits = hidden @ own["v"].T
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        losses[client] -= np.log(chances[np.arange(len(y)), y]).mean()
        chances[np.arange(len(y)), y] -= 1
        chances /= len(y)
        below = chances @ own["v"] * (before > 0)
        gradients = {"w": below.T @ x, "b": below.sum(0), "v": chances.T @ hidden}
        for name, gradient in gradients.items():
            velocities[name][client] = given["solver"].momentum * velocities[name][client] + gradient
            own[name] -= given["solver"].rates[step] * velocities[name][client]
    return values, losses


@needs_numba
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_steps_are_those_of_numpy(momentum: float) -> None:
    given = _given(3, momentum)
    values, losses = _expected(given)
    _run(_dense_model(), given)
    for name, value in values.items():
        np.testing.assert_allclose(given["tensors"][name].values, value, atol=1e-6)
    np.testing.assert_allclose(given["losses"], losses, atol=1e-5)


def _changed(part: str, **changes: Any) -> Callable[[dict[str, Any]], None]:  # noqa: ANN401
    return lambda given: given.update({part: given[part]._replace(**changes)})


def _tensor(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:  # noqa: ANN401
    return lambda given: given["tensors"].update({name: given["tensors"][name]._replace(**changes)})


@needs_numba
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_tensor("w", values=np.ones((2, 3, 4), np.float32)), r"values of w has shape \(2, 3, 4\), expected \(2, 4, 3"),
        (_tensor("w", values=np.ones((2, 3, 4), np.float32).swapaxes(1, 2)), "values of w is not contiguous"),
        (_tensor("b", values=np.ones((2, 4))), "values of b has dtype float64"),
        (_tensor("v", velocities=np.ones((2, 4, 2), np.float32)), "velocities of v has shape"),
        (_tensor("v", velocities=None), "velocities of v is None"),
        (_changed("solver", proximal=0.5), "reference of w is None"),
        (_changed("solver", rates=np.ones(3, np.float32)), r"solver.rates has shape \(3,\), expected \(2,\)"),
        (_changed("batches", x=np.ones((9, 4), np.float32)), r"inputs of shape \(4,\), expected 3 elements"),
        (_changed("batches", x=np.ones((8, 3), np.float32)), r"batches.x has shape \(8, 3\), expected \(9, any\)"),
        (_changed("batches", y=np.zeros(9, np.int32)), "batches.y has dtype int32"),
        (_changed("batches", lengths=np.full((2, 2), 6)), "batches.lengths are 6 to 6, expected 1 to 5"),
        (_changed("batches", lengths=np.full((2, 2), 0)), "batches.lengths are 0 to 0"),
        (_changed("batches", lengths=np.full((2, 3), 5)), "batches.lengths has shape"),
        (_changed("batches", rows=np.full((2, 2, 5), 9)), "a batch names a sample that is not among the 9"),
        (_changed("batches", rows=np.full((2, 2, 5), -1)), "a batch names a sample that is not among the 9"),
        (_changed("batches", y=np.full(9, 2)), "a sample's class is not among the model's 2"),
        (_changed("batches", y=np.full(9, -1)), "a sample's class is not among the model's 2"),
        (lambda given: given.update(losses=np.zeros(3)), r"losses has shape \(3,\), expected \(2,\)"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    given = _given(momentum=0.9)
    before = {name: tensor.values.copy() for name, tensor in given["tensors"].items()}
    change(given)
    with pytest.raises((TypeError, ValueError, IndexError), match=message):
        _run(_dense_model(), given)
    for name, value in before.items():
        if given["tensors"][name].values.shape == value.shape:
            assert (given["tensors"][name].values == value).all() or "values" in message


def test_models_without_kernels_are_not_planned() -> None:
    grouped = Convolution("w", None, (1, 1), (0, 0), (1, 1), 2)
    steps = [Step(grouped, (0,)), Step(Flatten(), (1,)), Step(Dense("v", None), (2,))]
    assert plan_model(steps, {"w": (4, 1, 3, 3), "v": (5, 64)}, (2, 6, 6), 4) is None
    assert plan_model(steps[:1], {"w": (4, 1, 3, 3)}, (2, 6, 6), 4) is None  # the last step must be a dense layer


def test_what_a_model_says_of_itself() -> None:
    steps = [
        Step(Convolution("c", None, (1, 1), (1, 1), (1, 1), 1), (0,)),
        Step(Norm("g", "h", "m", "s", "count", 0.1, 1e-5), (1,)),
        Step(Dropout(0.25), (2,)),
        Step(Flatten(), (3,)),
        Step(Dense("v", "b"), (4,)),
    ]
    shapes = {"c": (4, 2, 3, 3), "g": (4,), "h": (4,), "v": (5, 144), "b": (5,)}
    model = plan_model(steps, shapes, (2, 6, 6), 4)
    assert model is not None
    assert model.names == ("c", "g", "h", "m", "s", "v", "b")
    assert model.counters == ("count",)
    assert model.masks == (((4, 6, 6), 0.25),)
    assert model.multiply_adds == 4 * 2 * 9 * 36 + 5 * 144


def _sequence_model() -> Model:
    steps = [Step(Embedding("e"), (0,)), Step(AddPositions("p"), (1,)), Step(Dense("v", None), (2,))]
    model = plan_model(steps, {"e": (11, 16), "p": (5, 16), "v": (17, 16)}, (4,), 5)
    assert model is not None
    return model


def _given_sequences() -> dict[str, Any]:
    """Everything that a step of the model of sequences takes."""
    draw = np.random.default_rng(0)
    shapes = {"e": (11, 16), "p": (5, 16), "v": (17, 16)}
    return {
        "tensors": {name: StackedTensor(draw.standard_normal((2, *size), np.float32)) for name, size in shapes.items()},
        "batches": Batches(
            draw.integers(0, 11, (9, 4)),
            draw.integers(0, 17, (9, 4)),
            np.arange(6).reshape(1, 2, 3),
            np.full((1, 2), 3),
        ),
        "solver": SGDSettings(np.full(1, 0.1, np.float32)),
        "losses": np.zeros(2),
    }


@needs_numba
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed("batches", x=np.full((9, 4), 11)), "or a token is not among its 11"),
        (_changed("batches", x=np.full((9, 4), -1)), "or a token is not among its 11"),
        (_changed("batches", x=np.ones((9, 4), np.float32)), "batches.x has dtype float32, expected int64"),
        (_changed("batches", x=np.zeros((9, 5), np.int64)), r"inputs of shape \(5,\), expected 4 elements"),
        (_changed("batches", y=np.full((9, 4), 17)), "a sample's class is not among the model's 17"),
        (_changed("batches", y=np.full((9, 4), -100)), "a sample's class is not among the model's 17"),
        (_changed("batches", y=np.zeros(9, np.int64)), r"batches.y has shape \(9,\), expected \(any, 4\)"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    model, given = _sequence_model(), _given_sequences()
    _run(model, given)
    before = {name: tensor.values.copy() for name, tensor in given["tensors"].items()}
    change(given)
    with pytest.raises((TypeError, ValueError, IndexError), match=message):
        _run(model, given)
    assert all((given["tensors"][name].values == value).all() for name, value in before.items())


def test_sequences_without_kernels_are_not_planned() -> None:
    shapes = {"e": (11, 16), "p": (3, 16), "v": (17, 16), "narrow": (9, 16)}

    def planned(*operations: Any, length: int = 4) -> bool:  # noqa: ANN401
        steps = [Step(operation, (number,)) for number, operation in enumerate(operations)]
        return plan_model(steps, shapes, (length,), 5) is not None

    embedding, dense = Embedding("e"), Dense("v", None)
    assert planned(embedding, dense)
    assert planned(embedding, AddPositions("p"), dense, length=3)
    assert not planned(embedding, AddPositions("p"), dense)  # more positions than rows
    assert not planned(embedding, Dense("narrow", None))
    assert not planned(embedding, Relu(), Gelu(), dense)  # a ReLU's backward pass reads what GELU would overwrite
    assert not planned(embedding, Flatten(), dense)
    assert not planned(embedding, Attention(2), dense)  # 16 features are not queries, keys and values
    assert not planned(embedding, embedding, dense)


@needs_numba
def test_nothing_is_kept_after_a_run() -> None:
    model, given = _dense_model(), _given()
    _run(model, given)
    kept = weakref.ref(given["tensors"]["w"].values), weakref.ref(given["batches"].x)
    del given
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@needs_numba
def test_a_thread_that_fails_stops_the_others() -> None:
    given = _given(8)
    given["batches"].rows[1, 3] = 99
    asked: list[int] = []

    def one_after_another(job: Callable[[int], None], count: int) -> None:
        for thread in range(count):
            asked.append(thread)
            job(thread)

    with pytest.raises(IndexError, match="a batch names a sample"):
        _dense_model().run(
            given["tensors"], given["batches"], given["solver"], given["losses"], [Scratch(), Scratch()],
            one_after_another,
        )  # fmt: skip
    assert asked == [0, 1]
    assert (given["losses"][:3] > 0).all()
    assert (given["losses"][4:] == 0).all()
