"""What secure aggregation cannot be combined with, because the server would have to see something of single clients."""

from __future__ import annotations

from typing import Any

from fedlama.choices.codecs import Codec
from fedlama.choices.samplers import Sampler, looks_at_losses
from fedlama.choices.strategies import Strategy
from fedlama.experiment import Experiment
from fedlama.flower.secure.agreement import LEAST_CLIENTS

_IN_CLEAR = "remove it, or choose --aggregation models"


def choice_problems(
    codec: Codec, strategy: Strategy[Any], sampler: Sampler, weighting: str, evaluate_clients: str
) -> list[str]:
    """Return which choices do not go with secure aggregation, one sentence each.

    Args:
        codec: The codec.
        strategy: The strategy.
        sampler: The sampler.
        weighting: How clients are weighted.
        evaluate_clients: Which models clients score.
    """
    problems = codec_problems(codec)
    problems += score_problems(shown=evaluate_clients != "none")
    problems += sender_problems(chosen=getattr(strategy, "chooses_senders", False))
    if weighting == "fednova":
        problems.append(
            "weighting is 'fednova', whose weights depend on which clients answer, but under secure aggregation each "
            'client weighs its upload before; set weighting = "samples" or "equal"'
        )
    if looks_at_losses(sampler):
        problems.append(
            f"sampler is {sampler.name!r}, which chooses by losses of single clients, but aggregation is 'secure'; "
            f"{_IN_CLEAR}"
        )
    return problems


def experiment_problems(experiment: Experiment) -> list[str]:
    """Return what of an experiment does not go with secure aggregation, one sentence each.

    Args:
        experiment: The experiment.
    """
    settings, sampler = experiment.settings, experiment.sampler
    active = getattr(sampler, "active", getattr(experiment.partition, "clients", LEAST_CLIENTS))
    problems = choice_problems(
        experiment.codec, experiment.strategy, sampler, settings.weighting, settings.evaluate_clients
    )
    return problems + size_problems(active if isinstance(active, int) else LEAST_CLIENTS)


def score_problems(*, shown: bool) -> list[str]:
    """Return the problem of scores of single clients.

    Args:
        shown: Whether they are asked for.
    """
    return [f"evaluate_clients shows scores of single clients, but aggregation is 'secure'; {_IN_CLEAR}"] * shown


def sender_problems(*, chosen: bool) -> list[str]:
    """Return the problem of strategies that ask different layers of different clients.

    Args:
        chosen: Whether they are.
    """
    sentence = (
        "the strategy asks different layers of different clients, but aggregation is 'secure', whose masks cancel only "
        "in sums over all; choose another strategy, or --aggregation models"
    )
    return [sentence] * chosen


def codec_problems(codec: Codec) -> list[str]:
    """Return why uploads that a codec compressed cannot be added up; empty for those that are not compressed."""
    uploads = getattr(codec, "up", codec)
    if uploads.name == "float32":
        return []
    return [
        f"codec is {codec.name!r}, but masked numbers take 8 bytes each and cannot be compressed; remove it, or choose "
        "--aggregation models"
    ]


def size_problems(clients: int) -> list[str]:
    """Return why a cohort is too small.

    Args:
        clients: Its clients.
    """
    if clients >= LEAST_CLIENTS:
        return []
    return [
        f"a cohort has {clients} clients, expected {LEAST_CLIENTS} or more for secure aggregation: of fewer, a client "
        "can subtract itself from the sum; let more take part, or choose --aggregation models"
    ]
