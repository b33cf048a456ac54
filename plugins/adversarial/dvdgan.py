"""DVD-GAN's generator: a picture grows, and at each of its sizes a recurrent network makes it move."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Natural, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.adversarial.grids import cells_of, check_cells, field_of, grid_of, tokens_of
from mutoscope.plugins.adversarial.spectral import HeldConv, HeldLinear
from mutoscope.plugins.adversarial.vgan import start_of


@final
class Dvdgan(OneStepDenoiser):
    """Dual video discriminator GAN, the generator. Clark et al. 2019, sec. 3.1 and app. A, arXiv:1907.06571 (version 2).

    Code and pooled conditioning make a small map. Then at every size: a convolutional GRU is unrolled once per frame,
    over the same map at first, over each frame's own map later; two residual blocks treat frames as pictures, the second
    doubles rows and columns. Both are told code and conditioning by the gains and shifts of batch normalisation. No
    convolution goes over time. Latents are in [-1, 1], as tanh gives them. A clip of any number of frames can be asked
    for. The frame-conditioned variant (sec. 3.3) starts each GRU from features of known frames at its size.

    content: numbers of the code. width: of a multiplier of one. multipliers: channels of the first map and after every
    doubling. frames: known frames that open a clip, 0 for none.
    """

    name = "dvdgan"
    paper = "Clark et al. 2019, arXiv:1907.06571"
    uses_known = True
    known_at = ("first",)
    tiny = {"content": 8, "width": 4, "multipliers": (2, 1)}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: OneStepProcess,
        *,
        content: Width = 120,
        width: Width = 96,
        multipliers: tuple[Count, ...] = (16, 16, 8, 4, 2),
        frames: Natural = 0,
    ) -> None:
        super().__init__()
        if len(multipliers) < 2:
            raise ValueError("multipliers: one for the first map and one for each doubling")
        if given.known and not frames:
            raise ValueError("frames: known frames are given, and none are looked at")
        self.patch, self.field, self.content = tokens.patch, field_of(tokens), content
        self.opening = frames
        widths = [m * width for m in multipliers]
        doublings = len(widths) - 1
        self.map = (widths[0], *(start_of(n, doublings) for n in self.field.size))
        told = content + given.pooled
        self.start = HeldLinear(told, self.map[0] * self.map[1] * self.map[2])
        self.levels = nn.ModuleList(Level(a, b, told) for a, b in zip(widths, widths[1:], strict=False))
        self.norm = ToldNorm(widths[-1], told)
        self.out = HeldConv(widths[-1], self.field.channels)
        self.seen = Seen(self.field.channels, widths, frames) if frames else None

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        return {"content": draw.normal("content", self.content)}

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        cells, (rows, columns) = cells_of(canvas, self.patch), self.field.size
        check_cells(self.name, cells._replace(rows=rows, columns=columns), cells)
        c = noise["content"]
        if conditioning.pooled is not None:
            c = torch.cat([c, conditioning.pooled.to(c.dtype)], dim=1)
        x = self.start(c).view(-1, 1, *self.map).expand(-1, cells.frames, -1, -1, -1)
        opened = self._opened(canvas, conditioning)
        for level, memory in zip(self.levels, opened or [None] * len(self.levels), strict=True):
            x = level(x, c, memory)
        b, t = x.shape[:2]
        flat = F.relu(self.norm(x.flatten(0, 1), repeat(c, "b d -> (b t) d", t=t)))
        made = rearrange(self.out(flat).tanh(), "(b t) c h w -> b c t h w", b=b)
        return tokens_of(made[..., :rows, :columns], self.patch)

    def _opened(self, canvas: Tokens, conditioning: Conditioning) -> list[Tensor] | None:
        """What each level's GRU starts from; None where no frames are looked at or known."""
        known = conditioning.known
        if self.seen is None or known is None:
            return None
        shown = grid_of(known.values, canvas, self.patch)[:, :, : self.opening]
        where = grid_of(known.where[..., None].expand_as(known.values), canvas, self.patch)[:, :, : self.opening]
        whole = where.flatten(1).all(1).view(-1, 1, 1, 1)
        sides = self.map[1:]
        memories = self.seen(torch.where(whole[..., None], shown, 0.0), (sides[0], sides[1]), len(self.levels))
        return [memory * whole for memory in memories]


