"""Verify a run: compute its first rounds again from its configuration, and compare them bit for bit.

Every number of a round except the seconds is compared: losses, scores, the ledger, and for each layer its interval,
bytes and discrepancy, which depends on the bits of every client's local model. At a checkpoint and at the end of the
run the tensors are compared as well. For a run that was changed, or trained by another program, with other versions of
libraries or on another kind of machine, the first difference is reported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedlama.core.records import RoundRecord
from fedlama.errors import DataError, DivergenceError
from fedlama.experiment import Catalogue, assemble, prepare, resolve
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run
from fedlama.federation.strategy_state import restore_state
from fedlama.runs.autosave import FOLDER
from fedlama.runs.checkpoint import Snapshot, whole_snapshots
from fedlama.runs.configuration import completed, config_differences, federation_differences
from fedlama.runs.folder import LINES, environment, metrics_line
from fedlama.runs.reader import ADDED, is_built_in_python, stored_description
from fedlama.runs.stored import StoredRun, load_run

_SECONDS = ("seconds", "evaluation_seconds")


@dataclass(frozen=True)
class Verdict:
    """The result of a verification.

    Attributes:
        path: The run folder.
        rounds: Number of rounds that were computed again.
        of: Number of rounds of the run.
        recorded: Fingerprint (SHA-256, 16 digits) of those rounds in the run folder.
        computed: Fingerprint of the same rounds, computed now.
        models: What was compared tensor by tensor, such as ``"model.safetensors"``.
        difference: The first difference, as a sentence; None if there is none.
        environment: Differences between the program and machine then and now.
    """

    path: Path
    rounds: int
    of: int
    recorded: str
    computed: str
    models: tuple[str, ...]
    difference: str | None
    environment: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {**asdict(self), "path": str(self.path), "same": self.difference is None}

    def lines(self) -> list[str]:
        """Return the result as sentences."""
        those = f"round 0 to {self.rounds - 1} of {self.of}" if self.rounds > 1 else f"round 0 of {self.of}"
        hashes = f"{self.recorded} in the run folder, {self.computed} computed now"
        if self.difference is None:
            also = f" and {', '.join(self.models)}" if self.models else ""
            return [f"{self.path}: {those}{also} are the same to the last bit", f"fingerprint: {hashes}"]
        lines = [f"{self.path}: {self.difference}", f"fingerprint of {those}: {hashes}"]
        if self.environment:
            lines.append(f"the environments differ, which may be the reason: {'; '.join(self.environment)}")
        return lines


def verify(
    path: Path | str, federation: Federation | None = None, *, rounds: int | None = None, plugins: Sequence[str] = ()
) -> Verdict:
    """Compute the first rounds of a run again and compare them.

    Args:
        path: The run folder; the run may be unfinished.
        federation: For a run of a federation that was built in Python: the same federation, made again. Its
            `evaluate_every` is the stored one's where it is None, as :func:`fedlama.compare` sets it.
        rounds: Number of rounds; by default all rounds in the folder.
        plugins: Files or modules with options of the user's own. A run folder is not trusted to name code, so nothing
            else is imported.

    Returns:
        The result.

    Raises:
        DataError: It is not a run folder, or its run cannot be computed again from its configuration.
        ConfigError: This version cannot run the configuration, or the federation is of other code or data.
    """
    path = Path(path)
    stored = load_run(path)
    run = Run(_federation(stored, plugins) if federation is None else _evaluated_alike(federation, stored))
    count = min(len(stored.rounds), run.federation.budget.rounds, rounds or len(stored.rounds))
    snapshots = {snapshot.rounds_done: snapshot for snapshot in whole_snapshots(path / FOLDER, lambda _: None)}
    computed: list[RoundRecord] = []
    models: list[str] = []
    difference = _description(stored, run)
    try:
        while difference is None and run.round_index < count:
            computed.append(run.advance())
            difference = _round(stored.rounds[len(computed) - 1], computed[-1])
            if difference is None and run.round_index in snapshots:
                models.append(f"the checkpoint after round {run.round_index - 1}")
                recorded = completed(snapshots[run.round_index], stored.config)
                difference = _snapshot(recorded, run, models[-1])
    except DivergenceError as error:
        difference = f"computed now, but not in the run folder: {error}"
    if difference is None and run.round_index == len(stored.rounds) and stored.summary:
        then, now = stored.result(), run.result(computed)
        models.append("model.safetensors")
        difference = _tensors(then.model, _stored_part(now.model, stored), models[-1])
        if difference is None and now.best is not None:
            models.append("best.safetensors")
            difference = _tensors(
                {} if then.best is None else then.best.model, _stored_part(now.best.model, stored), models[-1]
            )
    known = stored.rounds[: max(len(computed), 1)]
    return Verdict(
        path=path,
        rounds=len(computed),
        of=run.federation.budget.rounds,
        recorded=fingerprint(known),
        computed=fingerprint(computed),
        models=tuple(models),
        difference=difference,
        environment=tuple(_environment_differences(stored.config.get("environment"))),
    )


def fingerprint(records: Iterable[RoundRecord]) -> str:
    """Return a digest of the content of rounds, without the seconds.

    Args:
        records: The records of the rounds.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(_facts(record), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _federation(stored: StoredRun, plugins: Sequence[str]) -> Federation:
    """Assemble the federation of a stored run again."""
    if not stored.config:
        raise DataError(
            f"{stored.path} has no config.json, so its run cannot be computed again; verify a run that has one"
        )
    if (stored.path / "network.jsonl").exists():
        raise DataError(
            f"the run in {stored.path} was a deployment, whose clients computed elsewhere and may have been missing; "
            "verify a run of `fedlama run` or `fedlama compare`"
        )
    if is_built_in_python(stored.config):
        raise DataError(
            f"the run in {stored.path} is of a federation that was built in Python, and a run folder holds no code; "
            "verify it where that federation is made, with fedlama.verify(folder, federation)"
        )
    config = {key: value for key, value in stored.config.items() if key not in ADDED}
    experiment = resolve(config, Catalogue(plugins=tuple(plugins), trusted_only=True))
    return assemble(experiment, prepare(experiment))


def _evaluated_alike(federation: Federation, stored: StoredRun) -> Federation:
    """Return a federation that is evaluated in the same rounds as a stored run, unless it says when itself."""
    every = stored_description(stored.config).get("evaluate_every")
    if federation.evaluate_every is not None or type(every) is not int:
        return federation
    return replace(federation, evaluate_every=every)


def _description(stored: StoredRun, run: Run) -> str | None:
    """Compare what ran then and now, which a preset, another version or other code may have changed."""
    if "in_force" not in stored.config:
        return None
    changed = config_differences(stored.config, None, run.federation)
    return f"before round 0: {changed[0]}" if changed else None


def _facts(record: RoundRecord) -> dict[str, Any]:
    """Return the content of a round, as the files of a run folder hold it: metrics, transfers and layers."""
    metrics = {key: value for key, value in metrics_line(record).items() if key not in _SECONDS}
    layers = {name: asdict(layer) for name, layer in record.layers.items()}
    facts = {"layers": layers, "metrics": metrics, "shipments": [transfer.to_json() for transfer in record.transfers]}
    copied: dict[str, Any] = json.loads(json.dumps(facts))
    return copied


def _round(recorded: RoundRecord, computed: RoundRecord) -> str | None:
    """Return the first difference of a round as a sentence; layers first, since they show where it began."""
    then, now = _facts(recorded), _facts(computed)
    where = f"round {computed.round_index}"
    if list(then["layers"]) != list(now["layers"]):
        return f"{where}: its layers are {_names(then)}, computed now {_names(now)}"
    for name, layer in now["layers"].items():
        for key, value in layer.items():
            if then["layers"][name].get(key) != value:
                return f"{where}, layer {name!r}: {key} is {then['layers'][name].get(key)}, computed now {value}"
    for key, value in now["metrics"].items():
        if then["metrics"].get(key) != value:
            return f"{where}: {key} is {then['metrics'].get(key)}, computed now {value}"
    return None if then["shipments"] == now["shipments"] else f"{where}: the transfers of the ledger differ"


def _names(facts: Mapping[str, Any]) -> str:
    return ", ".join(facts["layers"]) or "none"


def _snapshot(recorded: Snapshot, run: Run, what: str) -> str | None:
    """Return the first difference between a checkpoint and a run in the same round as a sentence."""
    computed = run.state_dict()
    then: dict[str, Any] = dict(recorded.facts)
    now = dict(computed.facts)
    if changed := federation_differences(then.pop("federation", {}), run.federation):
        return f"{what}: {changed[0]}"
    del now["federation"], now["strategy"]
    then.pop(LINES, None)
    if not _same_state(then.pop("strategy", None), run) or json.loads(json.dumps(now)) != then:
        return f"{what}: the strategy's or the cohort's state differs"
    return _tensors(recorded.tensors, computed.tensors, what)


def _same_state(recorded: object, run: Run) -> bool:
    """Compare the strategy's state as an object: a set in it has no order, and its JSON differs between processes."""
    try:
        return bool(restore_state(run.federation.strategy, run.state, recorded) == run.state)
    except ValueError:
        return False


def _tensors(recorded: Mapping[str, Tensor], computed: Mapping[str, Tensor], what: str) -> str | None:
    """Return the first difference between named tensors as a sentence."""
    if set(recorded) != set(computed):
        return f"{what}: the names of its tensors are not those of the run"
    for name, value in computed.items():
        if not torch.equal(recorded[name], value.detach().cpu()):
            return f"{what}: tensor {name!r} differs"
    return None


def _stored_part(model: Mapping[str, Tensor], stored: StoredRun) -> dict[str, Tensor]:
    """Return the tensors of a model that a run folder keeps: all but those that nothing trained."""
    return {name: value for name, value in model.items() if name not in stored.missing}


def _environment_differences(then: object) -> Iterator[str]:
    """Yield the differences between the environment of a run and this one."""
    if not isinstance(then, Mapping):
        yield "the run folder does not name its environment"
        return
    now = environment()
    for key, value in now.items():
        pairs = [(key, then.get(key), value)]
        if isinstance(value, Mapping):
            before = then.get(key)
            known = before if isinstance(before, Mapping) else {}
            pairs = [(name, known.get(name), version) for name, version in value.items()]
        yield from (f"{name} was {before}, and is {after} here" for name, before, after in pairs if before != after)
