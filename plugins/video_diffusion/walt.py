"""The denoiser `walt`: a transformer of windows in space, and in space and time, by turns."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import RecallingDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.layers.embeddings import sinusoid
from mutoscope.core.layers.telling import pooled_to
from mutoscope.core.layers.tubelets import resized_positions
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Cube, Depth, Heads, Natural, Positive, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.video_diffusion.windows import PromptAttention, WindowAttention, Windows

EPS = 1e-6
"""Of every layer norm."""


@final
class Walt(RecallingDenoiser):
    """Window attention latent transformer. Gupta et al. 2023, sec. 3.2 to 3.4, arXiv:2312.06662.

    Layers alternate: even ones attend within windows of space, odd ones within windows of space and time. A clip of
    one frame, an image, goes through the latter with every place attending to itself alone, so that images teach the
    spatial layers and never mix with anything. Level and pooled vector c modulate all layers by one large layer A and a
    correction of low rank for each: A_1 = A(c), A_i = A(c) + W_b,i W_a,i c (AdaLN-LoRA). The previous estimate of a
    self-conditioned process comes beside the noisy values.

    space, both: frames, rows, columns of the two windows; one of `space` is one frame. rank: of the corrections; 0
    gives every layer a large layer of its own. prompt: layers that attend to the prompt: the spatial ones alone, as in
    joint training, or all; keys are the window's places and the prompt. mlp: hidden width over the width.
    """

    name = "walt"
    paper = "Gupta et al. 2023, arXiv:2312.06662"
    tiny = {"width": 32, "depth": 2, "heads": 2, "space": (1, 2, 2), "both": (2, 4, 4)}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 1024,
        depth: Depth = 24,
        heads: Heads = 16,
        mlp: Positive = 4.0,
        space: Cube = (1, 16, 16),
        both: Cube = (5, 8, 8),
        rank: Natural = 2,
        prompt: Literal["space", "all"] = "space",
    ) -> None:
        super().__init__()
        if space[0] != 1:
            raise ValueError(f"space: a window of space is one frame; got {space[0]}")
        self.width, self.cells, self.patch, self.grid = width, given.cells, tokens.patch, tokens.grid
        beside = given.cells * tokens.patch[0] * tokens.patch[1] * tokens.patch[2]
        self.embed = nn.Linear(process.input_width(tokens) + beside, width)
        self.places = nn.Parameter(torch.empty(tokens.grid.rows * tokens.grid.columns, width))
        self.times = nn.Parameter(torch.empty(tokens.grid.frames, width))
        self.level = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = pooled_to(given, width)
        self.per_frame = nn.Linear(given.per_frame, width, bias=False) if given.per_frame else None
        self.context = nn.Linear(given.sequence, width) if given.sequence else None
        self.modulate = nn.Linear(width, 6 * width) if rank else None
        self.layers = nn.ModuleList(
            Layer(
                width,
                heads,
                int(width * mlp),
                both if i % 2 else space,
                rank,
                given.sequence > 0 and (prompt == "all" or i % 2 == 0),
            )
            for i in range(depth)
        )
        self.last = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, process.output_width(tokens))
        self._initialise()

    def _initialise(self) -> None:
        """As DiT: Xavier, small tables, and zeros wherever a layer starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.places, self.times, self.level[0].weight, self.level[2].weight):
            nn.init.normal_(table, std=0.02)  # type: ignore[arg-type]
        silent = [self.last, self.out, *([self.modulate] if self.modulate is not None else [])]
        for layer in self.layers:
            silent += layer.silent()  # type: ignore[operator]
        for layer in silent:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N input_width to B N output_width."""
        grid, clips = tokens.grids[0], len(tokens)
        x = self.embed(self._with_cells(tokens, conditioning)) + self._positions(grid).to(self.embed.weight.dtype)
        if self.per_frame is not None and conditioning.per_frame is not None:
            frames = self.per_frame(conditioning.per_frame)[:, : grid.frames]
            x = x + frames.repeat_interleave(grid.rows * grid.columns, dim=1)
        c = self.level(sinusoid(level, 256).to(self.embed.weight.dtype))
        if self.pooled is not None and conditioning.pooled is not None:
            c = c + self.pooled(conditioning.pooled)
        c = F.silu(c)
        base = None if self.modulate is None else self.modulate(c)
        prompt = None
        if self.context is not None and conditioning.sequence is not None:
            prompt = self.context(conditioning.sequence)
        for layer in self.layers:
            windows = Windows(grid, layer.attention.window)  # type: ignore[union-attr, arg-type]
            still = grid.frames == 1 and layer.attention.window[0] > 1  # type: ignore[union-attr, index, operator]
            x = layer(x, c, base, windows, clips, still, prompt, conditioning.mask)
        shift, scale = self.last(c)[:, None].chunk(2, dim=-1)
        return self.out(F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale) + shift)

    def _positions(self, grid: tuple[int, int, int]) -> Tensor:
        """(t h w) D: learned places and times. Other sizes read between the places learned; fewer frames are the
        first ones."""
        t, h, w = self.grid
        places = resized_positions(self.places, (1, h, w), (1, *grid[1:]))
        times = self.times[: grid[0]] if grid[0] <= t else resized_positions(self.times, (t, 1, 1), (grid[0], 1, 1))
        return (times[:, None] + places[None]).flatten(0, 1)

    def _with_cells(self, tokens: Tokens, conditioning: Conditioning) -> Tensor:
        """Tokens with the conditioning of their latent cells beside them."""
        x = tokens.filled()
        if not self.cells or conditioning.cells is None:
            return x
        t, h, w = self.patch
        cells = rearrange(conditioning.cells, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=t, j=h, k=w)
        return torch.cat([x, cells.to(x.dtype)], dim=-1)


class Layer(nn.Module):
    """Window attention and an MLP, each between a shift, a scale and a gate, with the prompt between them."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        window: tuple[int, int, int],
        rank: int,
        prompted: bool,
    ) -> None:
        super().__init__()
        self.width = width
        self.down = nn.Linear(width, rank, bias=False) if rank else None
        self.up = nn.Linear(rank, 6 * width, bias=False) if rank else nn.Linear(width, 6 * width)
        self.attention = WindowAttention(width, heads, window)
        self.prompt = PromptAttention(width, heads) if prompted else None
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))

    def silent(self) -> list[nn.Module]:
        """Layers whose zeros make this one the identity."""
        return [self.up, *([self.prompt.attention.out] if self.prompt is not None else [])]

    def modulation(self, c: Tensor, base: Tensor | None) -> tuple[Tensor, ...]:
        """Shift, scale and gate of both halves: six of B 1 D."""
        own = self.up(c if self.down is None else self.down(c))
        return (own if base is None else base + own)[:, None].chunk(6, dim=-1)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        base: Tensor | None,
        windows: Windows,
        clips: int,
        still: bool,
        prompt: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """x: B N D. c: B D; base: B 6D, what all layers share. still: every place attends to itself alone."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c, base)
        h = F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_a) + shift_a
        mixed = self.attention.alone(h) if still else windows.join(self.attention(windows.cut(h), windows, clips))
        x = x + gate_a * mixed
        if self.prompt is not None and prompt is not None:
            h = F.layer_norm(x, (self.width,), eps=EPS)
            if still:  # places of an image stay apart here too
                h = rearrange(h, "b n d -> b n 1 d").flatten(0, 1)
                x = x + self.prompt(h, Windows((1, 1, 1), (1, 1, 1)), prompt, mask).unflatten(0, x.shape[:2])[:, :, 0]
            else:
                x = x + windows.join(self.prompt(windows.cut(h), windows, prompt, mask))
        h = F.layer_norm(x, (self.width,), eps=EPS) * (1 + scale_m) + shift_m
        return x + gate_m * self.mlp(h)
