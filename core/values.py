"""The values that travel between parts. All frozen; all carry tensors and Python ints, never a module.

Axis legend, used everywhere: B batch, C channels, T frames, H rows, W columns, N tokens, D width, L prompt length;
K clips of a batch (equal to B unless rows are packed). Video is float B C T H W in [-1, 1]; an image is a video of one
frame. Time 0 is data, 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor


class Grid(NamedTuple):
    """Cells of one clip along time, rows and columns. Python ints."""

    frames: int
    rows: int
    columns: int

    @property
    def cells(self) -> int:
        return self.frames * self.rows * self.columns


@dataclass(frozen=True)
class Latents:
    """What an autoencoder makes of a video.

    values: B C T H W, or B T H W integers when `ids`; a tuple of the same without B, one per clip, when sizes mix.
    spread: deviation of the posterior around them, B C T H W, where a denoiser is to learn from draws of it; else None.
    """

    values: Tensor | tuple[Tensor, ...]
    ids: bool = False
    spread: Tensor | None = None

    @property
    def mixed(self) -> bool:
        return isinstance(self.values, tuple)

    def clips(self) -> tuple[Tensor, ...]:
        """One tensor per clip, C T H W (T H W for ids)."""
        return self.values if isinstance(self.values, tuple) else tuple(self.values.unbind(0))

    def grids(self) -> tuple[Grid, ...]:
        """Cells of each clip."""
        return tuple(Grid(*clip.shape[-3:]) for clip in self.clips())


@dataclass(frozen=True)
class Tokens:
    """A batch of token rows; without values it is a canvas, the empty page that a sampler fills.

    values: B N D continuous, B N integer ids, or None. positions: B N 3, the (t, y, x) cell of each token, float32.
    clip: B N, the number of the clip that a token belongs to, counted from 1 over the whole batch; 0 is padding.
    grids: the tokens of each clip along (t, y, x); Python ints, K of them. A packed row may hold fewer tokens of a clip
    than its grid has, where some were dropped. members: the clips of each packed row, B E, 0 for none; None where
    every row is one clip.
    """

    values: Tensor | None
    positions: Tensor
    clip: Tensor
    grids: tuple[Grid, ...]
    members: Tensor | None = None

    @staticmethod
    def canvas(grid: Grid, clips: int, device: torch.device | str | None = None) -> Tokens:
        """A regular canvas: one clip of `grid` tokens per row, time-major."""
        axes = [torch.arange(n, dtype=torch.float32, device=device) for n in grid]
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, grid.cells, 3)
        numbers = torch.arange(1, clips + 1, device=device)[:, None].expand(clips, grid.cells)
        return Tokens(None, cells.expand(clips, grid.cells, 3), numbers, (grid,) * clips)

    @property
    def regular(self) -> bool:
        """One clip per row, all of one grid, no padding."""
        if self.members is not None:
            return False
        rows, tokens = self.clip.shape
        return len(self.grids) == rows and self.grids[0].cells == tokens and len(set(self.grids)) == 1

    @property
    def device(self) -> torch.device:
        return self.positions.device

    def filled(self) -> Tensor:
        """The values; raises ValueError on a bare canvas."""
        if self.values is None:
            raise ValueError("these tokens are a canvas: they have no values yet")
        return self.values

    def with_values(self, values: Tensor | None) -> Tokens:
        return replace(self, values=values)

    def as_grid(self) -> Tensor:
        """B D T H W (B T H W for ids) of regular tokens."""
        values, (t, h, w) = self.filled(), self.grids[0]
        if not self.regular:
            raise ValueError("packed tokens have no common grid")
        if values.ndim == 2:
            return rearrange(values, "b (t h w) -> b t h w", t=t, h=h, w=w)
        return rearrange(values, "b (t h w) d -> b d t h w", t=t, h=h, w=w)

    def from_grid(self, grid: Tensor) -> Tokens:
        """These tokens with the values of `grid`, B D T H W or B T H W."""
        pattern = "b t h w -> b (t h w)" if grid.ndim == 4 else "b d t h w -> b (t h w) d"
        return self.with_values(rearrange(grid, pattern))

    def per_token(self, x: Tensor) -> Tensor:
        """Spreads one entry per clip over its tokens: K ... -> B N ... (B 1 ... when regular).

        Padding gets the first clip's, so that nothing there divides by zero.
        """
        if self.regular:
            return x[:, None]
        return x[(self.clip - 1).clamp(min=0)]

    def per_row(self, x: Tensor) -> Tensor:
        """Gathers the entries of the clips of each row: K ... -> B E ... (B 1 ... when regular); for none the first."""
        if self.regular:
            return x[:, None]
        return x[(self.row_members() - 1).clamp(min=0)]

    def row_members(self) -> Tensor:
        """The clips of each row, B E, 0 for none; every clip in every row where nothing says better."""
        if self.members is not None:
            return self.members
        numbers = torch.arange(1, len(self.grids) + 1, device=self.device)
        return numbers[:, None] if self.regular else numbers.expand(len(self.clip), -1)

    def cells(self) -> Tensor:
        """The place of each token in its own clip's grid, time-major from 0: B N integers, 0 for padding."""
        grids = torch.tensor(self.grids, dtype=self.positions.dtype).to(self.device)
        _, rows, columns = self.per_token(grids).unbind(-1)
        t, y, x = self.positions.unbind(-1)
        return ((t * rows + y) * columns + x).long()

    def attention_mask(self) -> Tensor | None:
        """Who may attend to whom, B 1 N N, true within a clip; None when every row is one whole clip.

        Padding attends to padding, so that no row of the softmax is empty.
        """
        if self.regular:
            return None
        return (self.clip[:, :, None] == self.clip[:, None, :])[:, None]

    def __len__(self) -> int:
        return len(self.grids)


