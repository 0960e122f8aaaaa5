"""A seeded part of the fuzzing: every target, from valid input that is damaged and from plain noise."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import main, reason
from tests.fuzz.harness import Defect, Target, attempt, draw
from tests.fuzz.targets import TARGETS

EXAMPLES = 40
BY_NAME = {target.name: target for target in TARGETS}


@pytest.mark.parametrize("name", BY_NAME)
def test_damaged_input_is_accepted_or_refused(name: str) -> None:
    target = BY_NAME[name]

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def look(seed: int) -> None:
        attempt(target, draw(target, seed))

    look()


@pytest.mark.parametrize("name", BY_NAME)
def test_noise_is_accepted_or_refused(name: str) -> None:
    target = BY_NAME[name]

    @settings(max_examples=EXAMPLES // 2, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300))
    def look(data: bytes) -> None:
        attempt(target, data)

    look()


@pytest.mark.parametrize("name", sorted(BY_NAME.keys() - {"client-state"}))  # that one gives no reason
def test_the_inputs_reach_deep(name: str) -> None:
    """Some are accepted, and the others are refused for more than one reason: no target sees bad magic alone."""
    told = {reason(attempt(BY_NAME[name], draw(BY_NAME[name], seed)).says) for seed in range(120)}
    assert "" in told
    assert len(told) >= {"cifar-binary": 2, "speeches": 2}.get(name, 5), told


def test_a_defect_is_found_and_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def careless(data: bytes) -> None:
        if len(data) > 3:
            raise KeyError("round")

    target = Target("careless", lambda random: bytes(random.randrange(8)), careless)
    with pytest.raises(Defect, match="careless: KeyError: 'round'"):
        attempt(target, b"four")
    monkeypatch.setattr("tests.fuzz.__main__.TARGETS", (target,))
    assert main(["--inputs", "50"]) == 1
    assert "KeyError at test_targets.py" in capsys.readouterr().out


def test_memory_without_bounds_is_a_defect() -> None:
    target = Target("greedy", lambda _random: b"", lambda _data: bytearray(1 << 31))
    with pytest.raises(Defect, match="MemoryError"):
        attempt(target, b"")
