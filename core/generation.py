"""The verb `generate`: a request becomes video, whatever the family of the model."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Precision
from mutoscope.core.values import Batch, Conditioning, Grid, Known, Tokens


@dataclass(frozen=True)
class Request:
    """What is asked for. Fields that are None take the training data's value, or are drawn by the conditioners.

    prompts, labels, actions: one per clip; actions are one row of integers per clip. count: clips, where nothing else
    says how many. frames, size (rows, columns): of the video; any that the model's parts can cover. seed: of all
    draws. clips: the number of each clip in those draws, by default 0, 1, ...; a clip's sample depends on the seed and
    its own number, not on its batch mates. at_once: clips in one batch. precision: of matrix products. source: a video
    to edit, B C T H W in [-1, 1], of which frames and size are those of the request; for a sampler that edits. stays:
    which of its pixels are to stay, B T H W booleans.
    """

    prompts: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None
    actions: tuple[tuple[int, ...], ...] | None = None
    count: int | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    clips: tuple[int, ...] | None = None
    at_once: int = 64
    precision: Precision = "float32"
    source: Tensor | None = None
    stays: Tensor | None = None

    def __len__(self) -> int:
        given = {
            name: len(value)
            for name in ("prompts", "labels", "actions", "clips", "source", "stays")
            if (value := getattr(self, name)) is not None
        }
        if self.count is not None:
            given["count"] = self.count
        if len(set(given.values())) > 1:
            raise InputError(f"a request has one of each per clip; got {given}")
        return next(iter(given.values()), 1)

    def batches(self) -> list[Batch]:
        """The request in batches of at most `at_once` clips; a source to edit is their video."""
        n = len(self)
        if n < 1 or self.at_once < 1:
            raise InputError(f"a request asks for at least one clip, at least one at once; got {n} and {self.at_once}")
        clips = self.clips or tuple(range(n))
        cuts = [slice(i, i + self.at_once) for i in range(0, n, self.at_once)]
        return [
            Batch(
                prompt=self.prompts[cut] if self.prompts is not None else None,
                label=torch.tensor(self.labels[cut]) if self.labels is not None else None,
                actions=torch.tensor(self.actions[cut]) if self.actions is not None else None,
                clips=clips[cut],
                video=self.source[cut] if self.source is not None else None,
            )
            for cut in cuts
        ]

    def shape(self, model: Model) -> tuple[int, tuple[int, int]]:
        """Frames and size (rows, columns) of the video asked for; those of a source, else of the training data."""
        if self.source is not None:
            frames, rows, columns = self.source.shape[2:]
            return frames, (rows, columns)
        return self.frames or model.clip.frames, self.size or model.clip.size

    def kept(self, batch: Batch) -> Tensor | None:
        """What is to stay, of the clips of one batch of this request."""
        if self.stays is None:
            return None
        clips = self.clips or tuple(range(len(self)))
        return self.stays[[clips.index(clip) for clip in batch.clips]]


@dataclass(frozen=True)
class Generated:
    """video: B C T H W in [-1, 1], on the CPU. notes: what was done beyond the request, in words."""

    video: Tensor
    notes: tuple[str, ...] = ()


def generate(model: Model | Cascade, request: Request) -> Generated:
    """Samples what a request asks for.

    Samples the smallest legal grid that covers the request, trims what lies over, and says so in the notes. A cascade
    runs its stages in order; the last one gives the request's frames and size. Raises InputError on a request that
    the model cannot serve.
    """
    stages = stages_of(model)
    for name, stage in stages:
        if lacking := stage.lacks():
            raise InputError(f"{'stage ' + name if name else 'this model'} cannot generate: it has no {lacking[0]}")
    modes = [(stage, stage.training) for _, stage in stages]
    videos, notes = [], dict.fromkeys(())
    try:
        model.eval()
        with torch.no_grad(), autocast(stages[0][1].device, request.precision):
            for batch in request.batches():
                video = None
                for i, (name, stage) in enumerate(stages):
                    last = i == len(stages) - 1
                    frames, size = request.shape(stage) if last else (stage.clip.frames, stage.clip.size)
                    draw = Draw(request.seed, f"sample.{name}" if name else "sample", 0, batch.clips, stage.device)
                    asked = replace(batch, earlier=video, video=batch.video if last else None).to(stage.device)
                    video, said = _sampled(stage, asked, frames, size, draw, request.kept(batch))
                    notes.update(dict.fromkeys(said))
                if video is not None:
                    videos.append(video.float().clamp(-1, 1).cpu())
    finally:
        for stage, training in modes:
            stage.train(training)
    return Generated(torch.cat(videos), tuple(notes))


def legal_grid(model: Model, frames: int, size: tuple[int, int]) -> Grid:
    """The smallest token grid whose video covers so many frames, rows and columns. Raises InputError on none."""
    if min(frames, *size) < 1:
        raise InputError(
            f"a video has at least one frame, row and column; got {frames} frames of {size[0]} x {size[1]}"
        )
    return model.patchifier.token_grid(model.autoencoder.latent_grid(frames, size))


def _sampled(
    model: Model, batch: Batch, frames: int, size: tuple[int, int], draw: Draw, stays: Tensor | None
) -> tuple[Tensor, tuple[str, ...]]:
    """One stage's video for one batch, trimmed, and notes."""
    grid = legal_grid(model, frames, size)
    canvas = model.patchifier.canvas([grid] * len(batch), model.device)
    conditioning = model.embed(replace(batch, video=None), draw)
    if batch.video is not None:
        canvas, conditioning = _edited(model, canvas, conditioning, batch.video, stays)
    video = _best(model, canvas, conditioning, draw, batch)
    made = tuple(video.shape[-3:])
    asked = (frames, *size)
    if made == asked:
        return video, ()
    note = f"sampled {made[0]} frames of {made[1]} x {made[2]}, the smallest that covers the request; trimmed to {asked[0]} of {asked[1]} x {asked[2]}"
    return video[..., : asked[0], : asked[1], : asked[2]], (note,)