@dataclass(frozen=True)
class Known:
    """Clean tokens at known places: values B N D, where B N (true = known)."""

    values: Tensor
    where: Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the model is told of each clip; fields by what they align with, None where nothing is said.

    pooled: K D. sequence: K L D, with mask K L (true = a real token). prompt_ids: K L integers. per_frame: K T D over
    the latent frames. augmented: K D, how a training clip was altered; None is not at all. cells: K C T H W over the
    latent cells. known: clean tokens at known places. null: the same for an empty prompt, for dropout in training and
    for guidance.
    """

    pooled: Tensor | None = None
    sequence: Tensor | None = None
    mask: Tensor | None = None
    prompt_ids: Tensor | None = None
    per_frame: Tensor | None = None
    augmented: Tensor | None = None
    cells: Tensor | None = None
    known: Known | None = None
    null: Conditioning | None = None

    def keep(self, where: Tensor) -> Conditioning:
        """Replaces clips by the null conditioning where `where` (K booleans) is false."""
        if self.null is None:
            return self

        def chosen(own: Tensor | None, other: Tensor | None) -> Tensor | None:
            if own is None or other is None:
                return own
            return torch.where(where.view(-1, *[1] * (own.ndim - 1)), own, other)

        told = {name: chosen(getattr(self, name), getattr(self.null, name)) for name in TOLD}
        return replace(self, **told)

    def merge(self, other: Conditioning) -> Conditioning:
        """Both together: pooled, per-frame and cell features side by side, sequences one after the other."""
        joined: dict[str, Any] = {
            "pooled": _joined(self.pooled, other.pooled, 1),
            "sequence": _joined(self.sequence, other.sequence, 1),
            "mask": _joined(self.mask, other.mask, 1),
            "prompt_ids": other.prompt_ids if self.prompt_ids is None else self.prompt_ids,
            "per_frame": _joined(self.per_frame, other.per_frame, 2),
            "augmented": _joined(self.augmented, other.augmented, 1),
            "cells": _joined(self.cells, other.cells, 1),
            "known": self.known or other.known,
        }
        null = None
        if self.null is not None or other.null is not None:
            null = replace(self.null or self, null=None).merge(replace(other.null or other, null=None))
        return Conditioning(**joined, null=null)

    def repeat(self, times: int) -> Conditioning:
        """Every clip `times` times, clip-major."""
        return self.each(lambda x: x.repeat_interleave(times, dim=0))

    def each(self, f: Callable[[Tensor], Tensor]) -> Conditioning:
        """`f` of every tensor, of the null conditioning's too."""
        told = {name: f(x) for name in TOLD if (x := getattr(self, name)) is not None}
        known = Known(f(self.known.values), f(self.known.where)) if self.known else None
        return replace(self, **told, known=known, null=self.null.each(f) if self.null else None)


TOLD = ("pooled", "sequence", "mask", "prompt_ids", "per_frame", "augmented", "cells")


def _joined(a: Tensor | None, b: Tensor | None, dim: int) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return torch.cat([a, b], dim=dim)


Kind = Literal["noise", "clean", "velocity", "flow"]


