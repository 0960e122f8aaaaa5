"""A bias-free convolution that keeps ceil(size / stride) pixels, padded as PyTorch or as TensorFlow does it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from fedlama.errors import ConfigError

SamePadding: TypeAlias = Literal["torch", "tensorflow"]


class SameConv2d(nn.Conv2d):
    """Convolve with 'same' padding and without bias.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Odd kernel size.
        stride: Step.
        same_padding: ``"torch"`` pads kernel // 2 on all sides. ``"tensorflow"`` pads only as much as the last
            window needs and puts the odd pixel at the bottom and right, so that at stride 2 on even sizes the
            windows are one pixel further down and right. The two agree at stride 1.

    Raises:
        ConfigError: If ``same_padding`` is neither of the two.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, same_padding: SamePadding = "torch"
    ) -> None:
        if same_padding not in ("torch", "tensorflow"):
            raise ConfigError(f"same_padding is {same_padding!r}, expected 'torch' or 'tensorflow'")
        shifted = same_padding == "tensorflow" and stride > 1
        super().__init__(inputs, outputs, kernel, stride, padding=0 if shifted else kernel // 2, bias=False)
        self.shifted = shifted

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        if self.shifted:
            top, bottom = self._margins(input.shape[-2])
            left, right = self._margins(input.shape[-1])
            input = functional.pad(input, (left, right, top, bottom))
        return super().forward(input)

    def _margins(self, size: int) -> tuple[int, int]:
        stride, kernel = self.stride[0], self.kernel_size[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
