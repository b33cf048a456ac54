"""The tower role: a network that looks at video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.values import Conditioning, Features


class Tower(Component, nn.Module, ABC):
    """A perceptual network, a metric's extractor, a noisy classifier, a ViT, a CLIP image tower."""

    role: ClassVar[str] = "tower"
    entries: ClassVar[tuple[str, ...]] = ("forward", "features")

    @abstractmethod
    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        """Features of B C T H W in [-1, 1]. level: B times, for towers that look at noisy video."""

    def fingerprint(self) -> str:
        """Names what makes its numbers comparable: weights hash and preprocessing."""
        import hashlib

        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return f"{self.name}:{digest.hexdigest()[:12]}"


class JointTower(Tower):
    """Sees video and reads text in one space: a contrastive model.

    width: of the vectors of both, which `features` gives as pooled and `read` too, of unit length. text: (width, length)
    of the sequence that it reads. vocabulary: ids of its text.
    """

    entries: ClassVar[tuple[str, ...]] = ("forward", "features", "read")
    width: int
    text: tuple[int, int]
    vocabulary: int

    @abstractmethod
    def read(self, prompts: Sequence[str]) -> Conditioning:
        """Pooled K width, of unit length, sequence K L W with its mask, and ids of texts."""

    @abstractmethod
    def sharpness(self) -> Tensor:
        """What cosines are multiplied by before the softmax; a learned scalar."""
