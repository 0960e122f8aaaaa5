"""FedLAMA as a strategy of Flower, around ClientApps that do not know it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import nn

from fedlama import AdaComm, Federation, FedLAMA
from fedlama.choices.aggregators import FedLPA, Median
from fedlama.choices.codecs import Float16
from fedlama.choices.solvers import SGD
from fedlama.errors import ConfigError, DataError
from fedlama.flower import FedLAMAStrategy, fedlama_mod
from fedlama.runs.stored import load_run
from tests.flower.fake_grid import FakeGrid, with_identity

CLIENTS, BATCHES, BATCH = 3, 4, 5


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    with_identity(monkeypatch)


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As many samples as a round of local steps takes, so that a round is an epoch in order."""
    draw = torch.Generator().manual_seed(client)
    count = BATCHES * BATCH
    return torch.randn(count, 4, generator=draw), torch.randint(0, 3, (count,), generator=draw)


def plain_app(mods: list[Any] | None = None, rate: float = 0.1) -> ClientApp:
    """A ClientApp as in Flower's quickstart: it knows nothing of us."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        model = net()
        model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
        x, y = data(int(context.node_config["partition-id"]))
        total = 0.0
        for start in range(0, len(x), BATCH):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(x[start : start + BATCH]), y[start : start + BATCH])
            loss.backward()
            total += float(loss.detach())
            with torch.no_grad():
                for value in model.parameters():
                    assert value.grad is not None
                    value.add_(value.grad, alpha=-rate)
        metrics = MetricRecord({"train_loss": total / BATCHES, "num-examples": len(x)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        model = net()
        model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
        x, y = data(int(context.node_config["partition-id"]))
        output = model(x)
        accuracy = float((output.argmax(1) == y).double().mean())
        loss = float(nn.functional.cross_entropy(output, y).detach())
        metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(x)})
        return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)

    return app


def our_app() -> ClientApp:
    return plain_app(mods=[fedlama_mod])


def grid(folder: Path, app: Callable[[], ClientApp] = our_app, clients: int = CLIENTS) -> FakeGrid:
    return FakeGrid(app, clients, folder)


def strategy(**options: Any) -> FedLAMAStrategy:  # noqa: ANN401
    settings: dict[str, Any] = {"poll": 0.0, "fraction_evaluate": 0.0, "min_available_nodes": CLIENTS, **options}
    return FedLAMAStrategy(settings.pop("strategy", FedLAMA(BATCHES, 2)), net(), **settings)


def started(given: Strategy, on: FakeGrid, rounds: int = 4, **more: Any) -> Any:  # noqa: ANN401
    return given.start(on, ArrayRecord(net().state_dict()), rounds, 5.0, ConfigRecord({"lr": 0.1}), **more)


def values(result: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    return {name: torch.from_numpy(array.numpy()) for name, array in result.arrays.items()}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log of the network of a run."""
    return [json.loads(line) for line in (folder / "network.jsonl").read_text().splitlines()]


def simulated(rounds: int = 4, **changes: Any) -> Any:  # noqa: ANN401
    """The same in our own simulation."""
    clients = []
    for client in range(CLIENTS):
        x, y = data(client)
        epoch = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]
        clients.append(epoch * rounds)
    settings: dict[str, Any] = {"solver": SGD(learning_rate=0.1), "rounds": rounds, **changes}
    return Federation(net(), clients, FedLAMA(BATCHES, 2), **settings).run()


def test_it_is_a_strategy_of_flower() -> None:
    assert issubclass(FedLAMAStrategy, FedAvg)
    assert issubclass(FedLAMAStrategy, Strategy)


def test_it_equals_our_own_simulation_bit_for_bit(tmp_path: Path) -> None:
    given, on, expected = strategy(), grid(tmp_path), simulated()
    result = started(given, on)
    assert list(values(result)) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name, value in values(result).items():
        assert torch.equal(value, expected.model[name]), name
    records = given.progress.records
    for ours, theirs in zip(records, expected.rounds, strict=True):
        assert (ours.cohort, ours.layers) == (theirs.cohort, theirs.layers)
        assert ours.loss == pytest.approx(theirs.loss)
    assert given.progress.run.ledger.transfers == expected.ledger.transfers


