"""The U of DDPM's U-Net and its descendants: levels down, a middle, levels up with one skip per block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mutoscope.plugins.diffusion.unets.blocks import Halve, Residual


class Step(nn.Module):
    """A residual block and, where there is one, attention."""

    def __init__(self, block: nn.Module, attention: nn.Module | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.block(x, told)
        return x if self.attention is None else self.attention(x, context, mask)


class U(nn.Module):
    """Levels of `depth` steps on the way down and depth + 1 on the way up. Ho et al. 2020, app. B.

    widths: channels of the levels; rows and columns halve between them. block(channels, out) makes a residual block,
    attention(channels) an attention or None, at levels whose stride is in `attend` and in the middle; down(channels),
    up(channels) change size.
    """

    def __init__(
        self,
        start: int,
        widths: Sequence[int],
        depth: int,
        attend: Sequence[int],
        block: Callable[[int, int], Residual],
        attention: Callable[[int], nn.Module | None],
        down: Callable[[int], Halve | Residual],
        up: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, before, last = [start], start, len(widths) - 1

        def attending(level: int, channels: int) -> nn.Module | None:
            return attention(channels) if 2**level in attend else None

        for level, width in enumerate(widths):
            for _ in range(depth):
                self.down.append(Step(block(before, width), attending(level, width)))
                skips.append(width)
                before = width
            if level < last:
                self.down.append(down(width))
                skips.append(width)
        self.middle = Step(block(before, before), attention(before))
        self.end = block(before, before)
        for level in range(last, -1, -1):
            for i in range(depth + 1):
                self.up.append(Step(block(before + skips.pop(), widths[level]), attending(level, widths[level])))
                before = widths[level]
                if i == depth and level:
                    self.up.append(up(before))

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """B start H W to B widths[0] H W. told: B told. context: B L D; mask: B 1 1 L, true where it may be seen."""
        kept = [x]
        for step in self.down:
            x = step(x, told, context, mask) if isinstance(step, Step) else step(x, told)
            kept.append(x)
        x = self.end(self.middle(x, told, context, mask), told)
        for step in self.up:
            if isinstance(step, Step):
                x = step(torch.cat([x, kept.pop()], dim=1), told, context, mask)
            else:
                x = step(x, told, tuple(kept[-1].shape[2:]))
        return x
