"""What a run returns: one record per round, and the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from fedlama.core.client_scores import ClientScores
from fedlama.core.figures import AXES, Axis, check_axis, curve_figure
from fedlama.core.layers import Layers
from fedlama.core.ledger import MEGABYTE, Direction, Ledger, Transfer, round_bytes
from fedlama.core.measures import Measure
from fedlama.core.plan import LayerStatistics, Plan
from fedlama.core.rows import Rows
from fedlama.core.scores import Score as Score

if TYPE_CHECKING:  # records are read from files without PyTorch
    from matplotlib.figure import Figure
    from torch import Tensor


def measure_of(records: Iterable[RoundRecord]) -> Measure | None:
    """Return the metric by which the evaluations of rounds are compared; None where nothing was evaluated.

    The last evaluation decides: a metric may be missing in the first ones.
    """
    scores = [record.score for record in records if record.score]
    return scores[-1].measure if scores else None


@dataclass(frozen=True)
class LayerRecord:
    """One layer in one round.

    Attributes:
        interval: Aggregation interval in force, in rounds.
        synchronised: Whether it was uploaded and averaged.
        discrepancy: sum_i p_i ||u - x_i||^2 before overwriting; None when it was not synchronised.
        unit_discrepancy: The paper's d_l: `discrepancy` per local step of the interval and per parameter (eq. 2); None
            when it was not synchronised.
        bytes_up: Uploaded payload bytes of all clients together.
        bytes_down: Downloaded payload bytes of all clients together.
        refused: Numbers of the clients whose values the aggregator left out.
    """

    interval: int
    synchronised: bool
    discrepancy: float | None
    unit_discrepancy: float | None
    bytes_up: int
    bytes_down: int
    refused: tuple[int, ...] = ()


def layer_records(
    layers: Layers,
    plan: Plan,
    local_steps: int,
    statistics: Mapping[str, LayerStatistics],
    transfers: Sequence[Transfer],
) -> dict[str, LayerRecord]:
    """Return the record of every layer in a round.

    Args:
        layers: The labelling.
        plan: The round's plan.
        local_steps: Local steps in a round.
        statistics: What the synchronisations measured, by layer that was averaged.
        transfers: The round's transfers.
    """
    up, down = _payload_bytes(transfers, "up"), _payload_bytes(transfers, "down")
    records = {}
    for layer in layers:
        measured = statistics.get(layer.name)
        steps = plan.rounds_apart(layer.name) * local_steps
        records[layer.name] = LayerRecord(
            interval=int(plan.intervals[layer.name]),  # a user's own may be NumPy's
            synchronised=layer.name in plan.upload,
            discrepancy=measured.discrepancy if measured else None,
            unit_discrepancy=measured.discrepancy / (steps * max(layer.parameters, 1)) if measured else None,
            bytes_up=up.get(layer.name, 0),
            bytes_down=down.get(layer.name, 0),
            refused=measured.refused if measured else (),
        )
    return records


def _payload_bytes(transfers: Sequence[Transfer], direction: Direction) -> dict[str, int]:
    """Return the payload bytes of each layer in one direction, of all clients together."""
    total: dict[str, int] = {}
    for transfer in transfers:
        for item in transfer.payloads if transfer.direction == direction else ():
            total[item.layer] = total.get(item.layer, 0) + len(transfer.clients) * item.payload_bytes
    return total


@dataclass(frozen=True)
class RoundRecord:
    """One round.

    Attributes:
        round_index: The round, from 0.
        local_steps: Local steps since the run began on the run's clock, the paper's k; each active client has taken
            them, unless `client_steps` names it.
        cohort: Numbers of the active clients, in ascending order.
        loss: Mean training loss over the clients that answered; NaN when too few did, and the round is void.
        layers: Every layer's record, by its name.
        transfers: The round's part of the ledger.
        score: Evaluation of the aggregated global model after the round; None when there was none.
        seconds: Wall-clock time of the round without evaluation.
        evaluation_seconds: Wall-clock time of the evaluation.
        client_steps: Local steps of this round of the clients that took another number than the strategy's; see
            :mod:`fedlama.core.local_work`.
        validation: Evaluation of the same global model on the validation set; None when there was none.
        client_scores: Evaluation of single clients on their own test sets; None when there was none.
        client_models: Client to its local model after the round, tensors by name; empty unless asked for.
    """

    round_index: int
    local_steps: int
    cohort: tuple[int, ...]
    loss: float
    layers: Mapping[str, LayerRecord]
    transfers: tuple[Transfer, ...]
    score: Score | None
    seconds: float
    evaluation_seconds: float
    client_steps: Mapping[int, int] = field(default_factory=dict)
    client_models: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict, repr=False)
    validation: Score | None = None
    client_scores: ClientScores | None = None

    @property
    def is_evaluated(self) -> bool:
        """Whether anything was evaluated after the round."""
        return any(part is not None for part in (self.score, self.validation, self.client_scores))

    @property
    def answered(self) -> tuple[int, ...]:
        """The clients that replied, in ascending order; fewer than the cohort when some were away."""
        # A deployment groups uploads by their sizes, so a round may have several.
        uploads = [transfer.clients for transfer in self.transfers if transfer.direction == "up"]
        return tuple(sorted(client for clients in uploads for client in clients))

    @property
    def missing(self) -> tuple[int, ...]:
        """The clients of the cohort that did not answer."""
        answered = set(self.answered)
        return () if len(answered) == len(self.cohort) else tuple(c for c in self.cohort if c not in answered)

    @property
    def bytes_up(self) -> int:
        """Bytes uploaded for training: payload, headers and scalars."""
        return round_bytes(self.transfers, "up")

    @property
    def bytes_down(self) -> int:
        """Bytes downloaded: payload and headers."""
        return round_bytes(self.transfers, "down")


def metric_rows(records: Iterable[RoundRecord]) -> Rows:
    """Return one row per round: losses, metrics, bytes and seconds.

    Args:
        records: The records of the rounds. What was not evaluated in a round is None.
    """
    records = list(records)
    names = list(dict.fromkeys(name for record in records if record.score for name in record.score.metrics))
    return Rows(
        {
            "round": record.round_index,
            "local_steps": record.local_steps,
            "clients": len(record.cohort),
            "train_loss": record.loss,
            "test_loss": record.score.loss if record.score else None,
            **{name: record.score.metrics.get(name) if record.score else None for name in names},
            "validation_loss": record.validation.loss if record.validation else None,
            "bytes_up": record.bytes_up,
            "bytes_down": record.bytes_down,
            "seconds": record.seconds,
        }
        for record in records
    )


def layer_rows(records: Iterable[RoundRecord]) -> Rows:
    """Return one row per round and layer: its interval in rounds, whether it was synchronised, the discrepancies.

    Args:
        records: The records of the rounds.
    """
    return Rows(
        {
            "round": record.round_index,
            "local_steps": record.local_steps,
            "layer": name,
            "interval": layer.interval,
            "synchronised": layer.synchronised,
            "discrepancy": layer.discrepancy,
            "unit_discrepancy": layer.unit_discrepancy,
            "bytes_up": layer.bytes_up,
            "bytes_down": layer.bytes_down,
        }
        for record in records
        for name, layer in record.layers.items()
    )


@dataclass(frozen=True)
class Best:
    """The best global model of a run, by the primary metric of the validation set.

    Attributes:
        round_index: The round after which it was evaluated, from 0.
        score: Its score on the validation set.
        model: The model, as a state dict.
    """

    round_index: int
    score: Score
    model: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        method: The strategy's name.
        rounds: The records, in order.
        ledger: All transfers.
        model: The aggregated global model, as a state dict.
        score: Its last evaluation; None without a test set.
        cost: The paper's C, in parameters.
        cost_percent: C relative to FedAvg with the strategy's base interval over the same local steps.
        seconds: Wall-clock time of all rounds, evaluation included.
        best: The best model by the validation set; None without one.
        stopped: Why the run ended before its budget was used up; None if it did not.
        figures: What the strategy says of the whole run, by label, such as the cost as other programs print it.
    """

    method: str
    rounds: tuple[RoundRecord, ...]
    ledger: Ledger
    model: Mapping[str, Tensor] = field(repr=False)
    score: Score | None
    cost: int
    cost_percent: float
    seconds: float
    best: Best | None = None
    stopped: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> Rows:
        """One row per round: losses, metrics, bytes and seconds."""
        return metric_rows(self.rounds)

    @property
    def layers(self) -> Rows:
        """One row per round and layer: intervals and discrepancies."""
        return layer_rows(self.rounds)

    def plot(self, over: Axis = "megabytes") -> Figure:
        """Return a figure of the primary metric, or of the training loss of a run without an evaluation.

        Args:
            over: What it is drawn over: ``"megabytes"`` up and down, ``"rounds"`` or ``"steps"``.

        Raises:
            ConfigError: It cannot be drawn over that.
        """
        check_axis(over)
        measure = measure_of(self.rounds)
        x, y, sent = [], [], 0
        for record in self.rounds:
            sent += record.bytes_up + record.bytes_down
            if measure is None or (record.score is not None and record.score.primary == measure.name):
                values = {"megabytes": sent / MEGABYTE, "rounds": record.round_index + 1, "steps": record.local_steps}
                x.append(float(values[over]))
                y.append(record.loss if measure is None or record.score is None else measure.shown(record.score.value))
        label = "training loss" if measure is None else f"test {measure.label}"
        return curve_figure(x, y, (AXES[over], label), f"{self.method}\n{self._facts()}")

    def __repr__(self) -> str:
        """Return the outcome on one line: the rounds, the transfers and the model are long."""
        return f"Result({self.method}: {self._facts()})"

    def _repr_html_(self) -> str:
        """Return the outcome as a small table, for notebooks."""
        facts = [fact.partition(" ") for fact in self._facts().split(", ")]
        rows = "".join(f"<tr><th>{escape(unit)}</th><td>{escape(number)}</td></tr>" for number, _, unit in facts)
        return f"<table><caption>{escape(self.method)}</caption>{rows}</table>"

    def _facts(self) -> str:
        """Return primary metric, rounds, bytes, cost and seconds as words."""
        score, ledger = self.score, self.ledger
        metric = [] if score is None else [f"{score.measure.text(score.value)} {score.measure.label}"]
        sent = [f"{ledger.total_bytes(way) / MEGABYTE:.2f} MB {way}" for way in ("up", "down")]
        more = [f"{len(self.rounds)} rounds", *sent, f"{self.cost_percent:.1f} C %", f"{self.seconds:.1f} seconds"]
        return ", ".join([*metric, *more])

    @property
    def client_scores(self) -> ClientScores | None:
        """The last evaluation of single clients; None when there was none."""
        return next((record.client_scores for record in reversed(self.rounds) if record.client_scores), None)

    @property
    def bytes_per_step(self) -> float:
        """Bytes up and down of all clients together per local step of the run's clock.

        Unlike C it does not depend on a base interval, so costs of different experiments on one model can be compared.
        """
        steps = self.rounds[-1].local_steps if self.rounds else 0
        return (self.ledger.total_bytes("up") + self.ledger.total_bytes("down")) / max(steps, 1)
