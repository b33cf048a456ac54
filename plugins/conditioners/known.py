"""The `known` conditioner: clean tokens at places that are drawn in training and asked for in sampling."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative
from mutoscope.core.values import Batch, Conditioning, Known, Tokens

Place = Literal["nothing", "first", "last", "ends", "frames", "regions"]
PLACES: dict[str, float] = {"nothing": 5.0, "first": 2.0, "last": 1.0, "ends": 1.0, "frames": 0.5, "regions": 0.5}


@final
class KnownTokens(Conditioner):
    """Shows a network clean tokens at known places, so that it learns to make the rest.

    One network so learns to animate an image, to go on with a video before it and after it, to connect two videos and
    to fill in what is missing. The masks are those of masked training over frames and cubes (Yu et al. 2023, MAGVIT,
    sec. 3.3, arXiv:2212.05199; Voleti et al. 2022, MCVD, sec. 2.4, arXiv:2205.09853); that clean tokens stand among the
    noisy ones is the way of conditional diffusion by inpainting (Ho et al. 2022, arXiv:2204.03458, sec. 3.1). The
    denoiser is told which they are, and they are not learned. Of a request it shows what stays.

    places: how often, in proportion, a training clip shows `nothing`, its `first` token frames, its `last`, both
    `ends`, whole `frames` by chance, or all but a box of space and time, the `regions`. Of n frames 1 to n - 1 are
    shown, evenly; of one-frame clips only regions.
    """

    name = "known"
    paper = "Yu et al. 2023, arXiv:2212.05199"

    def __init__(self, tokens: TokenFact, *, places: dict[Place, NonNegative] = PLACES) -> None:  # type: ignore[assignment]
        super().__init__()
        shares = {name: float(places.get(name, 0.0)) for name in PLACES}  # type: ignore[call-overload]
        if sum(shares.values()) == 0:
            raise InputError(field="places", problem="shows nothing at all, not even nothing; one share is above 0")
        self.shares = shares
        self.shown = tuple(name for name, share in shares.items() if share and name != "nothing")
        self.grid = tokens.grid

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        if batch.known is not None or batch.tokens is None or not self.training:
            return Conditioning(known=batch.known)
        tokens = batch.tokens
        return Conditioning(known=Known(tokens.filled(), self(tokens, draw)))

    def forward(self, tokens: Tokens, draw: Draw) -> Tensor:
        """Which tokens are shown, B N booleans, drawn for each clip; never padding."""
        sides = torch.tensor(tokens.grids, dtype=torch.float32).to(tokens.device)  # K 3
        uniform = draw.uniform("places", 8).to(tokens.device)
        bounds = torch.tensor(list(self.shares.values())).cumsum(0).to(tokens.device)
        kind = torch.bucketize(uniform[:, 0] * bounds[-1], bounds[:-1], right=True)
        place = tokens.positions  # B N 3
        frames = sides[:, 0]
        # Of n frames 1 to n - 1 are shown; at both ends one each at least, where there are three.
        n = 1 + (uniform[:, 1] * (frames - 1)).floor()
        n = torch.where(frames > 1, n.clamp(max=frames - 1), 0.0)
        lead = torch.where(n > 1, 1 + (uniform[:, 2] * (n - 1)).floor().clamp(max=n - 2), n)
        t, per = place[..., 0], tokens.per_token
        first, last = t < per(n), t >= per(frames - n)
        ends = (t < per(lead)) | (t >= per(frames - (n - lead)))
        chance = draw.uniform("frames", int(max(grid.frames for grid in tokens.grids))).to(tokens.device)
        drawn = per(chance).expand(*t.shape, -1).gather(-1, t.long()[..., None])[..., 0] < per(uniform[:, 2])
        # A box of at least one cell and at most the whole clip, out of which everything is shown.
        length = (1 + (uniform[:, 2:5] * sides).floor()).clamp(max=sides)
        start = (uniform[:, 5:8] * (sides - length + 1)).floor()
        inside = ((place >= per(start)) & (place < per(start + length))).all(dim=-1)
        nothing = torch.zeros_like(first)
        every = torch.stack([nothing, first, last, ends, drawn & per(frames > 1), ~inside], dim=-1)
        chosen = per(kind).expand(t.shape)
        return every.gather(-1, chosen[..., None])[..., 0] & (tokens.clip > 0)

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(known=True, places=self.shown or ("nothing",)),)
