"""The event file: read back by hand, and by TensorBoard itself where it is installed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedlama import FedlamaError, RoundRecord
from fedlama.reporting.tracking import TensorBoard
from fedlama.reporting.tracking.events import crc32c
from tests.tracking.conftest import EXPECTED


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def messages(data: bytes) -> list[bytes]:
    """Take records apart, checking both checksums."""
    found = []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        assert struct.unpack_from("<I", data, 8)[0] == masked(data[:8])
        message = data[12 : 12 + length]
        assert struct.unpack_from("<I", data, 12 + length)[0] == masked(message)
        found.append(message)
        data = data[16 + length :]
    return found


def fields(data: bytes) -> list[tuple[int, int | float | bytes]]:
    """Read a protocol-buffer message: field numbers and values."""
    at, found = 0, []

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        value: int | float | bytes
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 1:
            (value,), at = struct.unpack_from("<d", data, at), at + 8
        elif key & 7 == 5:
            (value,), at = struct.unpack_from("<f", data, at), at + 4
        else:
            size = varint()
            value, at = data[at : at + size], at + size
        found.append((key >> 3, value))
    return found


def write(folder: Path, records: list[RoundRecord]) -> Path:
    with TensorBoard(folder) as tracker:
        for record in records:
            tracker.on_round(record)
    (file,) = folder.iterdir()
    return file


def test_checksums_are_castagnolis() -> None:
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_the_file_holds_the_numbers(tmp_path: Path, records: list[RoundRecord]) -> None:
    first, *events = messages(write(tmp_path / "new" / "folder", records).read_bytes())
    assert dict(fields(first))[3] == b"brain.Event:2"
    found = {}
    for event in events:
        parts = dict(fields(event))
        assert isinstance(parts[5], bytes)
        values = [dict(fields(value)) for _, value in fields(parts[5]) if isinstance(value, bytes)]
        found[parts[2]] = {value[1].decode(): value[2] for value in values if isinstance(value[1], bytes)}
    assert found == {step: pytest.approx(numbers) for step, numbers in EXPECTED.items()}


def test_a_resumed_run_begins_its_file_anew(tmp_path: Path, records: list[RoundRecord]) -> None:
    (tmp_path / "events.out.tfevents.1.fedlama").write_bytes(b"old")
    assert len(messages(write(tmp_path, records).read_bytes())) == 3


def test_nothing_is_written_before_the_first_round(tmp_path: Path) -> None:
    with TensorBoard(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path, records: list[RoundRecord]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedlamaError, match="--track none"):
        write(tmp_path / "file" / "folder", records)


READ = """
import json, sys, warnings
warnings.simplefilter("ignore")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
seen = EventAccumulator(sys.argv[1]); seen.Reload()
print(json.dumps({tag: [[one.step, one.value] for one in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard")
def test_tensorboard_reads_it(tmp_path: Path, records: list[RoundRecord]) -> None:
    write(tmp_path, records)
    run = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=True)
    found: dict[int, dict[str, float]] = {5: {}, 10: {}}
    for tag, points in json.loads(run.stdout.splitlines()[-1]).items():
        for step, value in points:
            found[step][tag] = value
    assert found == {step: pytest.approx(numbers) for step, numbers in EXPECTED.items()}
