"""The `one_step` sampler: one call of a generator."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Natural, NonNegative
from mutoscope.core.values import Conditioning, Tokens


@final
class OneStep(Sampler):
    """Draws noise and calls the generator once.

    truncation: normal noise is drawn from the part of the normal distribution within this many deviations of zero
    (Brock et al. 2019, arXiv:1809.11096, sec. 3.1), so that samples are closer to the typical; 0 for all of it. fixed:
    names of noise that all clips share, such as `content` or `motion`. shared: the number of the clip whose noise that is.
    """

    name = "one_step"
    accepts = OneStepDenoiser

    def __init__(
        self,
        process: OneStepProcess,
        *,
        truncation: NonNegative = 0.0,
        fixed: tuple[str, ...] = (),
        shared: Natural = 0,
    ) -> None:
        super().__init__()
        self.truncation, self.fixed, self.shared = truncation, tuple(fixed), shared

    def calls(self, canvas: Tokens) -> int:
        return 1

    def sample(self, denoiser: OneStepDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        """Raises ValueError on a name of noise that the generator does not start from."""
        noise = denoiser.noise(canvas, draw)
        if self.fixed:
            common = denoiser.noise(canvas, draw.of([self.shared] * len(draw.clips)))
            for name in self.fixed:
                if name not in noise:
                    raise ValueError(f"fixed: {denoiser.name} starts from {', '.join(noise)}, not from {name}")
                noise[name] = common[name]
        if self.truncation:
            noise = {name: truncated(z, self.truncation) for name, z in noise.items()}
        values = denoiser(noise, canvas, conditioning)
        if conditioning.known is not None:
            values = torch.where(conditioning.known.where[..., None], conditioning.known.values, values)
        return canvas.with_values(values)


def truncated(z: Tensor, most: float) -> Tensor:
    """Standard normal numbers as numbers of the same distribution within +-most, by their quantiles; whole numbers
    stay. The middle keeps its order and its sign."""
    if not z.is_floating_point():
        return z
    inside = math.erf(most / math.sqrt(2.0))
    return (torch.erfinv(torch.erf(z.double() / math.sqrt(2.0)) * inside) * math.sqrt(2.0)).to(z.dtype)