def _edited(
    model: Model, canvas: Tokens, conditioning: Conditioning, video: Tensor | tuple[Tensor, ...], stays: Tensor | None
) -> tuple[Tokens, Conditioning]:
    """The canvas with a source's tokens, and as known those of which every pixel stays. Raises InputError."""
    if not model.sampler.uses_source:
        problem = "does not edit: it starts from noise alone and has no use for a source"
        raise InputError(field="sampler", problem=problem, got=model.sampler.name, allowed="sdedit")
    assert isinstance(video, Tensor)
    if not model.autoencoder.covers(video.shape[2], (video.shape[3], video.shape[4])):
        raise InputError(
            field="source", problem=f"is not coded exactly by {model.autoencoder.name}", got=list(video.shape[2:])
        )
    tokens = model.patchifier.patchify(model.autoencoder.encode(video))
    if tokens.grids != canvas.grids:
        raise InputError(field="source", problem="is not of the request's frames and size", got=list(video.shape[2:]))
    if stays is None or not bool(stays.any()):
        return tokens, conditioning
    if not tokens.regular:
        raise InputError(field="stays", problem="needs clips of one size, one per row")
    moved = torch.nn.functional.adaptive_max_pool3d((~stays.to(video.device)).float()[:, None], tokens.grids[0])
    known = Known(tokens.filled(), tokens.from_grid(moved).filled()[..., 0] == 0)
    return tokens, replace(conditioning, known=known)


def _best(model: Model, canvas: Tokens, conditioning: Conditioning, draw: Draw, batch: Batch) -> Tensor:
    """The decoded sample of each clip, of several candidates the one that the sampler likes best."""

    def sampled(draw: Draw) -> Tensor:
        tokens = model.sampler.sample(model.denoiser, canvas, conditioning, draw)
        return model.autoencoder.decode(model.patchifier.unpatchify(tokens))

    if model.sampler.candidates == 1:
        return sampled(draw)
    best = sampled(draw.at(0))
    highest = model.sampler.scores(best, batch)
    for i in range(1, model.sampler.candidates):
        video = sampled(draw.at(i))
        score = model.sampler.scores(video, batch)
        better = score > highest
        best = torch.where(better.view(-1, *[1] * (best.ndim - 1)), video, best)
        highest = torch.maximum(highest, score)
    return best


def autocast(device: torch.device, precision: Precision):
    """The context in which matrix products run at a precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