def test_what_is_sent_is_what_the_ledger_says(tmp_path: Path) -> None:
    """By hand: weights of 24 and 18 numbers, biases of 6 and 3; phi = 2; the biases never adapt."""
    given, on = strategy(), grid(tmp_path)
    started(given, on)
    ledger = given.progress.run.ledger
    assert on.bytes_of("train") == (ledger.total_bytes("down"), ledger.total_bytes("up"))
    relaxed = [name for name, layer in given.progress.records[2].layers.items() if layer.interval == 2]
    assert relaxed, "no layer was relaxed, so nothing is tested"
    all_bytes, header, layer_header, scalar = 4 * (24 + 6 + 18 + 3), 40, 16, 8
    left_out = sum(4 * {"0.weight": 24, "2.weight": 18}[name] + layer_header + scalar for name in relaxed)
    full_up = header + 4 * (layer_header + scalar) + all_bytes
    ups = [sum(t.total_bytes for t in record.transfers if t.direction == "up") for record in given.progress.records]
    assert ups == [CLIENTS * full_up, CLIENTS * full_up, CLIENTS * (full_up - left_out), CLIENTS * full_up]
    full_down = header + 4 * layer_header + all_bytes
    downs = [sum(t.total_bytes for t in record.transfers if t.direction == "down") for record in given.progress.records]
    less = sum(4 * {"0.weight": 24, "2.weight": 18}[name] + layer_header for name in relaxed)
    assert downs == [CLIENTS * full_down, CLIENTS * full_down, CLIENTS * full_down, CLIENTS * (full_down - less)]


def test_it_moves_less_than_fedavg_of_flower(tmp_path: Path) -> None:
    ours, theirs = grid(tmp_path), grid(tmp_path, plain_app)
    started(strategy(), ours, 6)
    started(FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS), theirs, 6)
    assert theirs.bytes_of("train") == (6 * CLIENTS * 204, 6 * CLIENTS * 204)
    assert sum(ours.bytes_of("train")) < 0.95 * sum(theirs.bytes_of("train")) + 12 * CLIENTS * (40 + 4 * 24)


def test_with_phi_1_it_is_flowers_fedavg(tmp_path: Path) -> None:
    result = started(strategy(strategy=FedLAMA(BATCHES, 1)), grid(tmp_path))
    expected = started(FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS), grid(tmp_path, plain_app))
    for name, value in values(result).items():
        assert torch.allclose(value, values(expected)[name], atol=1e-6), name
    for number, metrics in expected.train_metrics_clientapp.items():
        assert result.train_metrics_clientapp[number]["train_loss"] == pytest.approx(metrics["train_loss"], abs=1e-6)
        assert "num-examples" not in result.train_metrics_clientapp[number]


def test_an_evaluation_sends_only_what_clients_lack(tmp_path: Path) -> None:
    given, on = strategy(fraction_evaluate=1.0, metric="eval_acc"), grid(tmp_path)
    result = started(given, on)
    down, up = on.bytes_of("evaluate")
    assert up == 0
    assert down == given.progress.run.ledger.total_bytes("evaluation-down")
    third = [t for t in given.progress.records[2].transfers if t.direction == "evaluation-down"]
    sent = {payload.layer for transfer in third for payload in transfer.payloads}
    assert sent == {name for name, layer in given.progress.records[2].layers.items() if layer.synchronised}
    assert len(sent) < 4
    # What the clients saw was the global model: the last evaluation is of the final one.
    model, total = net().requires_grad_(False), 0.0
    model.load_state_dict(values(result))
    for client in range(CLIENTS):
        x, y = data(client)
        total += float(nn.functional.cross_entropy(model(x), y)) / CLIENTS
    assert result.evaluate_metrics_clientapp[4]["eval_loss"] == pytest.approx(total)
    last = given.progress.records[-1]
    assert last.score is not None
    assert last.score.loss == pytest.approx(total)
    assert last.client_scores is not None
    assert sorted(last.client_scores.global_model) == [0, 1, 2]
    assert last.score.value == pytest.approx(
        sum(score.value for score in last.client_scores.global_model.values()) / CLIENTS
    )


