"""The denoiser `multiscale`."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.unets.folding import each_frame, inputs, of_frames, pictures, rows


@final
class Multiscale(LevelDenoiser):
    """Convolutions at several scales at once, and a readout that turns with time. Sohl-Dickstein et al. 2015, app. D.2.

    Each of `depth` layers pools its input by 1, 2, 4, ..., convolves every scale, enlarges and sums them, under a
    softplus; layers of one place with tanh follow; the output is a mean over `bumps` further outputs, weighed by
    Gaussian bumps spread evenly over time. The level enters nowhere else. The paper's model is unconditional and sees
    one picture: a pooled vector moves the first layer of one place, and frames do not see each other.

    width: channels. scales: of each layer, halving from one to the next. layers: of one place.
    """

    name = "multiscale"
    paper = "Sohl-Dickstein et al. 2015, arXiv:1503.03585"
    tiny = {"width": 12, "scales": 2, "depth": 1, "bumps": 4}  # noqa: RUF012

    centres: Tensor

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 100,
        scales: Count = 3,
        depth: Depth = 2,
        layers: Count = 2,
        bumps: Count = 10,
    ) -> None:
        super().__init__()
        self.patch, self.bumps, self.out_width = tokens.patch, bumps, process.output_width(tokens)
        widths = [inputs(tokens, given), *[width] * depth]
        self.scales = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(before, width, 3, padding=1) for _ in range(scales)) for before in widths[:-1]
        )
        self.places = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(layers))
        self.pooled = nn.Linear(given.pooled, width) if given.pooled else None
        self.per_frame = nn.Linear(given.per_frame, width) if given.per_frame else None
        self.readout = nn.Conv2d(width, self.out_width * bumps, 1)
        nn.init.normal_(self.readout.weight, std=0.01)
        nn.init.zeros_(self.readout.bias)  # type: ignore[arg-type]
        self.register_buffer("centres", torch.linspace(0, 1, bumps), persistent=False)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        x = pictures(tokens, conditioning, self.patch)
        for convs in self.scales:
            x = F.softplus(sum(self._scaled(conv, x, 2**i) for i, conv in enumerate(convs)))  # type: ignore[arg-type]
        told = self._told(tokens, conditioning)
        for i, layer in enumerate(self.places):
            x = layer(x) if i or told is None else layer(x) + told[..., None, None]
            x = torch.tanh(x)
        weights = each_frame(self.weights(level), tokens)
        assert weights is not None
        outs = self.readout(x).unflatten(1, (self.out_width, self.bumps))
        return rows((outs * weights[:, None, :, None, None].to(outs.dtype)).sum(dim=2), tokens)

    def weights(self, level: Tensor) -> Tensor:
        """The bumps at levels K in thousandths: K bumps, summing to 1."""
        width = 1.0 / max(1, self.bumps - 1)
        distance = (level.float()[:, None] / 1000.0 - self.centres) / width
        return torch.softmax(-0.5 * distance.square(), dim=1)

    def _scaled(self, conv: nn.Module, x: Tensor, factor: int) -> Tensor:
        small = F.avg_pool2d(x, factor, ceil_mode=True) if factor > 1 else x
        return F.interpolate(conv(small), size=x.shape[2:], mode="nearest") if factor > 1 else conv(small)

    def _told(self, tokens: Tokens, conditioning: Conditioning) -> Tensor | None:
        told = None
        if self.pooled is not None and conditioning.pooled is not None:
            told = each_frame(self.pooled(conditioning.pooled), tokens)
        if self.per_frame is not None and conditioning.per_frame is not None:
            frames = self.per_frame(of_frames(conditioning.per_frame, tokens, self.patch))
            told = frames if told is None else told + frames
        return told
