"""An experiment: everything that determines a run, as plain settings and choices."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from fedlama.choices.aggregators import Aggregator
from fedlama.choices.availability import Availability
from fedlama.choices.codecs import Codec
from fedlama.choices.personal import Personal
from fedlama.choices.privacy import Privacy
from fedlama.choices.samplers import Sampler
from fedlama.choices.server_optimizers import ServerOptimizer
from fedlama.choices.solvers import LocalSolver
from fedlama.choices.strategies import Strategy
from fedlama.choices.tasks import Task
from fedlama.core.budget import GivenBudget
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT, is_left_out, with_first_words
from fedlama.core.labelling import Labelling
from fedlama.core.local_work import LocalWork
from fedlama.core.validation import at_least, between, check_seed, normalise_numbers, one_of, refuse
from fedlama.data.arrays import DataSource
from fedlama.data.partition.base import Partitioner
from fedlama.data.reduction import Reduction
from fedlama.errors import shown
from fedlama.experiment.catalogue import OwnEngine
from fedlama.experiment.options import Origin, origin_of, plain, plain_choice, plain_settings
from fedlama.experiment.sections import SECTIONS
from fedlama.federation.settings import EvaluatedClients, Weighting
from fedlama.models.base import Architecture

_LOCAL_STEPS = 480
_NAME = re.compile(r"[\w-][\w.-]{0,99}")


@dataclass(frozen=True)
class Settings:
    """The keys of an experiment file outside any section.

    Args:
        name: Name of the folder of the run folders.
        seed: Decides every random draw, initial weights and partition included.
        local_steps: Budget K: local iterations of each active client over the whole run. One of `local_steps`, `rounds`
            and `epochs` is given; without any, the budget is 480 local steps.
        batch_size: Samples per local step.
        normalise: Standardise images per ``"channel"`` or per ``"pixel"``, over the training images; ``"none"`` only
            scales pixels to [0, 1].
        augment: Pad by 4, crop and flip training images.
        short_clients: Let clients with fewer samples than a batch train on short batches.
        drop_last: Leave the samples out that are left over at the end of an epoch, so that batches are equally long.
        weighting: Client weights p_i: ``"samples"`` for shares of the rows, ``"equal"`` for the same weight for all,
            ``"fednova"`` for shares of changes that are divided by each client's steps.
        evaluate: The model that is scored: the ``"global"`` average, or, as in the authors' program, the
            ``"best_client"``; see :class:`fedlama.Federation`.
        evaluate_every: Local steps between evaluations; None for a cycle of the strategy.
        engine: Name of the engine, or where one of the user's own is, such as ``"my_engine.py:MyEngine"``.
        device: Torch device of the computation, such as ``"cpu"`` or ``"cuda"``.
        rounds: The budget in rounds.
        epochs: The budget in epochs of the average client's data; see :class:`fedlama.Federation`.
        precision: ``"bfloat16"`` runs the model under torch's autocast, in the engines stacked, workers and auto.
        micro_batch_size: Samples that a client computes at a time, at most; see :class:`fedlama.Federation`.
        local_work: What clients do in a round; see :class:`fedlama.core.local_work.LocalWork`.
        privacy: Limits of what the model may say of one client; see :class:`fedlama.choices.privacy.Privacy`.
        personal: How clients blend and train heads of their own; see :class:`fedlama.choices.personal.Personal`.
        evaluate_clients: Which models are scored on the clients' own test sets; see :class:`fedlama.Federation`.
        client_test_share: Share of every client's training rows that is kept out of training as the client's own test
            set; 0 to use the test rows of the client's natural groups, where the data have them.
        client_validation_share: Share of every client's training rows that is kept out of training as the client's own
            validation set, which personal models need; 0 for none.
        validation_share: Share of every client's training rows that is kept out of training as the validation set, by
            which the best model is chosen and early stopping decides; 0 for none.
        patience: Evaluations in a row without an improvement on the validation set after which the run ends; None to
            use the whole budget.
        min_delta: How much better than at the last improvement a value of the primary metric must be to count as one.
        preset: ``"paper"`` changes nothing; ``"authors"`` sets every switch as in the authors' program.
    """

    name: str = "digits"
    seed: int = 0
    local_steps: int | None = None
    batch_size: int = 16
    normalise: Literal["channel", "pixel", "none"] = "channel"
    augment: bool = False
    short_clients: bool = False
    drop_last: bool = field(default=False, metadata=LEFT_OUT_AT_DEFAULT)
    weighting: Weighting = "samples"
    evaluate: Literal["global", "best_client"] = "global"
    evaluate_every: int | None = None
    engine: str = "auto"
    device: str = "cpu"
    preset: Literal["paper", "authors"] = "paper"
    rounds: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    epochs: float | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    precision: Literal["float32", "bfloat16"] = field(default="float32", metadata=LEFT_OUT_AT_DEFAULT)
    micro_batch_size: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    local_work: LocalWork = field(default=LocalWork(), metadata=LEFT_OUT_AT_DEFAULT)
    privacy: Privacy | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    personal: Personal | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    evaluate_clients: EvaluatedClients = field(default="none", metadata=LEFT_OUT_AT_DEFAULT)
    client_test_share: float = field(default=0.0, metadata=LEFT_OUT_AT_DEFAULT)
    client_validation_share: float = field(default=0.0, metadata=LEFT_OUT_AT_DEFAULT)
    validation_share: float = field(default=0.0, metadata=LEFT_OUT_AT_DEFAULT)
    patience: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    min_delta: float = field(default=0.0, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        if (self.local_steps, self.rounds, self.epochs) == (None, None, None):
            object.__setattr__(self, "local_steps", _LOCAL_STEPS)
        problems = at_least(self, 1, *([] if self.local_steps is None else ["local_steps"]), "batch_size")
        if self.evaluate_every is not None:
            problems += at_least(self, 1, "evaluate_every")
        problems += check_name(self.name)
        problems += check_seed(self.seed) + at_least(self, 0, "min_delta") + between(self, 0, 1, "validation_share")
        problems += between(self, 0, 1, "client_test_share", "client_validation_share")
        if self.patience is not None:
            problems += at_least(self, 1, "patience")
        problems += self.budget.problems() if not problems else []
        problems += one_of(self, "precision", ("float32", "bfloat16"))
        refuse(problems + one_of(self, "preset", ("paper", "authors")))

    @property
    def budget(self) -> GivenBudget:
        """The length of the run as it was given."""
        return GivenBudget(self.local_steps, self.rounds, self.epochs)


@dataclass(frozen=True)
class Experiment:
    """Settings and choices; see the sections of an experiment file.

    Attributes:
        settings: The keys outside any section.
        reduction: The keys of ``[data]`` that go with every data set.
        engine: An engine of the user's own; None for the one that ``settings.engine`` names.
    """

    settings: Settings
    data: DataSource
    partition: Partitioner
    model: Architecture
    task: Task
    layers: Labelling
    strategy: Strategy[Any]
    solver: LocalSolver
    sampler: Sampler
    availability: Availability
    codec: Codec
    server_optimizer: ServerOptimizer
    aggregator: Aggregator
    engine: OwnEngine | None = None
    reduction: Reduction = field(default_factory=Reduction)

    @property
    def origins(self) -> dict[str, Origin]:
        """Where the options of the user's own come from, by section; empty when all options are ours."""
        origins = {name: origin_of(getattr(self, name)) for name in SECTIONS}
        origins["engine"] = None if self.engine is None else self.engine.origin
        return {section: origin for section, origin in origins.items() if origin is not None}

    def to_json(self) -> dict[str, object]:
        """Return the resolved configuration: every key with the value in force.

        Keys that came after the first version are left out where they have their default.
        With options of the user's own, ``sources`` has the SHA-256 of each one's code.
        """
        settings = {
            field.name: plain(getattr(self.settings, field.name))
            for field in fields(self.settings)
            if not is_left_out(self.settings, field)
        }
        sections = {section: plain_choice(getattr(self, section)) for section in SECTIONS}
        sections["data"] |= plain_settings(self.reduction)
        sources = {section: origin.digest for section, origin in self.origins.items()}
        return {**settings, **sections} | ({"sources": sources} if sources else {})

    def digest(self, size: int = 4) -> str:
        """Return a hexadecimal digest of the resolved configuration: equal settings have equal digests.

        Names that changed since the first version count as they were then, and what that version did not have does not
        count at its default, so a rename or an addition moves no run folder.

        Args:
            size: Length in bytes.
        """
        implied = added_sections()
        config = {key: value for key, value in self.to_json().items() if key not in implied or value != implied[key]}
        text = json.dumps(with_first_words(config), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def added_sections() -> dict[str, object]:
    """Return the sections that version 0.1 did not have, as plain types: a configuration without them implies this."""
    return {name: plain_choice(section.default) for name, section in SECTIONS.items() if section.added}


def check_name(name: str) -> list[str]:
    """Report a name that cannot name a folder.

    Args:
        name: The name of an experiment, a comparison or a run.
    """
    if _NAME.fullmatch(name):
        return []
    return [f"name is {shown(name)}, but it names a folder; use up to 100 letters, digits, '-', '_' and '.'"]