def test_evaluations_change_nothing_that_is_trained(tmp_path: Path) -> None:
    one = started(strategy(), grid(tmp_path / "a"))
    other = started(strategy(fraction_evaluate=1.0), grid(tmp_path / "b"))
    for name, value in values(one).items():
        assert torch.equal(value, values(other)[name])


def test_a_client_that_lost_its_state_is_sent_all_within_the_round(tmp_path: Path) -> None:
    given, on = strategy(), grid(tmp_path)

    def lose(message: Message, client: int) -> None:
        round_index = message.content.config_records.get("request", {}).get("round_index")
        if client == 1 and round_index == 3:
            for file in tmp_path.rglob("client-1.safetensors"):
                file.unlink()

    on.fault = lose
    started(given, on)
    last = given.progress.records[3]
    assert last.missing == ()
    full = [t for t in last.transfers if t.direction == "down" and len(t.payloads) == 4]
    assert [t.clients for t in full] == [(1,)]
    assert on.bytes_of("train")[0] == given.progress.run.ledger.total_bytes("down")


@pytest.mark.parametrize("fault", ["crash", "lost"])
def test_a_round_goes_on_without_a_client_that_fails(tmp_path: Path, fault: str) -> None:
    given, on = strategy(out=str(tmp_path / "run")), grid(tmp_path)
    on.fault = lambda message, client: (
        fault if client == 2 and message.content.config_records.get("request", {}).get("round_index") == 1 else None
    )
    given.start(on, ArrayRecord(net().state_dict()), 4, 0.2)
    assert [record.missing for record in given.progress.records] == [(), (2,), (), ()]
    logged = lines(tmp_path / "run")
    assert [line["missing"] for line in logged] == [[], [2], [], []]
    assert any("code 8" in incident for incident in logged[1]["incidents"]) == (fault == "crash")


def interrupted(after: int, folder: Path, on: FakeGrid, **options: Any) -> None:  # noqa: ANN401
    """A server that dies while it waits for the replies of a round; the clients have trained it."""
    given = strategy(out=str(folder), **options)
    aggregate = given.aggregate_train

    def die(server_round: int, replies: Any) -> Any:  # noqa: ANN401
        if server_round == after:
            raise KeyboardInterrupt
        return aggregate(server_round, replies)

    given.aggregate_train = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        started(given, on)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_server_that_died_goes_on_bit_for_bit(tmp_path: Path, after: int) -> None:
    options: dict[str, Any] = {"fraction_evaluate": 1.0}
    whole = strategy(**options)
    expected = started(whole, grid(tmp_path / "other"))
    on = grid(tmp_path / "states")
    interrupted(after, tmp_path / "run", on, **options)
    trained = len(on.sent)
    given = strategy(out=str(tmp_path / "run"), **options)
    result = started(given, on)
    for name, value in values(result).items():
        assert torch.equal(value, values(expected)[name]), name
    assert given.progress.run.ledger.transfers == whole.progress.run.ledger.transfers
    assert result.train_metrics_clientapp == expected.train_metrics_clientapp
    assert result.evaluate_metrics_clientapp == expected.evaluate_metrics_clientapp
    first = [m for m in on.sent[trained:] if "request" in m.content and m.metadata.message_type == "train"]
    assert {m.content.config_records["request"]["round_index"] for m in first} == set(range(after - 1, 4))
    replayed = [line["replayed"] for line in lines(tmp_path / "run")]
    assert ([0, 1, 2] in replayed) == (after > 1)  # before the first round was written, the run had no name yet


