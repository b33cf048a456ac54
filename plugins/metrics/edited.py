"""The metric `edited`: does an edit make a real clip of a coarse one?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, final

from annotated_types import Ge, Le
from einops import rearrange, reduce
from torch import Tensor

from mutoscope.core.component import Nested
from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.settings import Count
from mutoscope.core.tower import Tower
from mutoscope.plugins.metrics.distances import kernel_distance, kernel_parts
from mutoscope.plugins.metrics.extraction import Sets, standardised


@final
class Edited(Metric):
    """The kernel distance to real clips of what a model makes of coarse ones, as from strokes of a brush: real clips of
    which every block of pixels has its mean colour. Meng et al. 2022, arXiv:2108.01073, sec. 4.1 and table 1, which has
    a kernel distance too. edited.coarse is the same of the coarse clips as they are; edited.far the root mean square
    distance of an edit from what it was made from, per clip.

    block: side of a block in pixels. extractor, degree: as in `kernel`.
    """

    name = "edited"
    wants = "model"
    paper = "Meng et al. 2022, arXiv:2108.01073"
    better: Literal["higher", "lower"] = "lower"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        *,
        block: Count = 4,
        extractor: Tower = Nested("mutonet"),  # type: ignore[assignment]
        degree: Annotated[int, Ge(1), Le(9)] = 3,
    ) -> None:
        self.block, self.extractor, self.degree = block, extractor, degree

    def score(self, material: Material) -> Iterable[Score]:
        """Raises InputError on clips that no whole blocks cover, or are of several sizes, and as `kernel`."""
        real = material.real
        if material.model is None:
            return []
        if not isinstance(real.video, Tensor) or any(side % self.block for side in real.video.shape[-2:]):
            raise InputError(field="metrics", problem=f"edited needs clips of one size, in blocks of {self.block}")
        if len(real) < 4 or len(material.reference) < 8:
            raise InputError(field="metrics", problem="edited needs at least 4 clips and 8 real ones")
        rough = coarse(real.video, self.block)
        request = Request(
            prompts=real.prompt,
            labels=None if real.label is None else tuple(real.label.tolist()),
            count=len(real),
            frames=rough.shape[2],
            size=(rough.shape[3], rough.shape[4]),
            seed=material.seed,
            clips=tuple(range(len(real))),
            source=rough,
        )
        made = generate(material.model, request).video.cpu().clamp(-1, 1)
        scores = [Score("edited.far", (made - rough).double().square().mean(dim=(1, 2, 3, 4)).sqrt().numpy())]
        for name, video in ((self.name, made), ("edited.coarse", rough)):
            sets = Sets.of(Material(video, real, material.reference, material.split), self.extractor)
            x, y = standardised(sets.made, sets.base, by=sets.base)
            value, low, high = kernel_distance(x, y, self.degree)
            each = kernel_parts(x, y, self.degree)
            scores.append(Score(name, value=value, low=low, high=high, n=len(x), parts=each))
        return scores

    def protocol(self) -> dict[str, object]:
        return {
            "metric": self.name,
            "block": self.block,
            "extractor": self.extractor.fingerprint(),
            "kernel": f"(x.y/d + 1)^{self.degree}",
        }


def coarse(video: Tensor, block: int) -> Tensor:
    """B C T H W with the mean of every block of pixels in its place."""
    means = reduce(video, "b c t (h i) (w j) -> b c t h 1 w 1", "mean", i=block, j=block)
    spread = means.expand(-1, -1, -1, -1, block, -1, block)
    return rearrange(spread, "b c t h i w j -> b c t (h i) (w j)")
