"""The smallest real part of every family, as a third party's plugin file."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import nn

import mutoscope.core.values as v
from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Facts, Nested
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.dataset import Dataset
from mutoscope.core.denoiser import FrameDenoiser, LevelDenoiser, OneStepDenoiser, TokenDenoiser
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.errors import DataError
from mutoscope.core.facts import (
    ClipFact,
    ConditioningFact,
    Continuous,
    Discrete,
    EarlierFact,
    FieldFact,
    Labelled,
    LatentFact,
    Prompted,
    TokenFact,
)
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.objective import Objective
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.plugin import hookimpl
from mutoscope.core.process import FrameProcess, LevelProcess, OneStepProcess, TokenProcess
from mutoscope.core.sampler import Sampler
from mutoscope.core.settings import Count, Share, Size, Width
from mutoscope.core.tower import Tower


@final
class Clips(Dataset):
    """Grey clips with captions, labels and actions."""

    name = "clips"

    def __init__(self, *, frames: Count = 5, size: Size = (8, 8), classes: int = 3, broken: bool = False) -> None:
        if broken:
            raise DataError("no clip can be read")
        self.frames, self.size, self.classes = frames, size, classes

    def length(self, split: str) -> int:
        return 16

    def batch(self, split, indices, epoch=0):
        n = len(indices)
        video = torch.zeros(n, 3, self.frames, *self.size)
        return v.Batch(video=video, prompt=("grey",) * n, label=torch.zeros(n, dtype=torch.long), clips=tuple(indices))

    def facts(self):
        return [ClipFact(3, self.frames, tuple(self.size), classes=self.classes, actions=2)]


class _Pixels:
    """Shapes of an autoencoder that halves rows and columns, and time after the first frame."""

    def latent_grid(self, frames: int, size: tuple[int, int]) -> v.Grid:
        return v.Grid(1 + -(-(frames - 1) // 2), -(-size[0] // 2), -(-size[1] // 2))

    def video_size(self, grid: v.Grid) -> tuple[int, int, int]:
        return 1 + 2 * (grid.frames - 1), 2 * grid.rows, 2 * grid.columns


@final
class Plain(Autoencoder):
    """Pixels as they are."""

    name = "plain"

    def __init__(self, clip: ClipFact) -> None:
        super().__init__()
        self.clip = clip

    def encode(self, video):
        return v.Latents(video, ids=False)

    def decode(self, latents):
        return latents.values

    def latent_grid(self, frames, size):
        return v.Grid(frames, *size)

    def video_size(self, grid):
        return tuple(grid)

    def forward(self, video, draw):
        return v.Reconstruction(video)

    def facts(self):
        return [LatentFact(3, (1, 1, 1), v.Grid(self.clip.frames, *self.clip.size))]


@final
class Squeeze(_Pixels, Autoencoder):
    """A strided convolution and its transpose, first frame alone."""

    name = "squeeze"

    def __init__(self, clip: ClipFact, *, channels: Width = 4, width: Width = 8) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width {width} must be even")
        self.clip, self.channels = clip, channels
        self.down = nn.Conv3d(clip.channels, channels, (3, 2, 2), stride=2, padding=(1, 0, 0))
        self.up = nn.ConvTranspose3d(channels, clip.channels, (1, 2, 2), stride=2)

    def encode(self, video):
        return v.Latents(self.down(video), ids=False)

    def decode(self, latents):
        return self.up(latents.values)

    def forward(self, video, draw):
        return v.Reconstruction(self.decode(self.encode(video)))

    def facts(self):
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        return [LatentFact(self.channels, (2, 2, 2), grid, causal=True)]


@final
class Codes(_Pixels, Autoencoder):
    """Ids of a codebook."""

    name = "codes"

    def __init__(self, clip: ClipFact, *, codebook: Count = 16) -> None:
        super().__init__()
        self.clip, self.codebook = clip, codebook
        self.table = nn.Embedding(codebook, clip.channels)
        self.down = nn.Conv3d(clip.channels, codebook, (3, 2, 2), stride=2, padding=(1, 0, 0))
        self.up = nn.ConvTranspose3d(clip.channels, clip.channels, (1, 2, 2), stride=2)

    def encode(self, video):
        return v.Latents(self.down(video).argmax(1), ids=True)

    def decode(self, latents):
        return self.up(torch.movedim(self.table(latents.values), -1, 1))

    def forward(self, video, draw):
        """The gradient of the choice is that of its probabilities."""
        logits = self.down(video)
        soft, ids = logits.softmax(1), logits.argmax(1)
        passed = torch.einsum("b k t h w, k c -> b c t h w", soft - soft.detach(), self.table.weight)
        return v.Reconstruction(self.up(torch.movedim(self.table(ids), -1, 1) + passed))

    def facts(self):
        grid = self.latent_grid(self.clip.frames, self.clip.size)
        return [LatentFact(3, (2, 2, 2), grid, causal=True, codebook=self.codebook)]


@final
class Cubes(Patchifier):
    """Cells grouped in space; ids are left alone."""

    name = "cubes"

    def __init__(self, latent: LatentFact, *, size: Count = 1) -> None:
        super().__init__()
        self.latent, self.size = latent, size

    def patchify(self, latents, draw=None):
        grid = self.token_grid(latents.grids()[0])
        canvas = v.Tokens.canvas(grid, len(latents.values), latents.values.device)
        values = latents.values
        if not latents.ids:
            b, c, t, h, w = values.shape
            p = self.size
            values = values.reshape(b, c, t, h // p, p, w // p, p).permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)
        return canvas.from_grid(values)

    def unpatchify(self, tokens):
        values = tokens.as_grid()
        if values.ndim == 4:
            return v.Latents(values, ids=True)
        b, _, t, h, w = values.shape
        p = self.size
        values = values.reshape(b, -1, p, p, t, h, w).permute(0, 1, 4, 5, 2, 6, 3).reshape(b, -1, t, h * p, w * p)
        return v.Latents(values, ids=False)

    def token_grid(self, latent):
        return v.Grid(latent.frames, -(-latent.rows // self.size), -(-latent.columns // self.size))

    def latent_grid(self, tokens):
        return v.Grid(tokens.frames, tokens.rows * self.size, tokens.columns * self.size)

    def facts(self):
        width = 1 if self.latent.codebook else self.latent.channels * self.size**2
        grid, patch = self.token_grid(self.latent.grid), (1, self.size, self.size)
        return [TokenFact(width, grid, self.latent.channels, patch, self.latent.codebook)]


@final
class Words(Conditioner):
    """A table of prompt ids, and a linear layer."""

    name = "words"

    def __init__(self, clip: ClipFact, *, width: Width = 6, dropout: Share = 0.1) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.table, self.mix = nn.Embedding(32, width), nn.Linear(width, width)

    def embed(self, batch, draw):
        ids = torch.tensor([[len(p) % 32, 1] for p in batch.prompt], device=self.table.weight.device)
        told = self.mix(self.table(ids))
        null = v.Conditioning(sequence=self.mix(self.table(torch.zeros_like(ids))))
        return v.Conditioning(sequence=told, mask=torch.ones_like(ids, dtype=torch.bool), null=null)

    def facts(self):
        return [ConditioningFact(sequence=self.width, length=2)]


@final
class Labels(Conditioner):
    """A table of labels."""

    name = "labels"

    def __init__(self, clip: Annotated[ClipFact, Labelled], *, width: Width = 6) -> None:
        super().__init__()
        self.table = nn.Embedding(max(1, clip.classes) + 1, width)
        self.width = width

    def embed(self, batch, draw):
        return v.Conditioning(pooled=self.table(batch.label))

    def facts(self):
        return [ConditioningFact(pooled=self.width)]


@final
class Beginning(Conditioner):
    """The first tokens, as known ones."""

    name = "beginning"

    def embed(self, batch, draw):
        return v.Conditioning()

    def facts(self):
        return [ConditioningFact(known=True)]


# Level


class Straight(LevelProcess):
    kind = "flow"

    def coefficients(self, level):
        return 1 - level, level


@final
class Flow(Objective):
    """Rectified flow."""

    name = "straight"
    accepts = LevelDenoiser

    def __init__(self, tokens: Annotated[TokenFact, Continuous]) -> None:
        super().__init__()
        self.process = Straight()

    def loss(self, learner, example, draw, turn):
        level = draw.uniform("level").view(-1)
        noise = draw.like(example.tokens)
        noisy = self.process.noised(example.tokens, noise, level)
        field = self.process.predict(learner, noisy, level, example.conditioning).as_flow()
        return v.Losses((field - (noise - example.tokens.filled())).square().mean())


@final
class Mlp(LevelDenoiser):
    """Two linear layers per token."""

    name = "mlp"

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous],
        given: ConditioningFact,
        process: LevelProcess,
        earlier: EarlierFact | None = None,
        *,
        width: Width = 8,
        heads: Count = 2,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads {heads} does not divide width {width}")
        self.into = nn.Linear(tokens.width, width)
        self.told = nn.Linear(given.sequence, width) if given.sequence else None
        self.out = nn.Linear(width, process.output_width(tokens))

    def forward(self, tokens, level, conditioning):
        hidden = self.into(tokens.filled())
        if self.told is not None:
            hidden = hidden + self.told(conditioning.sequence).mean(1, keepdim=True)
        return self.out((hidden + 1e-3 * level.view(-1, 1, 1)).relu())


@final
class Reader(LevelDenoiser):
    """Reads a prompt, and will not go without one."""

    name = "reader"

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous],
        given: Annotated[ConditioningFact, Prompted],
        process: LevelProcess,
    ) -> None:
        super().__init__()
        self.out = nn.Linear(tokens.width + max(1, given.sequence), tokens.width)

    def forward(self, tokens, level, conditioning):
        said = conditioning.sequence.mean(1, keepdim=True).expand(-1, tokens.filled().shape[1], -1)
        return self.out(torch.cat([tokens.filled(), said], -1)) + 1e-3 * level.view(-1, 1, 1)


@final
class Euler(Sampler):
    """Euler steps, guided."""

    name = "steps"
    accepts = LevelDenoiser

    def __init__(self, process: LevelProcess, *, steps: Count = 4, guidance: float = 1.0) -> None:
        super().__init__()
        self.process, self.steps, self.guidance = process, steps, guidance

    def sample(self, denoiser, canvas, conditioning, draw):
        levels = self.process.levels(self.steps)
        x = canvas.with_values(draw.like(canvas, width=denoiser.into.in_features))
        for i in range(self.steps):
            level = levels[i].float().expand(len(canvas)).to(x.device)
            field = self.process.predict(denoiser, x, level, conditioning).as_flow()
            x = x.with_values(x.filled() + float(levels[i + 1] - levels[i]) * field)
        return x

    def calls(self, canvas):
        return self.steps * (1 if self.guidance == 1.0 else 2)


# Tokens


class Raster(TokenProcess):
    causal, hole = True, None


@final
class NextId(Objective):
    """Cross-entropy of every id."""

    name = "next_id"
    accepts = TokenDenoiser

    def __init__(self, tokens: Annotated[TokenFact, Discrete]) -> None:
        super().__init__()
        self.process = Raster()

    def loss(self, learner, example, draw, turn):
        logits = learner(example.tokens, example.conditioning).values
        return v.Losses(nn.functional.cross_entropy(logits.flatten(0, 1), example.tokens.filled().flatten()))


@final
class Ids(TokenDenoiser):
    """A recurrent network over ids."""

    name = "ids"

    def __init__(
        self,
        tokens: Annotated[TokenFact, Discrete],
        given: ConditioningFact,
        process: TokenProcess,
        *,
        width: Width = 8,
    ) -> None:
        super().__init__()
        codebook = tokens.codebook or 1
        self.table, self.out = nn.Embedding(codebook, width), nn.Linear(width, codebook)
        self.net = nn.LSTM(width, width, batch_first=True)

    def forward(self, tokens, conditioning, cache=None):
        """With a cache, which stays empty, the ids so far give one logit more than there are ids."""
        told = self.table(tokens.filled())
        hidden = self.net(told)[0] if told.shape[1] else told
        return v.Logits(self.out(nn.functional.pad(hidden if cache is not None else hidden[:, :-1], (0, 0, 1, 0))))

    def new_cache(self, canvas):
        return {}


@final
class Raise(Sampler):
    """One id after another."""

    name = "raster"
    accepts = TokenDenoiser

    def __init__(self, process: TokenProcess) -> None:
        super().__init__()

    def sample(self, denoiser, canvas, conditioning, draw):
        return canvas.with_values(torch.zeros(canvas.clip.shape, dtype=torch.long, device=canvas.device))

    def calls(self, canvas):
        return canvas.grids[0].cells


# One step


@final
class Patches(Discriminator):
    """A convolution."""

    name = "patches"

    def __init__(self, field: FieldFact, given: ConditioningFact, *, width: Width = 4) -> None:
        super().__init__()
        self.net = nn.Conv3d(field.channels, width, (1, 2, 2))
        self.score = nn.Linear(width, 1)

    def forward(self, grid, conditioning):
        return self.score(self.net(grid).mean((2, 3, 4)))


JUDGES = {"spatial": Nested("patches", {"width": 4}), "temporal": Nested("patches", {"width": 6})}


@final
class Game(Objective):
    """A generator against a judge of frames and a judge of clips."""

    name = "game"
    accepts = OneStepDenoiser

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous],
        *,
        discriminators: dict[str, Discriminator] = JUDGES,
    ) -> None:
        super().__init__()
        self.process = OneStepProcess()
        self.discriminators = nn.ModuleDict(discriminators)

    @classmethod
    def lend(cls, facts: Facts):
        tokens = facts.get(TokenFact)
        return [FieldFact(tokens.width, tokens.grid.frames, (tokens.grid.rows, tokens.grid.columns))]

    def opponents(self):
        return dict(self.discriminators.items())

    def turns(self, step):
        return ("spatial", "temporal", "learner") if step % 2 == 0 else ("spatial", "learner")

    def loss(self, learner, example, draw, turn):
        made = learner(learner.noise(example.tokens, draw), example.tokens, example.conditioning)
        grid = example.tokens.with_values(made).as_grid()
        if turn == "learner":
            return v.Losses(-sum(d(grid, example.conditioning).mean() for d in self.discriminators.values()))
        judge = self.discriminators[turn]
        return v.Losses(
            judge(grid.detach(), example.conditioning).mean()
            - judge(example.tokens.as_grid(), example.conditioning).mean()
        )


@final
class Generator(OneStepDenoiser):
    """A linear layer from noise."""

    name = "generator"

    def __init__(self, tokens: Annotated[TokenFact, Continuous], process: OneStepProcess, *, noise: Width = 5) -> None:
        super().__init__()
        self.size = noise
        self.net = nn.Linear(noise, tokens.width)

    def noise(self, canvas, draw):
        return {"content": draw.normal("content", self.size)}

    def forward(self, noise, canvas, conditioning):
        return self.net(noise["content"])[:, None].expand(-1, canvas.clip.shape[1], -1)


@final
class Once(Sampler):
    """One call."""

    name = "once"
    accepts = OneStepDenoiser

    def sample(self, denoiser, canvas, conditioning, draw):
        return canvas.with_values(denoiser(denoiser.noise(canvas, draw), canvas, conditioning))

    def calls(self, canvas):
        return 1


# Frames


class Normal(FrameProcess):
    def output_width(self, tokens):
        return tokens.width

    def nll(self, raw, frame):
        return (raw - frame).square().sum((1, 2))

    def sample(self, raw, draw, temperature):
        return raw


@final
class NextFrame(Objective):
    """The next frame's squared error."""

    name = "next_frame"
    accepts = FrameDenoiser

    def __init__(self, tokens: Annotated[TokenFact, Continuous]) -> None:
        super().__init__()
        self.process = Normal()

    def loss(self, learner, example, draw, turn):
        t = example.tokens.grids[0].frames
        frames = example.tokens.filled().unflatten(1, (t, -1)).unbind(1)
        state, total, frame = learner.begin(example.tokens, example.conditioning), 0.0, None
        for i, target in enumerate(frames):
            raw, state = learner(frame, state, i, example.conditioning)
            total, frame = total + self.process.nll(raw, target).mean(), target
        return v.Losses(total)