def test_the_run_folder_is_one_of_ours(tmp_path: Path) -> None:
    given = strategy(out=str(tmp_path / "run"), fraction_evaluate=1.0, metric="eval_acc")
    result = started(given, grid(tmp_path))
    stored = load_run(tmp_path / "run").result()
    assert stored.ledger.transfers == given.progress.run.ledger.transfers
    assert stored.score is not None
    assert stored.score.value == pytest.approx(result.evaluate_metrics_clientapp[4]["eval_acc"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["in_force"]["solver"]["name"] == "app"
    assert config["in_force"]["sampler"] == {"name": "nodes", "fraction_train": 1.0, "min_train_nodes": 2}


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    started(strategy(out=str(tmp_path / "run")), grid(tmp_path))
    with pytest.raises(DataError, match=r"train-config\.lr was 0\.1, and is 0\.5 now"):
        strategy(out=str(tmp_path / "run")).start(
            grid(tmp_path), ArrayRecord(net().state_dict()), 4, 5.0, ConfigRecord({"lr": 0.5})
        )
    with pytest.raises(DataError, match=r"strategy\.increase_factor was 2, and is 4 now"):
        started(strategy(out=str(tmp_path / "run"), strategy=FedLAMA(BATCHES, 4)), grid(tmp_path))


def test_a_part_of_the_nodes_takes_part_for_a_cycle(tmp_path: Path) -> None:
    given = strategy(fraction_train=0.4, min_train_nodes=2, min_available_nodes=5)
    started(given, grid(tmp_path, clients=5), 8)
    cohorts = [record.cohort for record in given.progress.records]
    assert all(len(cohort) == 2 for cohort in cohorts)
    assert cohorts[0::2] == cohorts[1::2]
    assert len(set(cohorts)) > 1
    again = strategy(fraction_train=0.4, min_train_nodes=2, min_available_nodes=5)
    started(again, grid(tmp_path / "other", clients=5), 8)
    assert [record.cohort for record in again.progress.records] == cohorts


def test_a_mod_after_ours_sees_full_models(tmp_path: Path) -> None:
    seen: list[tuple[str, list[str]]] = []

    def mod(message: Message, context: Context, call_next: Any) -> Message:  # noqa: ANN401
        (arrays,) = message.content.array_records.values()
        seen.append((message.metadata.message_type, list(arrays)))
        assert list(message.content) == ["arrays", "config"]
        reply: Message = call_next(message, context)
        return reply

    started(strategy(fraction_evaluate=1.0), grid(tmp_path, lambda: plain_app(mods=[fedlama_mod, mod])), 2)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert seen == ([("train", names)] * CLIENTS + [("evaluate", names)] * CLIENTS) * 2


def test_messages_of_other_strategies_pass_the_mod_unchanged(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"min_available_nodes": CLIENTS}
    one = started(FedAvg(**settings), grid(tmp_path, our_app), 2)
    other = started(FedAvg(**settings), grid(tmp_path, plain_app), 2)
    for name, value in values(one).items():
        assert torch.allclose(value, values(other)[name], atol=1e-6)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_codecs_aggregators_and_strategies_of_ours_work(tmp_path: Path) -> None:
    given, on = strategy(codec=Float16(), aggregator=Median()), grid(tmp_path)
    result = started(given, on)
    expected = simulated(codec=Float16(), aggregator=Median())
    for name, value in values(result).items():
        assert torch.equal(value, expected.model[name]), name
    assert on.bytes_of("train") == (expected.ledger.total_bytes("down"), expected.ledger.total_bytes("up"))


def test_an_app_that_gives_only_arrays_works_without_a_model(tmp_path: Path) -> None:
    """As one that is not written in PyTorch: arrays are called "0", "1", ..."""

    def numpy_app() -> ClientApp:
        app = ClientApp(mods=[fedlama_mod])

        @app.train()
        def train(msg: Message, context: Context) -> Message:
            weights = msg.content["arrays"].to_numpy_ndarrays()
            client = int(context.node_config["partition-id"])
            trained = [weight + (client + 1 if weight.dtype == np.float64 else 1) for weight in weights]
            metrics = MetricRecord({"num-examples": 10 * (client + 1)})
            return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=msg)

        return app

    given = FedLAMAStrategy(FedLAMA(1, 1), fraction_evaluate=0.0, min_available_nodes=CLIENTS, poll=0.0)
    start = [np.zeros((2, 2)), np.zeros(3), np.array([5, 6])]
    result = given.start(grid(tmp_path, numpy_app), ArrayRecord(start), 1, 5.0)
    matrix, vector, whole = result.arrays.to_numpy_ndarrays()
    mean = (10 * 1 + 20 * 2 + 30 * 3) / 60  # weighted by the numbers of examples
    assert np.allclose(matrix, mean)
    assert np.allclose(vector, mean)
    assert whole.tolist() == [6, 7]
    assert np.isnan(given.progress.records[0].loss)  # no metric is called a loss


def test_a_strategy_that_follows_the_loss_needs_a_metric_for_it(tmp_path: Path) -> None:
    def quiet_app() -> ClientApp:
        def without_loss(message: Message, context: Context, call_next: Any) -> Message:  # noqa: ANN401
            reply: Message = call_next(message, context)
            del reply.content["metrics"]["train_loss"]
            return reply

        return plain_app(mods=[fedlama_mod, without_loss])

    given = strategy(strategy=AdaComm(1, first_interval=2, adapt_every=2))
    with pytest.raises(ConfigError, match="strategy is 'adacomm', which follows the training loss, but no metric"):
        started(given, grid(tmp_path, quiet_app))
    assert given.progress.records == []
    given = strategy(strategy=AdaComm(1, first_interval=2, adapt_every=2))
    started(given, grid(tmp_path / "other"), 2)
    assert given.progress.run.state.first_loss == pytest.approx(given.progress.records[0].loss)
    started(strategy(), grid(tmp_path / "third", quiet_app), 2)  # FedLAMA needs none


def test_a_reply_that_cannot_be_used_is_left_out(tmp_path: Path) -> None:
    """Flower's FedAvg ends the run where one client's metrics have other names."""

    def app() -> ClientApp:
        def spoil(message: Message, context: Context, call_next: Any) -> Message:  # noqa: ANN401
            reply: Message = call_next(message, context)
            if context.node_config["partition-id"] == 0 and message.metadata.message_type == "train":
                reply.content["metrics"] = MetricRecord({"num-examples": 20, "other": 1.0})
            if context.node_config["partition-id"] == 1 and message.metadata.message_type == "train":
                reply.content["metrics"]["num-examples"] = 2**60
            return reply

        return plain_app(mods=[fedlama_mod, spoil])

    given = strategy(out=str(tmp_path / "run"))
    with pytest.raises(Exception, match="MetricRecords"):
        started(FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS), grid(tmp_path, app), 1)
    given = strategy(out=str(tmp_path / "run"), clients=CLIENTS)
    started(given, grid(tmp_path, app), 1)
    assert given.progress.records[0].missing == (0, 1)
    (line,) = lines(tmp_path / "run")
    assert any("client 0" in text and "other names than those of most clients" in text for text in line["incidents"])
    assert any("client 1" in text and "expected 1 to 2^53 - 1" in text for text in line["incidents"])


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option 'fraction_trian'; did you mean 'fraction_train'"):
        strategy(fraction_trian=0.5)
    with pytest.raises(ConfigError, match="aggregation is 'secure', but FedLAMAStrategy averages single models"):
        strategy(aggregation="secure")
    with pytest.raises(ConfigError, match="aggregator is 'fedlpa', whose clients send Kronecker factors"):
        strategy(aggregator=FedLPA())
    with pytest.raises(ConfigError, match="fraction_train is 0"):
        strategy(fraction_train=0.0)
    arrays = dict(net().state_dict())
    del arrays["2.bias"]
    with pytest.raises(ConfigError, match=r"initial_arrays lacks '2\.bias'"):
        strategy().start(grid(tmp_path), ArrayRecord(arrays), 1, 5.0)
    frozen = net()
    frozen[0].bias.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"initial_arrays has '0\.bias', which no layer that is sent holds"):
        FedLAMAStrategy(FedLAMA(1, 2), frozen, min_available_nodes=CLIENTS, poll=0.0).start(
            grid(tmp_path), ArrayRecord(frozen.state_dict()), 1, 5.0
        )
