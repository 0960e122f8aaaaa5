"""The limit: one ResNet-20 that is trained centrally with large batches, channels-last."""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.gpu.setting import Numbers, Setting, Values, rate
from fedlama.models import resnet20


def central(setting: Setting, numbers: Numbers, compiled: bool = False) -> Values:
    """Time SGD steps with momentum on one batch, eager or through ``torch.compile``.

    Args:
        setting: How to measure.
        numbers: What is computed in; the flags are set already.
        compiled: Whether the model goes through ``torch.compile``; its seconds are those of the first step.
    """
    batch = setting.size(4096, 8)
    torch.manual_seed(0)
    model = resnet20().train().to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, 32, 32, device=setting.device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,), device=setting.device)
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=numbers == "bfloat16"):
            loss = functional.cross_entropy(forward(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    first = setting.timed(step)
    setting.timed(step)
    return {"first_seconds": first, "batch": batch} | rate(batch, setting.repeated(step))