@final
class Recurrent(FrameDenoiser):
    """A recurrent cell per token."""

    name = "cell"

    def __init__(self, tokens: Annotated[TokenFact, Continuous], process: FrameProcess, *, width: Width = 4) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.cell, self.out = nn.GRUCell(tokens.width, width), nn.Linear(width, process.output_width(tokens))

    def begin(self, canvas, conditioning):
        _, rows, columns = canvas.grids[0]
        return torch.zeros(len(canvas), rows * columns, self.width, device=canvas.device)

    def forward(self, frame, state, t, conditioning):
        frame = torch.zeros(*state.shape[:2], self.tokens.width, device=state.device) if frame is None else frame
        state = self.cell(frame.flatten(0, 1), state.flatten(0, 1)).view_as(state)
        return self.out(state), state


@final
class Rollout(Sampler):
    """One frame after another."""

    name = "rollout"
    accepts = FrameDenoiser

    def __init__(self, process: FrameProcess, tokens: TokenFact) -> None:
        super().__init__()

    def sample(self, denoiser, canvas, conditioning, draw):
        raise RuntimeError("not asked for in these tests")

    def calls(self, canvas):
        return canvas.grids[0].frames


# Other learners


@final
class Rebuild(Objective):
    """Squared error of the reconstruction."""

    name = "rebuild"
    learns = "autoencoder"
    accepts = Autoencoder

    def loss(self, learner, example, draw, turn):
        return v.Losses((learner(example.batch.video, draw).video - example.batch.video).square().mean())


