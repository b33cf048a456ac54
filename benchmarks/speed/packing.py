"""Packing against padding: training tokens per second on clips of mixed sizes, both ways in one run.

    python -m mutoscope.benchmarks.speed.packing [--steps N] [--batch K] [--width D] [--depth L] [--device cuda]

Both ways train the same transformer on the same clips by the same steps: patches, noise, forward, backward, AdamW. What
is padded has a row of the largest clip's length for every clip, and a mask; what is packed has the rows of `navit`.
Only tokens of clips are counted. The two take turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, LatentFact, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Latents, Tokens
from mutoscope.registry.catalog import Catalog

DURATIONS = (1, 3, 5)
SIDES = ((4, 4), (4, 8), (8, 4), (6, 6), (8, 8))
SIZES = tuple(Grid(t, h, w) for t in DURATIONS for h, w in SIDES)
"""Token grids of the clips: from a small image to a clip of five latent frames of 8 x 8."""
CHANNELS = 8


@dataclass(frozen=True)
class Work:
    """What is trained, and on what: width, blocks and heads of the transformer, clips per step, steps each way."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    batch: int = 32
    steps: int = 12
    seed: int = 0
    device: str = "cpu"


def measure(work: Work, catalog: Catalog | None = None) -> dict[str, Any]:
    """Tokens per second both ways, their ratio, and the share of padding, over `work.steps` steps of each."""
    catalog = catalog or Catalog.load()
    chance = np.random.default_rng(work.seed)
    largest = max(SIZES, key=lambda grid: grid.cells)
    navit: Any = _class(catalog, "patchifier", "navit")(
        LatentFact(CHANNELS, (1, 1, 1), largest, mixed=True), size=(1, 1, 1)
    )
    ways = {"packed": navit, "padded": Padded(navit, largest.cells)}
    learners = {way: Learner(work, catalog, next(iter(navit.facts()))) for way in ways}
    seconds, tokens = dict.fromkeys(ways, 0.0), 0
    rows = dict.fromkeys(ways, 0)
    for step in range(-2, work.steps):  # two steps each to warm up
        grids = [SIZES[i] for i in chance.integers(0, len(SIZES), work.batch)]
        draw = Draw(work.seed, "speed", max(step, 0), tuple(range(work.batch)), work.device)
        latents = Latents(tuple(torch.randn(CHANNELS, *grid, device=work.device) for grid in grids))
        for way in sorted(ways, reverse=bool(step % 2)):
            started = time.perf_counter()
            made = ways[way].patchify(latents)
            learners[way].step(made, draw)
            if step >= 0:
                seconds[way] += time.perf_counter() - started
                rows[way] += made.clip.numel()
        tokens += sum(grid.cells for grid in grids) if step >= 0 else 0
    speed = {way: tokens / spent for way, spent in seconds.items()}
    return {
        "tokens_per_second": speed,
        "ratio": speed["packed"] / speed["padded"],
        "padding": {way: 1 - tokens / rows[way] for way in ways},
        "steps": work.steps,
        "clips": work.steps * work.batch,
        "tokens": tokens,
        "threads": torch.get_num_threads(),
        "device": work.device,
    }


class Padded:
    """One clip per row, every row as long as the largest clip there can be."""

    def __init__(self, patchifier: Patchifier, length: int) -> None:
        self.patchifier, self.length = patchifier, length

    def patchify(self, latents: Latents) -> Tokens:
        each = [self.patchifier.patchify(Latents(clip[None])) for clip in latents.clips()]
        clips = len(each)
        members = torch.arange(1, clips + 1, device=each[0].device)[:, None]
        lengths = torch.tensor([tokens.grids[0].cells for tokens in each], device=members.device)
        clip = torch.where(torch.arange(self.length, device=members.device) < lengths[:, None], members, 0)
        rows = [self._lengthened(tokens.filled()[0]) for tokens in each]
        places = [self._lengthened(tokens.positions[0]) for tokens in each]
        grids = tuple(tokens.grids[0] for tokens in each)
        return Tokens(torch.stack(rows), torch.stack(places), clip, grids, members)

    def _lengthened(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, self.length - len(x)))


class Learner:
    """A transformer under rectified flow, with its optimizer."""

    def __init__(self, work: Work, catalog: Catalog, tokens: TokenFact) -> None:
        torch.manual_seed(work.seed)
        self.objective: Objective = _class(catalog, "objective", "flow")()
        dit = _class(catalog, "denoiser", "dit")
        with torch.device(work.device):
            self.denoiser: LevelDenoiser = dit(
                tokens, ConditioningFact(), self.objective.process,
                width=work.width, depth=work.depth, heads=work.heads,
            )  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.denoiser.parameters(), lr=1e-4, fused=True)
        self.cuda = torch.device(work.device).type == "cuda"

    def step(self, tokens: Tokens, draw: Draw) -> None:
        example = Example(tokens, Conditioning(), Batch())
        self.objective.loss(self.denoiser, example, draw, "learner").total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.cuda:
            torch.cuda.synchronize()


def _class(catalog: Catalog, role: str, name: str) -> Any:
    found = catalog.find(role, name)
    assert found is not None, f"{role} {name} is not installed"
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training tokens per second on mixed sizes: packed against padded.")
    base = Work()
    for name in ("width", "depth", "heads", "batch", "steps", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(base, name))
    parser.add_argument("--device", default=base.device)
    said = parser.parse_args(arguments)
    print(json.dumps(measure(Work(**vars(said))), indent=2))


if __name__ == "__main__":
    main()
