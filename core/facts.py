"""What parts publish to each other, wired by type; and needs, which say what is wanted of a fact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mutoscope.core.values import Grid


@dataclass(frozen=True)
class ClipFact:
    """Published by the data: the clips of one batch.

    channels: 3 for colour. frames, size (rows, columns): of every clip, or of the largest when `mixed`.
    classes: number of labels, 0 without. actions: number of actions per frame, 0 without. captions: clips have a text.
    """

    channels: int
    frames: int
    size: tuple[int, int]
    mixed: bool = False
    classes: int = 0
    actions: int = 0
    captions: bool = True


@dataclass(frozen=True)
class LatentFact:
    """Published by the autoencoder: the latents of one clip.

    channels: of a continuous latent, or the width of a code. stride: frames, rows, columns per latent cell.
    causal: the first frame is coded alone, so that a clip of 1 + k * stride frames has 1 + k latent frames.
    codebook: number of ids, or None for continuous latents. decodes: latents can be turned back into video.
    grid: latent cells of a training clip, of the largest when sizes mix. pixels: (shift, scale) where latents are
    (pixels - shift) * scale, None where they are coded otherwise.
    """

    channels: int
    stride: tuple[int, int, int]
    grid: Grid
    causal: bool = False
    codebook: int | None = None
    decodes: bool = True
    mixed: bool = False
    pixels: tuple[float, float] | None = None


@dataclass(frozen=True)
class EarlierFact:
    """Published by a cascade's stage to the next one: channels and grid of the earlier stage's video."""

    channels: int
    frames: int
    size: tuple[int, int]


@dataclass(frozen=True)
class TokenFact:
    """Published by the patchifier: what one token is.

    width: values per token (1 for ids). codebook: number of ids, or None for continuous tokens. packed: rows may
    hold several clips and padding. patch: latent cells per token. channels: of the latents the tokens were cut from.
    grid: tokens of a training clip, of the largest when packed.
    """

    width: int
    grid: Grid
    channels: int
    patch: tuple[int, int, int] = (1, 1, 1)
    codebook: int | None = None
    packed: bool = False


@dataclass(frozen=True)
class FeatureFact:
    """Published by a tower that cuts video into patches: its features.

    width: of the features of one patch. grid: patches of a training clip. patch: frames, rows, columns of pixels.
    """

    width: int
    grid: Grid
    patch: tuple[int, int, int]


@dataclass(frozen=True)
class ClassifierFact:
    """Published by a tower that tells the class of noisy clips, for the sampler that it guides.

    classifier: the tower itself. classes: of its logits. channels: of the video that it looks at.
    """

    classifier: Any
    classes: int
    channels: int


@dataclass(frozen=True)
class FieldFact:
    """Lent by an objective to its discriminators: the channels, frames and size of the grids they judge."""

    channels: int
    frames: int
    size: tuple[int, int]


@dataclass(frozen=True)
class ConditioningFact:
    """Published by the conditioners together: widths of what they give; 0 where they give nothing.

    pooled: width of one vector per clip. sequence: width of the prompt's token features; length: their number.
    vocabulary: number of prompt ids. per_frame: width of one vector per frame. augmented: numbers that say how a
    training clip was altered. cells: channels aligned with the latent cells. known: clean tokens at known places are
    given. places: where training has shown them, of `core.showing.PLACES`; none where it may be anywhere.
    """

    pooled: int = 0
    sequence: int = 0
    length: int = 0
    vocabulary: int = 0
    per_frame: int = 0
    augmented: int = 0
    cells: int = 0
    known: bool = False
    places: tuple[str, ...] = ()

    def merged(self, other: ConditioningFact) -> ConditioningFact:
        """The fact of two conditioners together: pooled vectors are concatenated, sequences follow each other."""
        return ConditioningFact(
            pooled=self.pooled + other.pooled,
            sequence=self.sequence or other.sequence,
            length=self.length + other.length,
            vocabulary=self.vocabulary or other.vocabulary,
            per_frame=self.per_frame + other.per_frame,
            augmented=self.augmented + other.augmented,
            cells=self.cells + other.cells,
            known=self.known or other.known,
            places=tuple(dict.fromkeys((*self.places, *other.places))),
        )


# Needs


@dataclass(frozen=True)
class Need:
    """What a part wants of a fact, in words and as a test; written in the annotation of the parameter.

    `says` completes the sentence "dit needs ...".
    """

    says: str
    holds: Callable[[Any], bool]


Continuous = Need("continuous latents or tokens", lambda fact: fact.codebook is None)
Discrete = Need("ids of a codebook", lambda fact: fact.codebook is not None)
Regular = Need("tokens with one clip of one size per row", lambda fact: not fact.packed)
Decodable = Need("latents that can be decoded", lambda fact: fact.decodes)
OneSize = Need("clips of one size", lambda fact: not fact.mixed)
Labelled = Need("data with class labels", lambda fact: fact.classes > 0)
Acted = Need("data with actions", lambda fact: fact.actions > 0)
Captioned = Need("data with captions", lambda fact: fact.captions)
Prompted = Need("a conditioner that gives a sequence of prompt features", lambda fact: fact.sequence > 0)
Pooled = Need("a conditioner that gives one vector per clip", lambda fact: fact.pooled > 0)
Additive = Need("an objective whose noise is added to the data", lambda process: process.additive)
PromptIds = Need("a conditioner that gives prompt ids", lambda fact: fact.vocabulary > 0)