@final
class Eye(Tower):
    """Pixels to logits."""

    name = "eye"

    def __init__(self, clip: ClipFact, *, width: Width = 4) -> None:
        super().__init__()
        self.net, self.head = nn.Conv3d(clip.channels, width, 1), nn.Linear(width, max(1, clip.classes))

    def features(self, video, level=None):
        pooled = self.net(video).mean((2, 3, 4))
        return v.Features(pooled=pooled, logits=self.head(pooled))


@final
class Classify(Objective):
    """Cross-entropy of the label."""

    name = "classify"
    learns = "tower"
    accepts = Tower

    def loss(self, learner, example, draw, turn):
        return v.Losses(nn.functional.cross_entropy(learner.features(example.batch.video).logits, example.batch.label))


@final
class Brightness(Metric):
    """Mean of the pixels."""

    name = "brightness"

    def __init__(self, clip: ClipFact, *, scale: float = 1.0) -> None:
        self.scale = scale

    def score(self, material: Material):
        return [Score("brightness", clips=self.scale * material.video.flatten(1).mean(1).numpy())]


def _all() -> list[type]:
    return [
        c for c in globals().values() if isinstance(c, type) and c.__module__ == __name__ and getattr(c, "name", "")
    ]


@hookimpl
def mutoscope_components():
    return _all()
