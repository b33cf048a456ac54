"""The verb `generate`: a request becomes video, whatever the family of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.randomness import Draw
from mutoscope.core.request import Request
from mutoscope.core.settings import Precision, TrainingPrecision
from mutoscope.core.showing import declined, goes_on_from, known_tokens, place_of, told_places
from mutoscope.core.training.views import shown as resized
from mutoscope.core.values import Batch, Conditioning, Grid, Known, Latents, Tokens
from mutoscope.core.windows import extent, made_by_windows, streamed

__all__ = ["Generated", "Request", "autocast", "generate", "legal_grid", "stream"]


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
    stages = _generating(model)
    clip = stages[-1][1].clip
    videos, notes = [], dict.fromkeys(())

    def sample(part: Request, step: int) -> Tensor:
        video, said = _window(stages, part, step)
        notes.update(dict.fromkeys(said))
        return video

    for part in request.parts():
        part, said = _expanded(stages, part)
        notes.update(dict.fromkeys(said))
        videos.append(made_by_windows(part, clip.frames, clip.size, sample))
    return Generated(torch.cat(videos), tuple(notes))


def stream(model: Model | Cascade, request: Request) -> Iterator[Tensor]:
    """A video without an end, as frames that follow each other, B C t H W: the windows of `generate`, one at a time.

    Only the last frames are kept. Raises InputError on a request with a source of its own, or for more clips than
    `at_once`.
    """
    stages = _generating(model)
    clip, (part, *more) = stages[-1][1].clip, request.parts()
    part, _ = _expanded(stages, part)
    if more or request.source is not None or request.loop:
        raise InputError("a stream goes on without end from noise: no source, no loop, and at most `at_once` clips")
    part = replace(part, size=request.size or clip.size)
    return streamed(part, *extent(part, clip.frames), lambda asked, step: _window(stages, asked, step)[0])


def _expanded(stages: list[tuple[str, Model]], part: Request) -> tuple[Request, tuple[str, ...]]:
    """The request with prompts as the writer makes them, and notes. Raises InputError without a writer or prompts."""
    if not part.expand:
        return part, ()
    writer = next((stage.writer for _, stage in stages if not stage.lacks(("writer",))), None)
    if writer is None or part.prompts is None:
        problem = "needs prompts" if writer is not None else "needs a writer, and this model has none"
        raise InputError(field="expand", problem=problem)
    draw = Draw(part.seed, "expand", 0, part.clips or tuple(range(len(part))), stages[0][1].device)
    with torch.no_grad():
        prompts = tuple(writer.eval().write(part.prompts, draw))
    said = {f'"{short}" was expanded to "{long}"' for short, long in zip(part.prompts, prompts, strict=True)}
    return replace(part, prompts=prompts), tuple(sorted(said))


def _generating(model: Model | Cascade) -> list[tuple[str, Model]]:
    """The stages of a model. Raises InputError on one that lacks a part."""
    stages = stages_of(model)
    for name, stage in stages:
        if lacking := stage.lacks():
            raise InputError(f"{'stage ' + name if name else 'this model'} cannot generate: it has no {lacking[0]}")
    return stages


def legal_grid(model: Model, frames: int, size: tuple[int, int]) -> Grid:
    """The smallest token grid whose video covers so many frames, rows and columns. Raises InputError on none."""
    if min(frames, *size) < 1:
        raise InputError(
            f"a video has at least one frame, row and column; got {frames} frames of {size[0]} x {size[1]}"
        )
    return model.patchifier.token_grid(model.autoencoder.latent_grid(frames, size))


def _window(stages: list[tuple[str, Model]], part: Request, step: int) -> tuple[Tensor, tuple[str, ...]]:
    """The video of one window of a few clips, through all stages, on the CPU; and notes. step: of its draws."""
    video, notes = None, dict.fromkeys(())
    modes = [(stage, stage.training) for _, stage in stages]
    try:
        with torch.no_grad(), autocast(stages[0][1].device, part.precision):
            for i, (name, stage) in enumerate(stages):
                stage.eval()
                frames, size = stage.clip.frames, stage.clip.size
                last = i == len(stages) - 1
                frames, size = part.shape(frames, size) if last else (frames, size)
                asked = part if last else _seen_by(part, frames, size)
                batch = replace(part.batch(), earlier=video).to(stage.device)
                draw = Draw(part.seed, f"sample.{name}" if name else "sample", step, batch.clips, stage.device)
                video, said = _sampled(stage, asked, batch, frames, size, draw)
                notes.update(dict.fromkeys(said))
    finally:
        for stage, training in modes:
            stage.train(training)
    assert video is not None
    return video.float().clamp(-1, 1).cpu(), tuple(notes)


def _seen_by(part: Request, frames: int, size: tuple[int, int]) -> Request:
    """The request as an earlier stage of a cascade sees it; only the last one edits."""
    if part.source is None or part.stays is None:
        return replace(part, source=None)
    stays = resized(part.stays[:, None].float(), (frames, size))[:, 0] == 1
    return replace(part, source=resized(part.source, (frames, size)), stays=stays)


def _sampled(
    model: Model, asked: Request, batch: Batch, frames: int, size: tuple[int, int], draw: Draw
) -> tuple[Tensor, tuple[str, ...]]:
    """One stage's video for one batch, trimmed, and notes. batch: what is told of the clips."""
    grid = legal_grid(model, frames, size)
    canvas = model.patchifier.canvas([grid] * len(batch), model.device)
    place = None if asked.stays is None or asked.source is None else place_of(asked.stays)
    whole = model.autoencoder.video_size(model.patchifier.latent_grid(grid))
    front = whole[0] - frames if place == "last" else 0
    source = None if asked.source is None else asked.source.to(model.device)
    stays = None if place is None or asked.stays is None else asked.stays.to(model.device)
    if source is not None and (place is None or (model.sampler.uses_source and not asked.anew)):
        canvas, conditioning = _edited(model, canvas, model.embed(batch, draw), source, stays)
    elif source is not None and stays is not None and place is not None:
        conditioning = _told(model, batch, draw, source, stays, place, whole, front)
    else:
        conditioning = model.embed(batch, draw)
    video = _best(model, canvas, conditioning, draw, batch)
    made, notes = tuple(video.shape[-3:]), ()
    video = video[..., front : front + frames, : size[0], : size[1]]
    if made != (frames, *size):
        notes = (
            f"sampled {made[0]} frames of {made[1]} x {made[2]}, the smallest that covers the request; "
            f"trimmed to {frames} of {size[0]} x {size[1]}",
        )
    if source is not None and stays is not None:
        video = torch.where(stays[:, None], source.to(video.dtype), video)
    return video, notes


