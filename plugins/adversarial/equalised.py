"""Layers of the StyleGAN family: equalised rates, modulation by a style, normalisation by tracked magnitude.

Karras et al. 2018, sec. 4.1, arXiv:1710.10196; Karras et al. 2020, sec. 2.2, arXiv:1912.04958; Karras et al. 2021,
app. D.1 and F, arXiv:2106.12423.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = math.sqrt(2.0)


class EqualLinear(nn.Module):
    """A linear layer whose weights are drawn with unit variance and scaled in use. rate: of its learning."""

    def __init__(self, inputs: int, out: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inputs) / rate)
        self.bias = nn.Parameter(torch.full((out,), bias / rate))
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (self.rate / math.sqrt(self.weight.shape[1])), self.bias * self.rate)


class EqualConv(nn.Module):
    """The same for a convolution over frames, rows and columns that keeps the size, with zeros at the edges."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, int, int], bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        self.pad = tuple(k // 2 for k in kernel)

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 / math.sqrt(self.weight[0].numel())
        return F.conv3d(x, self.weight * scale, self.bias, padding=self.pad)


class StyledConv(nn.Module):
    """A convolution whose inputs are scaled frame by frame by a style, and whose outputs are brought back to unit size.

    styles: B T code. demodulated: divide by the size that weights and styles give; exact where neighbouring frames have
    styles of their own. The input is divided by its tracked root mean square.
    """

    def __init__(
        self, channels: int, out: int, code: int, kernel: tuple[int, int, int], demodulated: bool = True
    ) -> None:
        super().__init__()
        self.style = EqualLinear(code, channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out, channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(out))
        self.pad = tuple(k // 2 for k in kernel)
        self.demodulated = demodulated
        self.register_buffer("magnitude", torch.ones(()))

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """B C T H W to B out T H W."""
        if self.training:
            with torch.no_grad():
                self.magnitude.lerp_(x.detach().float().square().mean(), 1e-3)
        s = self.style(styles).mT
        weight = self.weight / math.sqrt(self.weight[0].numel())
        x = F.conv3d(x * (s * self.magnitude.rsqrt())[..., None, None], weight, padding=self.pad)
        if self.demodulated:
            size = F.conv1d(s.square(), weight.square().sum((3, 4)), padding=self.pad[0])
            x = x * torch.rsqrt(size + 1e-8)[..., None, None]
        return x + self.bias.view(-1, 1, 1, 1)


def bent(x: Tensor) -> Tensor:
    """LeakyReLU .2 that keeps the size of what goes through."""
    return F.leaky_relu(x, 0.2) * GAIN


def unit(x: Tensor) -> Tensor:
    """Over its root mean square along the last axis."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-8).rsqrt()
