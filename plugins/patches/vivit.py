"""ViViT: a tower with its four models, and the same four as denoisers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, ConditioningFact, Continuous, FeatureFact, OneSize, Regular, TokenFact
from mutoscope.core.layers.telling import Telling, of_each_row
from mutoscope.core.layers.tubelets import carried, resized_positions, uniform_frames
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Cube, Depth, Heads, Natural, Positive, Width
from mutoscope.core.tower import Tower
from mutoscope.core.values import Conditioning, Features, Grid, Tokens
from mutoscope.plugins.patches.factorised import EPS, Alternating, Asking, Halves, Joint, Plain, Told, initialise
from mutoscope.plugins.patches.grids import old_grid

Inflation = Literal["central", "inflated"]
TIMM = {
    "patch_embed.proj": "embed",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
"""Names of timm's ViT, and ours for the same."""


@final
class VivitTower(Tower):
    """Video transformer over tubelets, with its classification head. Arnab et al. 2021, sec. 3, arXiv:2103.15691.

    model: 1, attention among all tokens; 2, an encoder of each time's tokens, then one over the times' class tokens;
    3, in every block attention over space, then over time; 4, half of the heads over space and half over time. Models 3
    and 4 have no class token and pool over all tokens.
    tubelet: frames, rows, columns of pixels per token. temporal: blocks of model 2's second encoder; 0 takes the mean
    over times instead. sampling: `uniform` embeds single frames, as many as there are tubelets, spread evenly over the
    clip (sec. 3.2), in the place of tubelets. classes: of the head; by default the data's, 0 for no head.
    inflate: how the weights of an image model become a video model's (sec. 3.4): the projection `central` or
    `inflated`, positions repeated over time, attention over time closed (model 3).
    """

    name = "vivit"
    paper = "Arnab et al. 2021, arXiv:2103.15691"
    tiny = {"tubelet": (1, 4, 4), "width": 16, "depth": 2, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        clip: Annotated[ClipFact, OneSize],
        *,
        model: Literal[1, 2, 3, 4] = 1,
        tubelet: Cube = (1, 4, 4),
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 3,
        mlp: Positive = 4.0,
        temporal: Natural = 4,
        sampling: Literal["tubelet", "uniform"] = "tubelet",
        classes: Natural | None = None,
        inflate: Inflation = "central",
    ) -> None:
        super().__init__()
        shape = (clip.frames, *clip.size)
        if any(n % p for n, p in zip(shape, tubelet, strict=True)):
            raise ValueError(f"tubelet: clips of {shape} do not divide into tubelets of {list(tubelet)}")
        self.model, self.width, self.inflate = model, width, inflate
        self.grid = Grid(*(n // p for n, p in zip(shape, tubelet, strict=True)))
        self.sampled = uniform_frames(clip.frames, self.grid.frames).tolist() if sampling == "uniform" else None
        self.tubelet = (1, *tubelet[1:]) if self.sampled else tuple(tubelet)
        t, h, w = self.tubelet
        hidden, plane = int(width * mlp), self.grid.rows * self.grid.columns
        self.embed = nn.Linear(clip.channels * t * h * w, width)
        self.cls = nn.Parameter(torch.zeros(width)) if model < 3 else None
        places = (plane if model == 2 else self.grid.cells) + (model < 3)
        self.positions = nn.Parameter(torch.empty(places, width))
        block = {1: Joint, 2: Joint, 3: Alternating, 4: Halves}[model]
        self.blocks = nn.ModuleList(block(width, heads, hidden, Plain) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)
        self.over_time = Times(width, heads, hidden, temporal, self.grid.frames) if model == 2 and temporal else None
        count = clip.classes if classes is None else classes
        self.head = nn.Linear(width, count) if count else None
        initialise(self)
        nn.init.normal_(self.positions, std=0.02)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def facts(self) -> tuple[FeatureFact, ...]:
        return (FeatureFact(self.width, self.grid, self.tubelet),)

    def forward(self, video: Tensor) -> Features:
        return self.features(video)

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        """Of clips of the training size."""
        tokens = self.tokens(video)
        sequence, pooled = self.encoded(tokens)
        return Features(sequence, pooled, None if self.head is None else self.head(pooled))

    def tokens(self, video: Tensor) -> Tensor:
        """B C T H W to embedded tubelets, B T S D, before positions."""
        t, h, w = self.tubelet
        video = video if self.sampled is None else video[:, :, self.sampled]
        return self.embed(rearrange(video, "b c (t i) (h j) (w k) -> b t (h w) (c i j k)", i=t, j=h, k=w))

    def encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded tubelets B T S D to features of all, B (T S) D, and pooled ones, B D."""
        b, t = x.shape[:2]
        if self.cls is None:
            x = x + self.positions.view(1, t, -1, self.width)
            for block in self.blocks:
                x = block(x)
            x = self.norm(x).flatten(1, 2)
            return x, x.mean(1)
        rows = rearrange(x, "b t s d -> b (t s) d" if self.model == 1 else "b t s d -> (b t) s d")
        rows = torch.cat([self.cls.to(x.dtype).expand(len(rows), 1, -1), rows], dim=1) + self.positions
        for block in self.blocks:
            rows = block(rows)
        rows = self.norm(rows)
        sequence, token = rows[:, 1:], rows[:, 0]
        if self.model == 1:
            return sequence, token
        times = rearrange(token, "(b t) d -> b t d", b=b)
        pooled = times.mean(1) if self.over_time is None else self.over_time(times)
        return rearrange(sequence, "(b t) s d -> b (t s) d", b=b), pooled

    def adapted(self, stored: dict[str, Any]) -> dict[str, Any]:
        """An image model's weights, ours or timm's, as a video model's; what an image has none of stays as it is."""
        made: dict[str, Any] = {}
        for key, tensor in stored.items():
            ours = key.removeprefix("network.")
            for theirs, name in TIMM.items():
                ours = ours.replace(theirs, name)
            made[ours] = tensor
        own = self.state_dict()
        if "cls_token" in made:
            made["cls"] = made.pop("cls_token").flatten()
        if "pos_embed" in made:
            made["positions"] = made.pop("pos_embed")[0]
        if "embed.weight" not in made or "blocks.0.attention.qkv.weight" not in made:
            raise InputError(
                problem="holds no vision transformer: neither patch embedding nor attention", got=len(stored)
            )
        flat = made["embed.weight"].flatten(1)
        same = flat.shape[1] == own["embed.weight"].shape[1]
        made["embed.weight"] = flat if same else carried(flat, self.tubelet, self.inflate)
        if "positions" in made:
            made["positions"] = self._carried_positions(made["positions"])
        return {k: made[k] if k in made and made[k].shape == v.shape else v for k, v in own.items()}

    def _carried_positions(self, table: Tensor) -> Tensor:
        """An image's positions, with those of its class token first, repeated over time where this model has times."""
        grid = Grid(1, *self.grid[1:]) if self.model == 2 else self.grid
        plane = self.grid.rows * self.grid.columns
        token = len(table) % plane == 1 or (
            len(table) % plane != 0 and int((len(table) - 1) ** 0.5) ** 2 == len(table) - 1
        )
        first, places = (table[:1], table[1:]) if token else (table[:0], table)
        places = resized_positions(places, old_grid(len(places), grid), grid)
        return torch.cat([first, places]) if self.cls is not None else places


class Times(nn.Module):
    """Model 2's second encoder: over the class tokens of the times, with a class token of its own."""

    def __init__(self, width: int, heads: int, hidden: int, depth: int, frames: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.empty(1 + frames, width))
        self.blocks = nn.ModuleList(Joint(width, heads, hidden, Plain) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, times: Tensor) -> Tensor:
        """B T D to B D."""
        x = torch.cat([self.cls.to(times.dtype).expand(len(times), 1, -1), times], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


@final
class VivitDenoiser(LevelDenoiser):
    """The four models of ViViT as denoisers. Arnab et al. 2021, sec. 3.3, arXiv:2103.15691.

    Ours, as the paper classifies: nothing is pooled and there is no class token. Model 2 keeps every token, its second
    encoder running over the times of each place. Level and pooled conditioning modulate every block as in DiT
    (adaLN-Zero), a prompt is asked by cross-attention, and the output is zero at first.

    model: as in the tower `vivit`. temporal: blocks of model 2's second encoder; 0 leaves frames apart. inflate: how the
    weights of the same model over tubelets of one frame, trained on images, become this one's.
    """

    name = "vivit"
    paper = "Arnab et al. 2021, arXiv:2103.15691"
    tiny = {"width": 16, "depth": 2, "heads": 2, "temporal": 1}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        model: Literal[1, 2, 3, 4] = 3,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 6,
        mlp: Positive = 4.0,
        temporal: Natural = 4,
        inflate: Inflation = "central",
    ) -> None:
        super().__init__()
        self.model, self.width, self.grid, self.inflate = model, width, tokens.grid, inflate
        self.patch, hidden = tokens.patch, int(width * mlp)
        self.embed = nn.Linear(tokens.width, width)
        self.positions = nn.Parameter(torch.empty(tokens.grid.cells, width))
        self.telling = Telling(given, width)
        block = {1: Joint, 2: Joint, 3: Alternating, 4: Halves}[model]
        self.blocks = nn.ModuleList(block(width, heads, hidden, Told) for _ in range(depth))
        later = [Joint(width, heads, hidden, Told) for _ in range(temporal)] if model == 2 else []
        self.over_time = nn.ModuleList(later)
        total = depth + len(later) if given.sequence else 0
        self.asking = nn.ModuleList(Asking(width, given.sequence, heads) for _ in range(total))
        self.norm = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, process.output_width(tokens))
        initialise(self)
        nn.init.normal_(self.positions, std=0.02)
        for layer in (self.telling.level[0], self.telling.level[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        for layer in (self.norm, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        grid = tokens.grids[0]
        x = self.embed(tokens.filled()) + resized_positions(self.positions, self.grid, grid)
        x, c = rearrange(x, "b (t s) d -> b t s d", t=grid.frames), self.telling(level, conditioning)
        prompt, sees = conditioning.sequence, None
        if prompt is not None:
            prompt, sees = of_each_row(tokens, prompt, conditioning.mask)
        for i, block in enumerate([*self.blocks, *self.over_time]):
            x = self._through(block, x, c, i < len(self.blocks))
            if len(self.asking) and prompt is not None:
                x = self.asking[i](x, prompt, sees)
        shift, scale = self.norm(c)[:, None].chunk(2, dim=-1)
        return self.out(F.layer_norm(x.flatten(1, 2), (self.width,), eps=EPS) * (1 + scale) + shift)

    def _through(self, block: nn.Module, x: Tensor, c: Tensor, first: bool) -> Tensor:
        """A block over what it attends over: B T S D. first: it is of the first encoder."""
        b, t, s, _ = x.shape
        if self.model > 2:
            return block(x, c)
        if self.model == 1:
            return block(x.flatten(1, 2), c).view(x.shape)
        if first:
            return block(x.flatten(0, 1), repeat(c, "b d -> (b t) d", t=t)).view(x.shape)
        lines = block(rearrange(x, "b t s d -> (b s) t d"), repeat(c, "b d -> (b s) d", s=s))
        return rearrange(lines, "(b s) t d -> b t s d", b=b)

    def adapted(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Weights of the same model over tubelets of one frame, or of another grid, as this one's."""
        made = dict(stored)
        for key in ("embed.weight", "out.weight", "out.bias"):
            if key in made and made[key].shape != self.get_parameter(key).shape:
                made[key] = self._widened(key, made[key])
        if "positions" in made:
            made["positions"] = resized_positions(
                made["positions"], old_grid(len(made["positions"]), self.grid), self.grid
            )
        return made

    def _widened(self, key: str, tensor: Tensor) -> Tensor:
        """The first layer inflated; the last one's rows repeated over the frames of a tubelet."""
        t, h, w = self.patch
        if key == "embed.weight":
            return carried(tensor, self.patch, self.inflate)
        rows = rearrange(tensor, "(k h w) ... -> k h w ...", h=h, w=w)
        return repeat(rows, "k h w ... -> (k t h w) ...", t=t)