# Videos to go on from


def _told(
    model: Model,
    batch: Batch,
    draw: Draw,
    source: Tensor,
    stays: Tensor,
    place: str,
    whole: tuple[int, int, int],
    front: int,
) -> Conditioning:
    """What the conditioners say of clips of which some pixels are known. whole: frames, rows and columns that are
    sampled; front: of those frames, how many are before the request's. Raises InputError."""
    if not goes_on_from(model, place):
        raise InputError(field="stays", problem=declined(model, place))
    frames, rows, columns = source.shape[2:]
    around = (0, whole[2] - columns, 0, whole[1] - rows, front, whole[0] - frames - front)
    padded = F.pad(source, around, mode="replicate")
    kept = F.pad(stays[:, None].float(), (*around[:4], 0, 0), mode="replicate")
    kept = F.pad(kept, (0, 0, 0, 0, *around[4:]))[:, 0] == 1
    sight = max((c.sees for c in model.conditioners), default=0)
    seen = sight > 0 and bool(stays[:, :sight].all())
    known = known_tokens(model, padded, kept, least=not seen)
    known = known if bool(known.where.any()) else None
    opening = source[:, :, :sight] if seen else None
    told = model.embed(replace(batch, known=known, opening=opening), draw)
    if model.sampler.goes_on_from == "told" and place not in told_places(model):
        return told
    return replace(told, known=known)


def _edited(
    model: Model, canvas: Tokens, conditioning: Conditioning, video: Tensor, stays: Tensor | None
) -> tuple[Tokens, Conditioning]:
    """The canvas with a source's tokens, and as known those of which every pixel stays. Raises InputError."""
    if not model.sampler.uses_source:
        problem = "does not edit: it starts from noise alone and has no use for a source"
        raise InputError(field="sampler", problem=problem, got=model.sampler.name, allowed="sdedit")
    if not model.autoencoder.covers(video.shape[2], (video.shape[3], video.shape[4])):
        raise InputError(
            field="source", problem=f"is not coded exactly by {model.autoencoder.name}", got=list(video.shape[2:])
        )
    latents = model.autoencoder.encode(video)
    tokens = model.patchifier.patchify(Latents(latents.values, latents.ids))
    if tokens.grids != canvas.grids:
        raise InputError(field="source", problem="is not of the request's frames and size", got=list(video.shape[2:]))
    if stays is None:
        return tokens, conditioning
    known = known_tokens(model, video, stays, least=False)
    return tokens, replace(conditioning, known=Known(tokens.filled(), known.where))


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


def settled(precision: TrainingPrecision, device: torch.device) -> Precision:
    """The precision that `auto` stands for: bfloat16 on a GPU that computes in it, and on a CPU with tiles for it (AMX),
    which multiplies it several times faster than float32; float32 elsewhere, where it can be ten times slower."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = getattr(torch.cpu, "get_capabilities", dict)()  # which the oldest torch that works does not have
    return "bfloat16" if device.type == "cpu" and able.get("amx_bf16", False) else "float32"


def autocast(device: torch.device, precision: TrainingPrecision):
    """The context in which matrix products run at a precision."""
    precision = settled(precision, device)
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
