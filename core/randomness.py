"""Draw: every random number is a function of (seed, purpose, step, clip).

Nothing is stored and nothing is consumed, so a resumed run draws what the uninterrupted one drew, two arms of a study
draw the same noise, and a clip's numbers do not depend on its batch mates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.values import Tokens


def key(*words: object) -> int:
    """A 63-bit number that is a function of the words, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Draw:
    """The random numbers of one step for some clips.

    clips: what names each clip in this step: its place in the global batch in training, its number in sampling.
    `what` in the methods names the use, so that two uses in one step are independent.
    """

    seed: int
    purpose: str
    step: int
    clips: tuple[int, ...]
    device: torch.device | str = "cpu"

    def normal(self, what: str, *shape: int) -> Tensor:
        """Standard normal numbers, K x shape, float32 (Box & Muller 1958)."""
        count = math.prod(shape)
        bits = self._bits(what, (count + 1) // 2)
        radius = (bits & LOW).add_(1).to(torch.float32).mul_(2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
        angle = (bits >> 32).to(torch.float32).mul_(math.pi * 2.0**-31)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).flatten(1)
        return pairs[:, :count].reshape(-1, *shape)

    def uniform(self, what: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), K x shape, float32: multiples of 2^-24."""
        bits = self._bits(what, math.prod(shape)) & ((1 << 24) - 1)
        return bits.to(torch.float32).mul_(2.0**-24).reshape(-1, *shape)

    def like(self, tokens: Tokens, what: str = "noise", width: int | None = None) -> Tensor:
        """Standard normal numbers for every token, B N D; each clip's depend on that clip alone.

        width: D; by default that of the tokens' values.
        """
        d = width if width is not None else tokens.filled().shape[-1]
        if tokens.regular:
            return self.normal(what, tokens.grids[0].cells, d)
        # One pool of every clip's numbers, clips of equal length drawn together; each token takes those of its cell.
        starts, groups, pool = [0] * len(tokens.grids), {}, []
        for i, grid in enumerate(tokens.grids):
            groups.setdefault(grid.cells, []).append(i)
        begin = 0
        for cells, members in groups.items():
            pool.append(self.of([self.clips[i] for i in members]).normal(what, cells, d).flatten(0, 1))
            for i in members:
                starts[i], begin = begin, begin + cells
        place = tokens.per_token(torch.tensor(starts, device=tokens.device)) + tokens.cells()
        return torch.where((tokens.clip > 0)[..., None], torch.cat(pool)[place], 0.0)

    def at(self, i: int) -> Draw:
        """The draw of a sampler's i-th call within this step."""
        return replace(self, purpose=f"{self.purpose}.{i}")

    def of(self, clips: Sequence[int]) -> Draw:
        """The draw of other clips of the same step."""
        return replace(self, clips=tuple(clips))

    def numpy(self, what: str, clip: int) -> np.random.Generator:
        """A numpy generator for one clip, for code that runs on the host."""
        return np.random.Generator(np.random.Philox(key=key(self.seed, self.purpose, self.step, clip, what)))

    @contextmanager
    def forked(self) -> Iterator[None]:
        """Torch's own generators seeded from (seed, purpose, step) inside, untouched outside: for dropout layers."""
        device = torch.device(self.device)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(key(self.seed, self.purpose, self.step, "torch"))
            yield

    def _bits(self, what: str, count: int) -> Tensor:
        """64 random bits as int64, K x count: SplitMix64 (Steele, Lea & Flood 2014) of a counter, keyed by clip.

        The same on every device, and one pass over the batch where a generator per clip would be K of them.
        """
        keys = [key(self.seed, self.purpose, self.step, clip, what) for clip in self.clips]
        counter = torch.arange(1, count + 1, device=self.device).mul_(GOLDEN)
        z = torch.tensor(keys, dtype=torch.int64, device=self.device)[:, None] + counter
        for shift, multiplier in MIXES:
            z.bitwise_xor_((z >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(multiplier)
        return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
MIXES = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))
LOW = (1 << 32) - 1
