"""Codebooks: vectors and the ids that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch


def nearest(z: Tensor, vectors: Tensor) -> Tensor:
    """The numbers of the vectors K C that are nearest to M C; float32."""
    z, vectors = z.float(), vectors.float()
    return (vectors.square().sum(1) - 2 * z @ vectors.T).argmin(1)


def encodings(encode: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> Tensor:
    """Encodings of all cells of some clips, M C."""
    clips = [clip for b in batches for clip in (b.video if isinstance(b.video, tuple) else [b.video])]
    made = [encode(clip if clip.ndim == 5 else clip[None]) for clip in clips if clip is not None]
    return torch.cat([rearrange(z.float(), "b c t h w -> (b t h w) c") for z in made])


def spread(z: Tensor, count: int) -> Tensor:
    """Some of M C vectors, count C: each the farthest of all from those before it (Gonzalez 1985, Theor. Comput. Sci. 38).

    Taken at random they would be what is common, of which most frames are full, and what is rare would have no code.
    """
    z = z.float()
    places, distance = [z.new_zeros((), dtype=torch.long)], (z - z[0]).square().sum(1)
    for _ in range(count - 1):
        places.append(distance.argmax())
        distance = torch.minimum(distance, (z - z[places[-1]]).square().sum(1))
    return z[torch.stack(places)]


def passed_on(z: Tensor, quantised: Tensor) -> Tensor:
    """The quantised values, with the gradient of z: the straight-through estimator (Bengio et al. 2013)."""
    return z + (quantised - z).detach()


class Codebook(nn.Module):
    """Vectors that follow the mean of what was assigned to them, with random restarts of those hardly used.

    Moving averages of counts and sums: van den Oord et al. 2017, app. A.1, arXiv:1711.00937. A code whose average
    count falls below one restarts at a random input (Dhariwal et al. 2020, arXiv:2005.00341; Yan et al. 2021).
    The vectors are buffers: nothing descends on them.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("vectors", torch.randn(codes, width))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.vectors.clone())

    def forward(self, z: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """B C T H W to the same quantised, ids B T H W, and the mean squared distance that pulls z to its code."""
        flat = rearrange(z, "b c t h w -> (b t h w) c")
        ids = nearest(flat.detach(), self.vectors)
        quantised = self.look_up(ids.view(len(z), *z.shape[2:]))
        if self.training:
            self._follow(flat.detach().float(), ids, draw)
        return passed_on(z, quantised), ids.view(len(z), *z.shape[2:]), F.mse_loss(z.float(), quantised.float())

    def look_up(self, ids: Tensor) -> Tensor:
        """B T H W to B C T H W."""
        return rearrange(F.embedding(ids, self.vectors), "b t h w c -> b c t h w")

    @torch.no_grad()
    def start_at(self, z: Tensor) -> None:
        """Sets the vectors to some of M C inputs, far from each other."""
        self.vectors.copy_(spread(z, len(self.vectors)))
        self.sums.copy_(self.vectors)
        self.counts.fill_(1)

    @torch.no_grad()
    def _follow(self, z: Tensor, ids: Tensor, draw: Draw) -> None:
        counts = torch.zeros_like(self.counts).index_add_(0, ids, torch.ones_like(z[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, ids, z)
        # One number in [0, 1) per code, drawn for the first clip, chooses where it would restart.
        first = draw.of(draw.clips[:1]).uniform("restart", len(self.vectors))[0]
        fresh = z[(first * len(z)).long()]
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
            dist.broadcast(fresh, 0)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + 1e-7) / (total + len(self.counts) * 1e-7) * total
        self.vectors.copy_(torch.where((self.counts >= 1)[:, None], self.sums / smoothed[:, None], fresh))


class LearnedCodebook(nn.Module):
    """Vectors that descend to what is assigned to them. van den Oord et al. 2017, eq. 3."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(codes, width).uniform_(-1 / codes, 1 / codes))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """B C T H W to the same quantised, ids B T H W, and the terms `codebook` and `commitment`."""
        ids = nearest(rearrange(z, "b c t h w -> (b t h w) c").detach(), self.vectors).view(len(z), *z.shape[2:])
        quantised = self.look_up(ids)
        terms = {
            "codebook": F.mse_loss(quantised.float(), z.detach().float()),
            "commitment": F.mse_loss(z.float(), quantised.detach().float()),
        }
        return passed_on(z, quantised), ids, terms

    def look_up(self, ids: Tensor) -> Tensor:
        """B T H W to B C T H W."""
        return rearrange(F.embedding(ids, self.vectors), "b t h w c -> b c t h w")

    @torch.no_grad()
    def start_at(self, z: Tensor) -> None:
        """Sets the vectors to some of M C inputs, far from each other."""
        self.vectors.copy_(spread(z, len(self.vectors)))
