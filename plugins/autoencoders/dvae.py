"""The autoencoder `dvae`, and the objective that goes with it, `logit_laplace`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, final

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact, LatentFact
from mutoscope.core.objective import Objective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Natural, NonNegative
from mutoscope.core.values import Batch, Example, Grid, Latents, Losses, Reconstruction
from mutoscope.plugins.autoencoders.codebooks import encodings
from mutoscope.plugins.autoencoders.pictures import each_frame

EPSILON = 0.1
"""Pixels x in [0, 1] enter as (1 - 2 e) x + e, so that their logit is finite (Ramesh et al. 2021, app. A.3)."""


@final
class Dvae(Autoencoder):
    """The discrete autoencoder of DALL-E, frame by frame. Ramesh et al. 2021, sec. 2.1 and app. A, arXiv:2102.12092.

    In training the choice of a code is relaxed: Gumbel noise, and a softmax at a temperature that falls by a cosine
    from 1 to its end over `anneal` steps, so that choices become hard. Otherwise the likeliest code is taken. Term
    `likelihood`: nats per value under the logit-Laplace distribution. Term `kl`: nats per clip from the uniform
    distribution over codes. Bottleneck blocks are scaled by 1/blocks^2, of which there are four groups on either side,
    with pooling or doubling of the picture between.

    codes: of the codebook. width: of the encoder's first group, each later one twice as wide. start: of the decoder's
    first layer. groups: the picture is halved between them. depth: blocks in a group. temperature: at the end. floor: of
    the logarithm of the distribution's scale: where most of a picture is one flat colour, a scale that may shrink at will
    pays for that colour alone.

    At first, choices are even: the logits of training clips are centred, with a deviation of one, the decoder says
    their mean colour, and its code vectors have elements of a deviation of one, as fits a choice, of which one input is
    one and the rest nothing. By fan-in they would be shorter by the root of the codes, and colour would have to be found
    by a product of small weights. The paper has none of this and no floor; a small network on flat pictures needs them.
    """

    name = "dvae"
    paper = "Ramesh et al. 2021, arXiv:2102.12092"
    tiny = {"codes": 16, "width": 8, "start": 8, "groups": 2, "depth": 1}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        codes: Count = 8192,
        width: Annotated[int, Ge(4)] = 256,
        start: Count = 128,
        groups: Count = 4,
        depth: Depth = 2,
        temperature: Annotated[float, Gt(0)] = 1 / 16,
        anneal: Natural = 150_000,
        floor: Annotated[float, Ge(-7.0), Lt(7.0)] = -7.0,
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width: a block's middle has a quarter of it, so it divides by 4; got {width}")
        self.clip, self.count, self.stride = clip, codes, 2 ** (groups - 1)
        self.temperature, self.anneal, self.floor = temperature, anneal, floor
        widths, gain = [width * 2**i for i in range(groups)], 1 / (groups * depth) ** 2
        ins, outs = [width, *widths], [start, *reversed(widths)]
        self.encoder = nn.Sequential(_conv(clip.channels, width, 7))
        self.decoder = nn.Sequential(_conv(codes, start, 1))
        for i in range(groups):
            for j in range(depth):
                self.encoder.append(_Block(ins[i] if j == 0 else ins[i + 1], ins[i + 1], (3, 3, 3, 1), gain))
                self.decoder.append(_Block(outs[i] if j == 0 else outs[i + 1], outs[i + 1], (1, 3, 3, 3), gain))
            if i < groups - 1:
                self.encoder.append(nn.MaxPool2d(2))
                self.decoder.append(nn.Upsample(scale_factor=2, mode="nearest"))
        self.encoder.extend([nn.ReLU(), _conv(widths[-1], codes, 1)])
        self.decoder.extend([nn.ReLU(), _conv(width, 2 * clip.channels, 1)])

    def facts(self) -> Iterable[LatentFact]:
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        stride = (1, self.stride, self.stride)
        yield LatentFact(self.decoder[0].out_channels, stride, grid, codebook=self.count, mixed=self.clip.mixed)  # type: ignore[arg-type, union-attr]

    def latent_grid(self, frames: int, size: tuple[int, int]) -> Grid:
        return Grid(frames, -(-size[0] // self.stride), -(-size[1] // self.stride))

    def video_size(self, grid: Grid) -> tuple[int, int, int]:
        return grid.frames, grid.rows * self.stride, grid.columns * self.stride

    def encode(self, video: Tensor) -> Latents:
        return Latents(self.logits(video).argmax(1), ids=True)

    def decode(self, latents: Latents) -> Tensor:
        assert isinstance(latents.values, Tensor)
        soft = F.one_hot(latents.values, self.count).to(next(self.parameters()).dtype)
        return _pixels(self._decoded(rearrange(soft, "b t h w k -> b k t h w"))[0]).clamp(-1, 1)

    def codes(self) -> Tensor:
        """The decoder's first layer, a vector per code."""
        return self.decoder[0].weight[:, :, 0, 0].T.detach()  # type: ignore[union-attr, index]

    def forward(self, video: Tensor, draw: Draw) -> Reconstruction:
        logits = self.logits(video).float()
        uniform = draw.uniform("gumbel", *logits.shape[1:]).clamp(min=1e-9)
        soft = ((logits - (-uniform.log()).log()) / self.temperature_at(draw.step)).softmax(1)
        mu, log_b = self._decoded(soft)
        log_q = logits.log_softmax(1)
        kl = (log_q.exp() * (log_q + math.log(self.count))).sum((1, 2, 3, 4)).mean()
        return Reconstruction(_pixels(mu), {"likelihood": logit_laplace_nats(video, mu, log_b).mean(), "kl": kl})

    def logits(self, video: Tensor) -> Tensor:
        """Of each cell's code, B K T H W. Raises ShapeError on a picture that cells do not cover exactly."""
        if any(n % self.stride for n in video.shape[3:]):
            raise ShapeError(f"dvae codes multiples of {self.stride} x {self.stride}; got {tuple(video.shape[3:])}")
        return each_frame(self.encoder, _mapped(video))

    def temperature_at(self, step: int) -> float:
        """Of the relaxation: a cosine from 1 to its end over `anneal` steps."""
        done = min(step / self.anneal, 1.0) if self.anneal else 1.0
        return self.temperature + (1 - self.temperature) * 0.5 * (1 + math.cos(math.pi * done))

    def _decoded(self, soft: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log scale of each value, B C T H W."""
        mu, log_b = each_frame(self.decoder, soft).float().chunk(2, dim=1)
        return mu, log_b.clamp(self.floor, 7.0)

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch]) -> None:
        """Choices without preference, and the mean colour, over training clips; code vectors of full length."""
        clips = list(batches)
        choose, look_up, say = self.encoder[-1], self.decoder[0], self.decoder[-1]
        assert isinstance(choose, nn.Conv2d) and isinstance(look_up, nn.Conv2d) and isinstance(say, nn.Conv2d)
        assert choose.bias is not None and say.bias is not None
        z = encodings(self.logits, clips)
        spread = z.std(0).clamp(min=1e-6)
        choose.weight.div_(spread[:, None, None, None])
        choose.bias.sub_(z.mean(0)).div_(spread)
        look_up.weight.mul_(self.count**0.5)
        pixels = encodings(_mapped, clips)
        say.weight.mul_(0.1)
        say.bias[: self.clip.channels] = pixels.mean(0).logit()


@final
class LogitLaplace(Objective):
    """The evidence of a `dvae`: the likelihood of each value and the divergence from a uniform prior.

    Ramesh et al. 2021, sec. 2.1 and app. A.2: both are sums over the clip, over its number of values, so that a weight
    of 6.6 on the divergence is 6.6/192 of its mean over the codes of 8 x 8 x 3 values. The weight rises by a cosine.

    kl: weight at the end. anneal: steps until then. square: steps over which four times the squared error, with which
    training then begins, gives way to the likelihood; not in the paper. The likelihood is best served by the median,
    which on flat pictures is background, so that no code would come to say anything else.
    """

    name = "logit_laplace"
    paper = "Ramesh et al. 2021, arXiv:2102.12092"
    learns = "autoencoder"
    accepts = Dvae

    def __init__(self, *, kl: NonNegative = 6.6, anneal: Natural = 5000, square: Natural = 0) -> None:
        super().__init__()
        self.kl, self.anneal, self.square = kl, anneal, square

    def loss(self, learner: Dvae, example: Example, draw: Draw, turn: str) -> Losses:
        videos = example.batch.video
        assert videos is not None
        if isinstance(videos, tuple):
            each = [self._loss(learner, v[None], draw.of(draw.clips[i : i + 1])) for i, v in enumerate(videos)]
            parts = {name: torch.stack([e.parts[name] for e in each]).mean() for name in each[0].parts}
            return Losses(torch.stack([e.total for e in each]).mean(), parts)
        return self._loss(learner, videos, draw)

    def _loss(self, learner: Dvae, video: Tensor, draw: Draw) -> Losses:
        made = learner(video, draw)
        done = min(draw.step / self.anneal, 1.0) if self.anneal else 1.0
        beta = self.kl * 0.5 * (1 - math.cos(math.pi * done))
        l2 = (made.video - video).square().mean()
        likely = min(draw.step / self.square, 1.0) if self.square else 1.0
        error = likely * made.terms["likelihood"] + (1 - likely) * 4 * l2
        total = error + beta * made.terms["kl"] / video[0].numel()
        return Losses(total, {"l2": l2.detach(), **{name: term.detach() for name, term in made.terms.items()}})


def logit_laplace_nats(video: Tensor, mu: Tensor, log_b: Tensor) -> Tensor:
    """-log f of each value x in (0, 1), f = exp(-|logit x - mu| / b) / (2 b x (1 - x)); app. A.3, eq. 2."""
    x = _mapped(video).float()
    return (x.logit() - mu).abs() * (-log_b).exp() + math.log(2.0) + log_b + (x * (1 - x)).log()


def _mapped(video: Tensor) -> Tensor:
    """[-1, 1] to [e, 1 - e]."""
    return (1 - 2 * EPSILON) * (video + 1) / 2 + EPSILON


def _pixels(mu: Tensor) -> Tensor:
    """The location as pixels: the inverse map of its sigmoid, in [-1, 1] but for the margin EPSILON."""
    return (mu.sigmoid() - EPSILON) / (1 - 2 * EPSILON) * 2 - 1


def _conv(channels: int, out: int, kernel: int) -> nn.Conv2d:
    """A padded convolution from N(0, 1 / fan-in), without bias at first."""
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=(channels * kernel**2) ** -0.5)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class _Block(nn.Module):
    """Four convolutions after ReLUs through a quarter of the width, scaled, beside the identity."""

    def __init__(self, channels: int, out: int, kernels: tuple[int, int, int, int], gain: float) -> None:
        super().__init__()
        widths = [channels, out // 4, out // 4, out // 4, out]
        self.gain = gain
        self.skip = _conv(channels, out, 1) if channels != out else nn.Identity()
        self.layers = nn.Sequential()
        for i, kernel in enumerate(kernels):
            self.layers.extend([nn.ReLU(), _conv(widths[i], widths[i + 1], kernel)])

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.gain * self.layers(x)
