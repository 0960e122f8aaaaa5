"""A codec of your own: one byte per number instead of four, and what that costs in accuracy. And ours in 4 bits.

    python examples/05_own_codec.py

A codec decides in how many bits a layer is sent. This one is for uploads; `Differences` sends changes in both
directions. docs/how-to/codec.md explains the methods, docs/how-to/codecs.md the codecs that exist.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import fedlama as fl


@dataclass(frozen=True)
class EightBits(fl.Codec):
    """Round to 256 levels between the smallest and the largest value of each tensor."""

    name: ClassVar[str] = "eight-bits"

    def payload_bytes(self, spec: fl.TensorSpec) -> int:
        """Return the length of a payload: two float32 for the range, one byte per element."""
        return 8 + spec.size

    def encode(self, tensor: Tensor) -> bytes:
        """Write the range and the levels."""
        low, high = float(tensor.min()), float(tensor.max())
        step = (high - low) / 255 or 1.0
        levels = ((tensor.float() - low) / step).round().to(torch.uint8)
        return struct.pack("<ff", low, step) + levels.numpy().tobytes()

    def decode(self, data: bytes, spec: fl.TensorSpec) -> Tensor:
        """Read them back."""
        if len(data) != self.payload_bytes(spec):
            raise fl.DataError(f"{spec.name} has {len(data)} bytes, expected {self.payload_bytes(spec)}; send it again")
        low, step = map(float, struct.unpack_from("<ff", data))
        levels = torch.frombuffer(bytearray(data[8:]), dtype=torch.uint8)
        return (low + step * levels.float()).reshape(spec.shape).to(spec.dtype)


torch.manual_seed(0)
digits = fl.data.digits.load()
rows = fl.data.partition.iid(digits.train_y.numpy(), clients=8, seed=0)
clients = [fl.ClientData(digits.train_x[mine] / 255, digits.train_y[mine], batch_size=16) for mine in rows]
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
test_set = fl.TestSet(digits.test_x / 255, digits.test_y)

for codec in (fl.Float32(), EightBits(), fl.Differences(bits=4)):
    result = fl.Federation(model, clients, fl.FedAvg(4), local_steps=96, codec=codec, test_set=test_set).run()
    assert result.score is not None
    sent = {direction: result.ledger.total_bytes(direction) for direction in ("up", "down")}
    print(f"{codec.name}: accuracy {result.score.accuracy:.1%}, {sent['up']} bytes up, {sent['down']} down")
