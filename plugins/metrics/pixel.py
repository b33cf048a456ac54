"""The metric `pixel`: how closely an autoencoder gives back what it was given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.settings import Count, Positive

RANGE = 2.0
"""From black to white."""
K1, K2 = 0.01, 0.03
HIGHEST = 100.0
"""Decibels that a perfect copy gets, and none more."""


@final
class Pixel(Metric):
    """Peak signal-to-noise ratio and structural similarity of reconstructions, each the mean over a clip's frames.

    psnr: decibels, of the mean squared error over a whole frame; 100 at most. ssim: Wang et al. 2004, eq. 13, with a
    Gaussian window around every pixel, the frame mirrored at its edges, mean over colours.

    window: side of the window in pixels, odd; a frame too small to be mirrored for it takes the largest that is not.
    sigma: its deviation.
    """

    name = "pixel"
    wants = "reconstruction"
    paper = "Wang et al. 2004, doi:10.1109/TIP.2003.819861"

    def __init__(self, *, window: Count = 11, sigma: Positive = 1.5) -> None:
        if window % 2 == 0:
            raise ValueError(f"window: must be odd; got {window}")
        self.window, self.sigma = window, sigma

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError where there is no one original of the same size for each clip."""
        made, real = material.video, material.real.video
        if not isinstance(real, Tensor) or real.shape != made.shape:
            raise InputError(field="metrics", problem="pixel compares clips with originals of the same number and size")
        return [
            Score("pixel.psnr", psnr(made, real).double().numpy()),
            Score("pixel.ssim", ssim(made, real, self.window, self.sigma).numpy()),
        ]

    def protocol(self) -> dict[str, object]:
        return {"metric": self.name, "window": self.window, "sigma": self.sigma, "range": RANGE, "per": "frame"}


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """B: mean over the frames of B C T H W."""
    error = (made.double() - real.double()).square().mean(dim=(1, 3, 4))
    return (10 * torch.log10(RANGE**2 / error)).clamp(max=HIGHEST).mean(1)


def ssim(made: Tensor, real: Tensor, window: int = 11, sigma: float = 1.5, at_once: int = 64) -> Tensor:
    """B: mean over the frames of B C T H W, float64."""
    side = min(window, 2 * min(real.shape[-2:]) - 1)
    means = []
    for x, y in zip(made.split(at_once), real.split(at_once), strict=True):
        frames = [rearrange(v.double(), "b c t h w -> (b t) c h w") for v in (x, y)]
        means.append(rearrange(_similarity(frames[0], frames[1], side, sigma), "(b t) -> b t", b=len(x)).mean(1))
    return torch.cat(means)


def _similarity(x: Tensor, y: Tensor, side: int, sigma: float) -> Tensor:
    """Of images, N C H W."""
    channels = x.shape[1]
    ramp = torch.arange(side, dtype=x.dtype, device=x.device) - (side - 1) / 2
    weights = torch.exp(-0.5 * (ramp / sigma).square())
    weights = weights / weights.sum()

    def blurred(image: Tensor) -> Tensor:
        mirrored = F.pad(image, [side // 2] * 4, mode="reflect")
        across = F.conv2d(mirrored, weights.view(1, 1, 1, -1).expand(channels, 1, 1, side), groups=channels)
        return F.conv2d(across, weights.view(1, 1, -1, 1).expand(channels, 1, side, 1), groups=channels)

    mx, my = blurred(x), blurred(y)
    vx, vy = (blurred(x * x) - mx * mx).clamp(min=0), (blurred(y * y) - my * my).clamp(min=0)
    both = blurred(x * y) - mx * my
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    index = (2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return index.mean(dim=(1, 2, 3))
