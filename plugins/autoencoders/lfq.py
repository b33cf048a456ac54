"""The autoencoder `lfq`: lookup-free quantisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, final

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from einops import rearrange
from torch import Tensor

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Cube, Depth, NonNegative, Positive, Width
from mutoscope.core.values import Grid, Latents, Reconstruction
from mutoscope.plugins.autoencoders.cells import Cells
from mutoscope.plugins.autoencoders.codebooks import passed_on

GROUP = 9
"""Bits whose codes are counted together for the entropy of the codebook."""


@final
class Lfq(Autoencoder):
    """Each channel is a bit: its sign. Yu et al. 2024 (MAGVIT-v2), sec. 3.1, arXiv:2310.05737.

    Term `entropy` (eq. 6), already weighed: the mean entropy of a code's soft assignment, which makes codes certain,
    less the entropy of the mean assignment, which uses all of them. Assignments are softmax(-|z - c|^2 / temperature)
    over the corners c; the second entropy is counted over at most nine bits at a time. Term `commitment`: squared
    distance to the code. Causal in time.

    bits: the codebook has 2^bits ids. stride, width, depth: as for `fsq`. entropy: weight of that term. temperature: of
    the soft assignment.
    """

    name = "lfq"
    paper = "Yu et al. 2024, arXiv:2310.05737"
    tiny = {"bits": 4, "width": 16, "depth": 1}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        bits: Annotated[int, Ge(1), Le(24)] = 10,
        stride: Cube = (2, 4, 4),
        width: Width = 96,
        depth: Depth = 2,
        entropy: NonNegative = 0.2,
        temperature: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.clip, self.stride, self.bits = clip, tuple(stride), bits
        self.entropy, self.temperature = entropy, temperature
        self.cells = Cells(clip, bits, self.stride, width, depth)

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        yield LatentFact(self.bits, self.stride, grid, True, codebook=2**self.bits, mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return self.cells.latent_grid(frames, size)

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return self.cells.video_size(grid)

    def encode(self, video: Tensor) -> Latents:
        positive = rearrange(self.cells.encode(video) > 0, "b c t h w -> b t h w c")
        return Latents((positive.long() << torch.arange(self.bits, device=video.device)).sum(-1), ids=True)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        bits = latents.values[..., None] >> torch.arange(self.bits, device=latents.values.device) & 1
        signs = (2 * bits - 1).to(next(self.parameters()).dtype)
        return self.cells.decode(rearrange(signs, "b t h w c -> b c t h w"))

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        z = self.cells.encode(video)
        code = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        flat = rearrange(z.float(), "b c t h w -> (b t h w) c")
        terms = {
            "commitment": F.mse_loss(z.float(), code.float()),
            "entropy": self.entropy * assignment_entropy(flat, self.temperature),
        }
        return Reconstruction(self.cells.decode(passed_on(z, code)), terms)


def assignment_entropy(z: Tensor, temperature: float) -> Tensor:
    """E[H(q)] - H(E[q]) of the assignments of M C to the corners of a cube, in nats."""
    # The distance to a corner is a sum over bits, so that an assignment is a product of coin tosses.
    logit = 4 * z / temperature
    certain = (F.softplus(logit) - logit * logit.sigmoid()).sum(1).mean()
    spread = torch.zeros_like(certain)
    for group in logit.split(GROUP, dim=1):
        log_q = group.new_zeros(len(group), 1)
        for bit in group.unbind(1):
            log_q = torch.cat([log_q + F.logsigmoid(-bit)[:, None], log_q + F.logsigmoid(bit)[:, None]], dim=1)
        mean = log_q.exp().mean(0)
        spread = spread - (mean * mean.clamp(min=1e-12).log()).sum()
    return certain - spread
