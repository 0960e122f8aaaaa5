"""What all rows share: the device, the numbers that are computed in, the clock, and the memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

Numbers = Literal["float32", "tf32", "bfloat16"]
"""What a row computes in: float32 with TF32 off, float32 with TF32 on, or bfloat16 by autocast with TF32 on."""
Values = dict[str, Any]
"""What a row measured, as plain JSON types."""


@dataclass(frozen=True)
class Setting:
    """How rows are measured.

    Attributes:
        device: Where to compute.
        tiny: Whether all sizes are so small that every row takes a second on a CPU; the figures mean nothing then.
        seconds: For how long a row repeats what it measures.
        autotune: Whether cuDNN tries its algorithms for every shape that it meets (``cudnn.benchmark``).
    """

    device: torch.device
    tiny: bool = False
    seconds: float = 1.5
    autotune: bool = True

    def size(self, full: int, tiny: int) -> int:
        """Return a size: `full`, or `tiny` where everything is."""
        return tiny if self.tiny else full

    def synchronise(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, job: Callable[[], object]) -> float:
        """Return the seconds that a job takes on the device, to its end."""
        self.synchronise()
        start = time.perf_counter()
        job()
        self.synchronise()
        return time.perf_counter() - start

    def repeated(self, job: Callable[[], object], seconds: float | None = None) -> list[float]:
        """Run a job until the time is over, at least twice, and return the seconds of each run."""
        limit = self.seconds if seconds is None else seconds
        taken: list[float] = []
        while len(taken) < 2 or sum(taken) < (0.0 if self.tiny else limit):
            taken.append(self.timed(job))
        return taken


def set_numbers(numbers: Numbers, autotune: bool, deterministic: bool = False) -> None:
    """Set torch's flags for a row.

    Args:
        numbers: What the row computes in.
        autotune: See :class:`Setting`.
        deterministic: Whether cuDNN is limited to algorithms that repeat their bits.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = numbers != "float32"
    torch.backends.cudnn.benchmark = autotune
    torch.backends.cudnn.deterministic = deterministic


def flags() -> Values:
    """Return torch's flags, as they are set now."""
    return {
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
    }


def rate(samples: float, seconds: list[float]) -> Values:
    """Return samples per second, and what they were computed from: the median of the repetitions.

    Args:
        samples: Samples of one repetition.
        seconds: Seconds of each repetition.
    """
    return {
        "samples_per_second": samples / statistics.median(seconds),
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "repetitions": len(seconds),
    }


def memory(device: torch.device) -> Values:
    """Return the memory in use now, in MiB: of the process, and on a GPU of its allocator too."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type != "cuda":
        return {"host_peak_mib": round(host)}
    return {
        "host_peak_mib": round(host),
        "allocated_mib": round(torch.cuda.memory_allocated(device) / 2**20, 1),
        "reserved_mib": round(torch.cuda.memory_reserved(device) / 2**20, 1),
        "peak_mib": round(torch.cuda.max_memory_allocated(device) / 2**20, 1),
    }


def machine(device: torch.device) -> Values:
    """Return what the rows were measured on."""
    facts: Values = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"name": properties.name, "memory_mib": round(properties.total_memory / 2**20)}
        facts |= {
            "cudnn": torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        }
    return facts
