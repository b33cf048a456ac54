"""From a video of which some pixels stay to clean tokens at known places, and who can go on from those."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, LatentFact
from mutoscope.core.model import Model
from mutoscope.core.values import Grid, Known, Latents

PLACES = ("first", "last", "ends", "frames", "regions")
"""Where clean tokens may stand: first frames, last frames, both, any whole frames, and parts of frames."""


def place_of(stays: Tensor) -> str | None:
    """The place that B T H W booleans show, the hardest of the clips'; None where nothing stays."""
    whole, some = stays.flatten(2).all(dim=2), stays.flatten(2).any(dim=2)
    if not bool(some.any()):
        return None
    if bool((whole != some).any()):
        return "regions"
    return max((_of_clip(clip) for clip in whole.tolist() if any(clip)), key=PLACES.index)


def _of_clip(frames: list[bool]) -> str:
    known = sum(frames)
    lead = next((i for i, told in enumerate(frames) if not told), len(frames))
    trail = next((i for i, told in enumerate(reversed(frames)) if not told), len(frames))
    if known in (lead, trail) and known < len(frames):
        return "first" if known == lead else "last"
    return "ends" if known == lead + trail else "frames"


def told_places(model: Model) -> tuple[str, ...]:
    """The places at which the network has learned to be told of clean tokens; none for a network that has not."""
    facts = [fact for c in model.conditioners for fact in c.facts() if isinstance(fact, ConditioningFact)]
    known = [fact for fact in facts if fact.known]
    if not known or not model.denoiser.uses_known:
        return ()
    shown = {p for fact in known for p in fact.places or PLACES}
    return tuple(p for p in PLACES if p in shown and p in (model.denoiser.known_at or PLACES))


def goes_on_from(model: Model, place: str) -> bool:
    """Whether the model makes the rest of a video of which this stays."""
    way = model.sampler.goes_on_from
    if any(place in c.beside for c in model.conditioners):
        return True
    if way == "all" or (place == "first" and any(c.sees for c in model.conditioners)):
        return True
    return place == "first" if way == "earlier" else place in told_places(model)


def declined(model: Model, place: str) -> str:
    """Why a model does not make the rest of a video of which such a place stays, in words."""
    shown = {
        "first": "its first frames",
        "last": "its last frames",
        "ends": "its ends",
        "frames": "some of its frames",
        "regions": "parts of its frames",
    }[place]
    told = told_places(model)
    if model.sampler.goes_on_from == "earlier":
        return (
            f"{model.sampler.name} makes one thing after another and goes on from first frames only, not from {shown}"
        )
    if told:
        return f"{model.denoiser.name} has learned to go on from {', '.join(told)}, not from {shown} of a video"
    return f"{model.denoiser.name} has not learned to go on from {shown}, and {model.sampler.name} needs it to"


def known_tokens(model: Model, video: Tensor, stays: Tensor, least: bool = True) -> Known:
    """A video B C T H W, of a size that the autoencoder codes exactly, as tokens, known where all of their pixels stay.

    Pixels that do not stay are not looked at: each has the value of the nearest frame in which it does. least: raises
    InputError where no token is known whole.
    """
    latents = model.autoencoder.encode(shown(video, stays))
    values = latents.values
    assert isinstance(values, Tensor)
    cells = cells_that_stay(model, stays, Grid(*values.shape[-3:]))
    marks = cells.long() if latents.ids else cells.to(values.dtype)[:, None].expand_as(values)
    tokens, marked = (model.patchifier.patchify(x) for x in (latents, Latents(marks, latents.ids)))
    where = marked.filled().bool()
    if where.ndim == 3:
        where = where.all(dim=-1)
    if least and not bool(where.any()):
        _, h, w = latent_fact(model).stride
        raise InputError(
            field="stays",
            problem=f"no token of {model.autoencoder.name} and {model.patchifier.name} is shown whole; one has "
            f"{frames_per_token(model)} frames of {h} x {w} cells' pixels or more",
        )
    return Known(tokens.filled(), where)


def cells_that_stay(model: Model, stays: Tensor, grid: Grid) -> Tensor:
    """Latent cells, B T H W, of which every pixel stays."""
    moved = (~stays).float()[:, None]
    fact = latent_fact(model)
    lacking = grid.frames * fact.stride[0] - stays.shape[1]
    if fact.causal and lacking > 0:  # the first frame is coded alone
        moved = torch.cat([moved[:, :, :1].expand(-1, -1, lacking, -1, -1), moved], dim=2)
    return F.adaptive_max_pool3d(moved, tuple(grid))[:, 0] == 0


def frames_per_token(model: Model) -> int:
    """Frames of video that a token has; the first of a causal autoencoder has fewer."""
    fact = latent_fact(model)
    patch = model.patchifier.latent_grid(Grid(1, 1, 1)).frames
    return 1 if fact.causal and patch == 1 else fact.stride[0] * patch


def latent_fact(model: Model) -> LatentFact:
    return next(iter(model.autoencoder.facts()))


def shown(video: Tensor, stays: Tensor) -> Tensor:
    """B C T H W in which pixels that do not stay have the value of the nearest frame in which they do.

    Where a pixel never stays it has the mean colour of those that do.
    """
    told = stays[:, None].to(video.device)
    count = told.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1)
    mean = (video * told).sum(dim=(2, 3, 4), keepdim=True) / count
    far = torch.full_like(told[:, :, 0], 1 << 30, dtype=torch.long)
    forward, backward = [], []
    for found, order in ((forward, range(video.shape[2])), (backward, reversed(range(video.shape[2])))):
        value, age = mean[:, :, 0].expand_as(video[:, :, 0]), far
        for t in order:
            value = torch.where(told[:, :, t], video[:, :, t], value)
            age = torch.where(told[:, :, t], 0, age + 1)
            found.append((value, age))
    nearest = [torch.where(a[1] <= b[1], a[0], b[0]) for a, b in zip(forward, reversed(backward), strict=True)]
    return torch.stack(nearest, dim=2)
