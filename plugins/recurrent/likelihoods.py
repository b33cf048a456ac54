"""What a recurrent network's raw output says of the next frame."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mutoscope.core.facts import TokenFact
from mutoscope.core.process import FrameProcess
from mutoscope.core.randomness import Draw


@final
class Bernoulli(FrameProcess):
    """Every value is bright with a probability: raw output is its logit, and grey counts as part bright.

    Srivastava et al. 2015, sec. 3.1. Values are in [-1, 1]. At temperature 0 the frame is the mean, in greys, which is
    what the paper feeds back; else every value is drawn, -1 or 1.
    """

    def output_width(self, tokens: TokenFact) -> int:
        return tokens.width

    def nll(self, raw: Tensor, frame: Tensor) -> Tensor:
        bright = (0.5 * (frame.float() + 1.0)).clamp(0.0, 1.0)
        return F.binary_cross_entropy_with_logits(raw.float(), bright, reduction="none").sum((1, 2))

    def sample(self, raw: Tensor, draw: Draw, temperature: float) -> Tensor:
        if temperature == 0:
            return torch.tanh(0.5 * raw)
        bright = draw.uniform("frame", *raw.shape[1:]) < torch.sigmoid(raw.float() / temperature)
        return bright.to(raw.dtype) * 2.0 - 1.0


@final
class Gaussian(FrameProcess):
    """Raw output is the mean of a Gaussian of unit variance, less its constant: half the summed squared error."""

    def output_width(self, tokens: TokenFact) -> int:
        return tokens.width

    def nll(self, raw: Tensor, frame: Tensor) -> Tensor:
        return 0.5 * (raw.float() - frame.float()).square().sum((1, 2))

    def sample(self, raw: Tensor, draw: Draw, temperature: float) -> Tensor:
        if temperature == 0:
            return raw
        return raw + math.sqrt(temperature) * draw.normal("frame", *raw.shape[1:]).to(raw.dtype)


@final
class Mixture(FrameProcess):
    """Every value has a mixture of Gaussians of its own: the mixture density network of Ha & Schmidhuber 2018.

    arXiv:1803.10122, app. A.2. Raw output per token: the weights' logits, means and log deviations of all components,
    for each value; with `ends` one number more, a logit that the clip ends. At temperature tau logits are divided by
    tau and noise is multiplied by sqrt(tau); at 0 the frame is the mean of the likeliest component.
    """

    def __init__(self, components: int, ends: bool) -> None:
        self.components, self.ends = components, ends

    def output_width(self, tokens: TokenFact) -> int:
        return 3 * self.components * tokens.width + int(self.ends)

    def ending(self, raw: Tensor) -> Tensor:
        """The logit that the clip ends with this frame, B numbers."""
        return raw[..., -1].float().mean(1)

    def parted(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and log deviations, B n D components each, float32."""
        logits, mu, log_sigma = rearrange(
            self._said(raw), "b n (d three k) -> three b n d k", three=3, k=self.components
        )
        return logits.log_softmax(-1), mu, log_sigma

    def _said(self, raw: Tensor) -> Tensor:
        return (raw[..., :-1] if self.ends else raw).float()

    def log_density(self, raw: Tensor, frame: Tensor) -> Tensor:
        """Of each value, B n D."""
        log_pi, mu, log_sigma = self.parted(raw)
        z = (frame.float()[..., None] - mu) * torch.exp(-log_sigma)
        return torch.logsumexp(log_pi - 0.5 * z.square() - log_sigma - 0.5 * math.log(2 * math.pi), dim=-1)

    def nll(self, raw: Tensor, frame: Tensor) -> Tensor:
        return -self.log_density(raw, frame).sum((1, 2))

    def sample(self, raw: Tensor, draw: Draw, temperature: float) -> Tensor:
        log_pi, mu, log_sigma = self.parted(raw)
        if temperature == 0:
            return mu.gather(-1, log_pi.argmax(-1, keepdim=True))[..., 0].to(raw.dtype)
        # The largest of logits with Gumbel noise is a draw from their softmax.
        uniform = draw.uniform("component", *log_pi.shape[1:]).clamp(min=1e-9)
        chosen = (log_pi / temperature - torch.log(-torch.log(uniform))).argmax(-1, keepdim=True)
        mean, sigma = mu.gather(-1, chosen)[..., 0], log_sigma.gather(-1, chosen)[..., 0].exp()
        noise = draw.normal("frame", *mean.shape[1:])
        return (mean + math.sqrt(temperature) * sigma * noise).to(raw.dtype)
