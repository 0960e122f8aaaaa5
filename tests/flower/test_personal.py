"""Deployed clients keep heads of their own, with the bits of a simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedlama as fl
from fedlama.choices.personal import OWN_SHARE
from fedlama.flower.client.state import load
from tests.engines.test_personal import FLAYER
from tests.flower.cases import assert_same_bits, deployed, federation, in_process

GIVEN = FLAYER | {"test_set": None, "evaluate_every": 2}


@pytest.mark.parametrize(
    "changes", [{}, {"personal": fl.Personal(own_share=0.3)}, {"sampler": fl.AllClients()}], ids=str
)
def test_a_deployment_has_the_bits_of_a_simulation(tmp_path: Path, changes: dict[str, Any]) -> None:
    given = federation(**(GIVEN | changes))
    ours, theirs = deployed(given, in_process(given, tmp_path)).to_end([]), given.run()
    assert_same_bits(ours, theirs)
    for record, expected in zip(ours.rounds, theirs.rounds, strict=True):
        assert record.client_scores == expected.client_scores
        assert expected.client_scores is not None
        assert expected.client_scores.own_model


def test_a_node_keeps_its_head_and_its_share(tmp_path: Path) -> None:
    given = federation(**(GIVEN | {"sampler": fl.AllClients()}))
    simulated = fl.Run(given)
    simulated.to_end([])
    channel = in_process(given, tmp_path)
    deployed(given, channel).to_end([])
    kept = load(channel.path(2))
    assert kept is not None
    assert float(kept.values[OWN_SHARE]) == float(simulated.engine.client_values(2)[OWN_SHARE])


def test_a_client_with_other_settings_is_refused(tmp_path: Path) -> None:
    given = federation(**GIVEN)
    other = replace(given, personal=fl.Personal(own_share=0.5))
    with pytest.raises(fl.FedlamaError, match="privacy or personal"):
        deployed(given, in_process(other, tmp_path)).to_end([])
