"""What unCLIP does with pictures: variations of one, the way from one to another, and changes by words.

Ramesh et al. 2022, sec. 3. `model` is a cascade whose first stage draws embeddings (`clip_image`), and whose second has
an `image_embedding`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.randomness import Draw
from mutoscope.core.training.views import shown
from mutoscope.core.values import Batch
from mutoscope.plugins.unclip.image_embedding import ImageEmbedding

NEAR = 1e-6
"""Sine of the angle below which two vectors are one."""


def slerp(one: Tensor, other: Tensor, share: Tensor | float) -> Tensor:
    """Unit vectors part of the way along the arc between two, B D each. Shoemake 1985, eq. for slerp.

    share: 0 gives one, 1 the other; a number, or B of them. Opposite vectors have no arc.
    """
    one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    share = torch.as_tensor(share, dtype=one.dtype, device=one.device).view(-1, 1)
    angle = (one * other).sum(dim=-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    straight = one + share * (other - one)
    arc = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / sine.clamp(min=NEAR)
    return F.normalize(torch.where(sine < NEAR, straight, arc), dim=-1)


def embeddings(model: Cascade, video: Tensor) -> Tensor:
    """The unit vectors of pictures or clips B C T H W, as the decoder knows them: B D."""
    _, stage = decoder(model)
    return _conditioner(stage).vectors(video.to(stage.device))


def made(
    model: Cascade,
    vectors: Tensor,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    source: Tensor | None = None,
    clips: Sequence[int] | None = None,
) -> Tensor:
    """Video of embeddings B D by the decoder and the stages after it: B C T H W in [-1, 1], on the CPU.

    source: what the decoder starts from in place of noise, B C T H W; its sampler must be one that edits. clips: their
    numbers in the draws, by default 0, 1, ...
    """
    n = len(vectors)
    clips = tuple(range(n)) if clips is None else tuple(clips)
    video, first = vectors[:, :, None, None, None], decoder(model)[0]
    modes = [(stage, stage.training) for _, stage in stages_of(model)]
    model.eval()
    try:
        with torch.no_grad():
            for name, stage in list(stages_of(model))[_place(model, first) :]:
                draw = Draw(seed, f"sample.{name}", 0, clips, stage.device)
                asked = Batch(prompt=None if prompts is None else tuple(prompts), clips=clips, earlier=video)
                told = stage.embed(asked.to(stage.device), draw)
                grid = stage.patchifier.token_grid(stage.autoencoder.latent_grid(stage.clip.frames, stage.clip.size))
                canvas = stage.patchifier.canvas([grid] * n, stage.device)
                if source is not None and name == first:
                    if not stage.sampler.uses_source:
                        raise InputError(
                            field="sampler", problem="does not start from a picture", got=stage.sampler.name,
                            allowed="bipartite",
                        )  # fmt: skip
                    seen = shown(source.to(stage.device), (stage.clip.frames, stage.clip.size))
                    canvas = stage.patchifier.patchify(stage.autoencoder.encode(seen))
                tokens = stage.sampler.sample(stage.denoiser, canvas, told, draw)
                video = stage.autoencoder.decode(stage.patchifier.unpatchify(tokens))
    finally:
        for stage, training in modes:
            stage.train(training)
    return video.float().clamp(-1, 1).cpu()


def variations(
    model: Cascade, video: Tensor, count: int, prompts: Sequence[str] | None = None, seed: int = 0
) -> Tensor:
    """So many other pictures of what each picture shows, picture-major: its embedding stays, and of the rest as much as
    the decoder's `eta` leaves."""
    vectors = embeddings(model, video).repeat_interleave(count, dim=0)
    said = None if prompts is None else [prompt for prompt in prompts for _ in range(count)]
    return made(model, vectors, said, seed, video.repeat_interleave(count, dim=0))


def interpolations(
    model: Cascade, one: Tensor, other: Tensor, steps: int, prompts: Sequence[str] | None = None, seed: int = 0
) -> Tensor:
    """Pictures on the way from one to another, ends included: their embeddings turn along the arc, the noise stays.

    one, other: C T H W. Gives steps C T H W.
    """
    a, b = embeddings(model, torch.stack([one, other])).split(1)
    shares = torch.linspace(0, 1, steps, device=a.device)
    vectors = slerp(a.expand(steps, -1), b.expand(steps, -1), shares)
    return made(model, vectors, prompts, seed, clips=(0,) * steps)


def turned(vectors: Tensor, to: Tensor, away: Tensor, share: float = 0.35) -> Tensor:
    """Image embeddings turned from what one text says to what another says: along the arc to the unit vector of the
    difference of their text embeddings, B D each. share: of the arc; the paper takes 0.25 to 0.5."""
    return slerp(vectors, F.normalize(to - away, dim=-1), share)


def decoder(model: Cascade) -> tuple[str, Model]:
    """The stage that makes video of an embedding. Raises InputError where there is none."""
    for name, stage in stages_of(model):
        if any(isinstance(c, ImageEmbedding) for c in stage.conditioners):
            return name, stage
    raise InputError(field="model", problem="no stage is told an image embedding")


def _conditioner(stage: Model) -> ImageEmbedding:
    return next(c for c in stage.conditioners if isinstance(c, ImageEmbedding))


def _place(model: Cascade, name: str) -> int:
    return [word for word, _ in stages_of(model)].index(name)
