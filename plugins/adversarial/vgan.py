"""VGAN: generators of a moving foreground before a still background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, FieldFact, Regular, TokenFact
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Depth, Width
from mutoscope.core.values import Conditioning, Grid, Tokens
from mutoscope.plugins.adversarial.conv3d import initialise
from mutoscope.plugins.adversarial.grids import cells_of, check_cells, field_of, grid_of, tokens_of

Streams = tuple[Tensor, Tensor, Tensor]
"""Foreground B C T H W, its mask B 1 T H W in [0, 1], background B C 1 H W."""


@final
class Vgan(OneStepDenoiser):
    """Videos with scene dynamics: video = m f + (1 - m) b. Vondrick et al. 2016, sec. 3.1, arXiv:1609.02612.

    One code makes a foreground and its mask by convolutions over space and time, and a background by convolutions over
    space, which stands still. A pooled conditioning is joined to the code. Latents are in [-1, 1], as tanh gives them.
    Term `mask`: mean of m, whose weight keeps the foreground small (the paper's is .1).

    code: numbers of the code. width: channels before the last doubling, twice as many before every other. doublings:
    of the size; the first layer makes a grid of as few cells as reach the size. streams: 1 for a foreground alone.
    """

    name = "vgan"
    paper = "Vondrick et al. 2016, arXiv:1609.02612"
    entries = ("forward", "explained")
    tiny = {"code": 8, "width": 8, "doublings": 2}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: OneStepProcess,
        *,
        code: Width = 100,
        width: Width = 64,
        doublings: Depth = 4,
        streams: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        self.patch, self.field, self.code = tokens.patch, field_of(tokens), code
        self.front = Front(code + given.pooled, self.field, width, doublings, masked=streams == 2)
        self.back = Back(code + given.pooled, self.field, width, doublings) if streams == 2 else None
        initialise(self)

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        return {"content": draw.normal("content", self.code)}

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        return self.explained(noise, canvas, conditioning)[0]

    def explained(
        self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        check_cells(self.name, Grid(self.field.frames, *self.field.size), cells_of(canvas, self.patch))
        f, m, b = self.parted(noise, conditioning)
        terms = {} if self.back is None else {"mask": m.float().abs().mean()}
        return tokens_of(composed(f, m, b), self.patch), terms

    def parted(self, noise: dict[str, Tensor], conditioning: Conditioning) -> Streams:
        """The streams that a clip is composed of; without a background the mask is one."""
        z = noise["content"]
        if conditioning.pooled is not None:
            z = torch.cat([z, conditioning.pooled.to(z.dtype)], dim=1)
        f, m = self.front(z[:, :, None, None, None])
        return f, m, torch.zeros_like(f[:, :, :1]) if self.back is None else self.back(z[:, :, None, None])


@final
class VganImage(OneStepDenoiser):
    """Videos that go on from an image: the two streams of `vgan`, coded by a network that sees the first frame.

    Vondrick et al. 2016, sec. 4.4: an encoder of the image stands in the place of the random code, all widths doubled.
    The image is the first frame of the known tokens; where a clip has none, its features are drawn. Terms: `mask`, and
    `first`, the mean squared error of the first frame against the image.

    width: of the encoder's first convolution; doublings: as of `vgan`, whose `width` is half of this one's double.
    """

    name = "vgan_image"
    paper = "Vondrick et al. 2016, arXiv:1609.02612"
    entries = ("forward", "explained")
    uses_known = True
    known_at = ("first",)
    tiny = {"width": 8, "doublings": 2}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: OneStepProcess,
        *,
        width: Width = 128,
        doublings: Depth = 4,
    ) -> None:
        super().__init__()
        self.patch, self.field = tokens.patch, field_of(tokens)
        widths = [width * 2**i for i in range(doublings)]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip([self.field.channels, *widths], widths, strict=False)):
            layers.append(nn.Conv2d(a, b, 4, 2, 1))
            layers += [nn.BatchNorm2d(b)] if i else []
            layers.append(nn.LeakyReLU(0.2))
        self.encoder = nn.Sequential(*layers)
        sides = tuple(n // 2**doublings for n in self.field.size)
        if min(sides) < 1:
            raise ValueError(f"doublings: {self.field.size} cells cannot be halved {doublings} times")
        self.code = (widths[-1], *sides)
        start = (start_of(self.field.frames, doublings), 1, 1)
        self.front = Front(widths[-1] + given.pooled, self.field, width, doublings, masked=True, start=start)
        self.back = Back(widths[-1] + given.pooled, self.field, width, doublings, start=(1, 1))
        initialise(self)

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        return {"content": F.leaky_relu(draw.normal("content", *self.code), 0.2)}

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        return self.explained(noise, canvas, conditioning)[0]

    def explained(
        self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        check_cells(self.name, Grid(self.field.frames, *self.field.size), cells_of(canvas, self.patch))
        code, image, shown = noise["content"], None, None
        known = conditioning.known
        if known is not None:
            image = grid_of(known.values, canvas, self.patch)[:, :, 0]
            first = grid_of(known.where[..., None].expand_as(known.values), canvas, self.patch)[:, :, 0]
            shown = first.flatten(1).all(1)[:, None, None, None]
            code = torch.where(shown, self.encoder(torch.where(shown, image, 0.0)), code)
        if conditioning.pooled is not None:
            pooled = conditioning.pooled[:, :, None, None].expand(-1, -1, *code.shape[2:])
            code = torch.cat([code, pooled.to(code.dtype)], dim=1)
        f, m = self.front(code[:, :, None])
        video = composed(f, m, self.back(code))
        terms = {"mask": m.float().abs().mean()}
        if image is not None and shown is not None:
            terms["first"] = (shown * (video[:, :, 0] - image)).float().square().mean()
        return tokens_of(video, self.patch), terms


class Front(nn.Module):
    """The foreground and its mask, by transposed convolutions over space and time.

    start: cells that the first layer makes of one; by default as few as reach the field's size after the doublings.
    """

    def __init__(
        self,
        code: int,
        field: FieldFact,
        width: int,
        doublings: int,
        masked: bool,
        start: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.size = (field.frames, *field.size)
        start = start or tuple(start_of(n, doublings) for n in self.size)  # type: ignore[assignment]
        widths = [width * 2**i for i in reversed(range(doublings))]
        layers: list[nn.Module] = [nn.ConvTranspose3d(code, widths[0], start)]  # type: ignore[arg-type]
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.BatchNorm3d(a), nn.ReLU(), nn.ConvTranspose3d(a, b, 4, 2, 1)]
        self.trunk = nn.Sequential(*layers, nn.BatchNorm3d(widths[-1]), nn.ReLU())
        self.picture = nn.ConvTranspose3d(widths[-1], field.channels, 4, 2, 1)
        self.mask = nn.ConvTranspose3d(widths[-1], 1, 4, 2, 1) if masked else None

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """B code t h w to B C T H W in (-1, 1) and B 1 T H W in (0, 1)."""
        t, h, w = self.size
        x = self.trunk(code)
        f = self.picture(x)[:, :, :t, :h, :w].tanh()
        if self.mask is None:
            return f, torch.ones_like(f[:, :1])
        return f, self.mask(x)[:, :, :t, :h, :w].sigmoid()


class Back(nn.Module):
    """The background, by transposed convolutions over space."""

    def __init__(
        self, code: int, field: FieldFact, width: int, doublings: int, start: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.size = field.size
        start = start or tuple(start_of(n, doublings) for n in self.size)  # type: ignore[assignment]
        widths = [width * 2**i for i in reversed(range(doublings))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(code, widths[0], start)]  # type: ignore[arg-type]
        for a, b in zip(widths, [*widths[1:], field.channels], strict=True):
            layers += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, code: Tensor) -> Tensor:
        """B code h w to B C 1 H W in (-1, 1)."""
        h, w = self.size
        return self.net(code)[:, :, :h, :w].tanh()[:, :, None]


def start_of(size: int, doublings: int) -> int:
    """The fewest cells that reach a size after so many doublings."""
    return -(-size // 2**doublings)


def composed(f: Tensor, m: Tensor, b: Tensor) -> Tensor:
    """m f + (1 - m) b: the foreground before a background that is the same in every frame."""
    return m * f + (1.0 - m) * b
