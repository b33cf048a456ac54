"""The autoencoder `vae`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, final

import torch
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Width
from mutoscope.core.values import Grid, Latents, Reconstruction


@final
class Vae(Autoencoder):
    """The variational autoencoder, each frame alone: layers between all pixels. Kingma & Welling 2014, app. C.

    Encoder tanh(W x + b), then mean and log variance of the posterior; the decoder mirrors it, and gives the mean of a
    pixel by a sigmoid. A frame larger than the training clips' is coded in tiles of their size. Terms, in nats per
    clip: `nll`, of the pixels given a sample of the posterior, and `kl`.

    latents: per frame. width: of the hidden layer. decoder: pixels in [0, 1] are the probabilities of a `bernoulli`
    variable, or a `gaussian` whose variance is learned, one for every pixel of a clip. estimator: `analytic` takes the
    divergence in closed form (the paper's estimator B), `sampled` at the sample that is decoded (A).
    """

    name = "vae"
    paper = "Kingma & Welling 2014, arXiv:1312.6114"
    tiny = {"latents": 6, "width": 16}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        latents: Width = 20,
        width: Width = 500,
        decoder: Literal["bernoulli", "gaussian"] = "bernoulli",
        estimator: Literal["analytic", "sampled"] = "analytic",
    ) -> None:
        super().__init__()
        self.clip, self.latents, self.decoder, self.estimator = clip, latents, decoder, estimator
        pixels = clip.channels * clip.size[0] * clip.size[1]
        self.hidden, self.posterior = nn.Linear(pixels, width), nn.Linear(width, 2 * latents)
        self.back = nn.Linear(latents, width)
        self.mean = nn.Linear(width, pixels)
        self.log_variance = nn.Linear(width, pixels) if decoder == "gaussian" else None

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        yield LatentFact(self.latents, (1, *self.clip.size), grid, mixed=self.clip.mixed)

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        h, w = self.clip.size
        return Grid(frames, -(-size[0] // h), -(-size[1] // w))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        h, w = self.clip.size
        return grid.frames, grid.rows * h, grid.columns * w

    def encode(self, video: Tensor) -> Latents:
        mu, _ = self._posterior(video)
        return Latents(mu)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        logits, _ = self._decoded(latents.values)
        return logits.sigmoid() * 2 - 1

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        mu, log_variance = self._posterior(video)
        eps = draw.normal("posterior", *mu.shape[1:])
        z = mu + torch.exp(0.5 * log_variance) * eps
        if self.estimator == "analytic":
            kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance)
        else:
            kl = 0.5 * (z.square() - eps.square() - log_variance)
        logits, spread = self._decoded(z)
        terms = {"nll": per_clip(self._nll((video + 1) / 2, logits, spread)), "kl": per_clip(kl)}
        return Reconstruction(logits.sigmoid() * 2 - 1, terms)

    def _nll(self, x: Tensor, logits: Tensor, spread: Tensor | None) -> Tensor:
        """-log p(x | z) of every pixel in [0, 1]."""
        if spread is None:
            return nn.functional.binary_cross_entropy_with_logits(logits.float(), x, reduction="none")
        error = (x - logits.sigmoid()).float()
        return 0.5 * (math.log(2 * math.pi) + spread + error.square() * torch.exp(-spread.float()))

    def _posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, B latents T H W."""
        h, w = self.clip.size
        if video.shape[3] % h or video.shape[4] % w:
            raise ShapeError(f"vae codes frames of {h} x {w}, or of whole tiles; got {tuple(video.shape[3:])}")
        flat = rearrange(video, "b c t (y h) (x w) -> b t y x (c h w)", h=h, w=w)
        said = self.posterior(torch.tanh(self.hidden((flat + 1) / 2)))
        mu, log_variance = rearrange(said, "b t y x d -> b d t y x").chunk(2, dim=1)
        return mu, log_variance.clamp(-30, 20)

    def _decoded(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the pixels' means, and log variances of a Gaussian decoder; both as video."""
        hidden = torch.tanh(self.back(rearrange(z, "b d t y x -> b t y x d")))
        h, w = self.clip.size

        def video(flat: Tensor) -> Tensor:
            return rearrange(flat, "b t y x (c h w) -> b c t (y h) (x w)", h=h, w=w)

        spread = None if self.log_variance is None else video(self.log_variance(hidden)).clamp(-10, 10)
        return video(self.mean(hidden)), spread


def per_clip(x: Tensor) -> Tensor:
    """The sum over each clip's values, and their mean over clips."""
    return x.float().flatten(1).sum(1).mean()
