"""The `masked_level` objective: masked diffusion training of a transformer."""

from __future__ import annotations

from typing import Annotated, Any, final

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from mutoscope.core.component import Nested
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import Continuous, TokenFact
from mutoscope.core.objective import Objective, WrappingObjective
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Share
from mutoscope.core.values import Conditioning, Example, Losses, Tokens


@final
class MaskedLevel(WrappingObjective):
    """Some clips are denoised with part of their tokens hidden, so that what is hidden is told from what is not.

    Gao et al. 2023, sec. 3.2, arXiv:2303.14389 (Zheng et al. 2023, arXiv:2306.09305, drop the hidden tokens instead,
    which the patchifier `navit` does). A hidden token's noisy value gives way to a learned one; the error is still that
    of all tokens, under any objective of levels. Samplers hide nothing.

    on: the objective of levels. ratio: share of a clip's tokens that is hidden. clips: share of the clips that have
    any hidden. tube: the same places are hidden in all frames.
    """

    name = "masked_level"
    paper = "Gao et al. 2023, arXiv:2303.14389"
    accepts = LevelDenoiser

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous],
        *,
        on: Objective = Nested("flow"),
        ratio: Annotated[float, Gt(0.0), Lt(1.0)] = 0.3,
        clips: Share = 0.5,
        tube: bool = False,
    ) -> None:
        super().__init__(on)
        self.ratio, self.clips, self.tube = ratio, clips, tube
        self.mask = nn.Parameter(torch.empty(tokens.width))
        nn.init.normal_(self.mask, std=0.02)

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        assert example.tokens is not None
        hidden = self.hidden(example.tokens, example.conditioning, draw)
        masked: Any = Masked(learner, self.mask, hidden)
        losses = self.objective.loss(masked, example, draw, turn)
        return Losses(losses.total, {**losses.parts, "hidden": hidden.float().mean().detach()})

    def hidden(self, tokens: Tokens, conditioning: Conditioning, draw: Draw) -> Tensor:
        """Which tokens are hidden, B N booleans; never padding, nor what is known."""
        cells = [grid.rows * grid.columns if self.tube else grid.cells for grid in tokens.grids]
        chance = draw.uniform("mask", max(cells))
        count = torch.tensor(cells, device=tokens.device)
        place = tokens.cells() % tokens.per_token(count) if self.tube else tokens.cells()
        own = chance[(tokens.clip - 1).clamp(min=0), place]
        coin = tokens.per_token(draw.uniform("masked").view(-1) < self.clips)
        hidden = (own < self.ratio) & coin & (tokens.clip > 0)
        return hidden if conditioning.known is None else hidden & ~conditioning.known.where


class Masked:
    """A denoiser that is not shown some tokens."""

    def __init__(self, denoiser: LevelDenoiser, mask: Tensor, hidden: Tensor) -> None:
        self.denoiser, self.mask, self.hidden = denoiser, mask, hidden

    def __call__(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        shown = torch.where(self.hidden[..., None], self.mask.to(tokens.filled().dtype), tokens.filled())
        return self.denoiser(tokens.with_values(shown), level, conditioning)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)