class Level(nn.Module):
    """A GRU over frames and two residual blocks, the second of which doubles the size."""

    def __init__(self, channels: int, out: int, told: int) -> None:
        super().__init__()
        self.gru = ConvGru(channels)
        self.keep = Residual(channels, channels, told, double=False)
        self.grow = Residual(channels, out, told, double=True)

    def forward(self, x: Tensor, c: Tensor, memory: Tensor | None) -> Tensor:
        """B T C H W to B T out 2H 2W."""
        x = self.gru(x, memory)
        b, t = x.shape[:2]
        each = repeat(c, "b d -> (b t) d", t=t)
        return self.grow(self.keep(x.flatten(0, 1), each), each).unflatten(0, (b, t))


class ConvGru(nn.Module):
    """r, u = s(conv [h, x]); c = relu(conv [x, r h]); h' = u h + (1 - u) c. Ballas et al. 2016, with ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = HeldConv(2 * channels, 2 * channels)
        self.new = HeldConv(2 * channels, channels)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        """B T C H W to the same. h: what it starts from, B C H W; zeros by default."""
        h = torch.zeros_like(x[:, 0]) if h is None else h
        states = []
        w_gates, w_new = self.gates.held(), self.new.held()
        for frame in x.unbind(1):
            r, u = torch.sigmoid(self.gates(torch.cat([h, frame], 1), w_gates)).chunk(2, dim=1)
            c = F.relu(self.new(torch.cat([frame, r * h], 1), w_new))
            h = u * h + (1.0 - u) * c
            states.append(h)
        return torch.stack(states, dim=1)


class Residual(nn.Module):
    """BigGAN's residual block of a generator. Brock et al. 2019, app. B."""

    def __init__(self, channels: int, out: int, told: int, double: bool) -> None:
        super().__init__()
        self.double = double
        self.norm1, self.norm2 = ToldNorm(channels, told), ToldNorm(out, told)
        self.conv1, self.conv2 = HeldConv(channels, out), HeldConv(out, out)
        self.skip = HeldConv(channels, out, 1) if channels != out or double else nn.Identity()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = F.relu(self.norm1(x, c))
        if self.double:
            h, x = (F.interpolate(each, scale_factor=2.0, mode="nearest") for each in (h, x))
        h = self.conv2(F.relu(self.norm2(self.conv1(h), c)))
        return h + self.skip(x)


class ToldNorm(nn.Module):
    """Batch normalisation whose gains and shifts are linear in what the clip is told."""

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = HeldLinear(told, channels, bias=False)
        self.shift = HeldLinear(told, channels, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """N C H W, with c: N told."""
        return self.norm(x) * (1.0 + self.gain(c))[:, :, None, None] + self.shift(c)[:, :, None, None]


class Seen(nn.Module):
    """Features of known frames at every size, as the GRUs start from them."""

    def __init__(self, channels: int, widths: list[int], frames: int) -> None:
        super().__init__()
        down = widths[::-1]
        self.first = HeldConv(channels, down[0])
        self.blocks = nn.ModuleList(HeldConv(a, b) for a, b in zip(down, down[1:], strict=False))
        self.join = nn.ModuleList(HeldConv(frames * b, b) for b in down[1:])

    def forward(self, shown: Tensor, start: tuple[int, int], levels: int) -> list[Tensor]:
        """B C frames H W to B width h w for every level, the smallest first."""
        b = len(shown)
        x = self.first(rearrange(shown, "b c t h w -> (b t) c h w"))
        memories = []
        for i, (block, join) in enumerate(zip(self.blocks, self.join, strict=True)):
            size = tuple(n * 2 ** (levels - 1 - i) for n in start)
            x = F.adaptive_avg_pool2d(block(F.relu(x)), size)
            memories.append(F.relu(join(rearrange(F.relu(x), "(b t) c h w -> b (t c) h w", b=b))))
        return memories[::-1]