@dataclass(frozen=True)
class Prediction:
    """What a network says about noisy tokens x = a x0 + s eps, and its conversions.

    field: B N D. kind: `noise` is eps, `clean` is x0, `velocity` is a eps - s x0 (Salimans & Ho 2022, sec. 4),
    `flow` is eps - x0 (rectified flow). at: the noisy tokens' values x, B N D. signal a and noise s broadcast against
    them. log_variance: of the reverse step where it is learned, B N D, else None. share: the same as a share of the way,
    in logarithms, from the smallest variance of the step (0, the posterior's) to the largest (1, the forward step's);
    so learned, it holds for a step of any length.
    """

    field: Tensor
    kind: Kind
    at: Tensor
    signal: Tensor
    noise: Tensor
    log_variance: Tensor | None = None
    share: Tensor | None = None

    def as_clean(self) -> Tensor:
        """x0, B N D."""
        a, s, x = self.signal, self.noise, self.at
        match self.kind:
            case "clean":
                return self.field
            case "noise":
                return (x - s * self.field) / a
            case "velocity":
                return (a * x - s * self.field) / (a * a + s * s)
            case "flow":
                return (x - s * self.field) / (a + s)

    def as_noise(self) -> Tensor:
        """eps, B N D."""
        a, s, x = self.signal, self.noise, self.at
        match self.kind:
            case "noise":
                return self.field
            case "clean":
                return (x - a * self.field) / s
            case "velocity":
                return (s * x + a * self.field) / (a * a + s * s)
            case "flow":
                return (x + a * self.field) / (a + s)

    def as_velocity(self) -> Tensor:
        """a eps - s x0, B N D."""
        if self.kind == "velocity":
            return self.field
        return self.signal * self.as_noise() - self.noise * self.as_clean()

    def as_flow(self) -> Tensor:
        """eps - x0, B N D: the slope of the straight path from data to noise."""
        if self.kind == "flow":
            return self.field
        return self.as_noise() - self.as_clean()

    def as_score(self) -> Tensor:
        """Gradient of log p(x), -eps / s, B N D."""
        return -self.as_noise() / self.noise

    def as_kind(self, kind: Kind) -> Tensor:
        """The field in another parameterisation."""
        return {"noise": self.as_noise, "clean": self.as_clean, "velocity": self.as_velocity, "flow": self.as_flow}[
            kind
        ]()


@dataclass(frozen=True)
class Logits:
    """values: B N V, where values[:, n] is the distribution of id n. prompt: the same of the prompt's ids, or None."""

    values: Tensor
    prompt: Tensor | None = None


@dataclass(frozen=True)
class Features:
    """What a tower sees: sequence B N D, pooled B D, logits B classes; None where it has none."""

    sequence: Tensor | None = None
    pooled: Tensor | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class Reconstruction:
    """video: B C T H W, or what the decoder says of it. terms: scalars by name that an objective may weigh."""

    video: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Clips and what is known of them; a field is None where nothing is known (a part may then draw it).

    video: B C T H W in [-1, 1], or one C T H W per clip when sizes mix. prompt: B texts. label: B integers.
    actions: B T integers. state: the ground truth of the embedded world, one object per clip. clips: B numbers that name
    the clips. latents, tokens: the video as the autoencoder and patchifier give it, where already known. known: clean
    tokens at known places. earlier: the earlier stage's video of a cascade. opening: the first frames, B C n H W, where
    a conditioner looks at them. written: B texts that the writer gives of the clips, where a conditioner reads them.
    texts: what people wrote besides the prompt, by style, B texts each, empty where they wrote nothing.
    """

    video: Tensor | tuple[Tensor, ...] | None = None
    prompt: tuple[str, ...] | None = None
    label: Tensor | None = None
    actions: Tensor | None = None
    state: tuple[Any, ...] | None = None
    clips: tuple[int, ...] = ()
    latents: Latents | None = None
    tokens: Tokens | None = None
    known: Known | None = None
    earlier: Tensor | None = None
    opening: Tensor | None = None
    written: tuple[str, ...] | None = None
    texts: Mapping[str, tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(self, **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})


def _moved(value: Any, device: torch.device | str) -> Any:
    """`value` with every tensor in it on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (Latents, Tokens, Known)):
        return replace(value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return tuple(_moved(v, device) for v in value)
    return value


@dataclass(frozen=True)
class Example:
    """What an objective learns from: the batch as clean tokens (None for an autoencoder or a tower), and what is told."""

    tokens: Tokens | None
    conditioning: Conditioning
    batch: Batch


@dataclass(frozen=True)
class Losses:
    """total: the scalar to descend. parts: scalars to log, by name; detached."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
