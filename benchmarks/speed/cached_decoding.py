"""How much faster a rollout is with the keys and values of earlier ids kept, and whether an id's cost stays flat.

`python -m mutoscope.benchmarks.speed.cached_decoding` prints one JSON object. Both ways run in one process on one
machine, on the same weights; the uncached way is measured at a few places of the stream and added up, as it does the
same work at each. Logits of both ways are compared at those places. Seconds are the processor's, of all threads
together, so that what else the machine does weighs little; run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import torch

from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.process import TokenProcess
from mutoscope.core.values import Conditioning, Grid, Tokens
from mutoscope.registry.catalog import Catalog

GRID = Grid(4, 16, 16)
"""1,024 ids."""
WINDOW = 128
"""Ids over which a rollout's cost is averaged at its start and at its end."""


class _InOrder(TokenProcess):
    causal, hole = True, None


def measured(
    name: str = "gpt", width: int = 256, depth: int = 6, heads: int = 4, clips: int = 1, places: int = 4
) -> dict[str, Any]:
    """Seconds of a rollout with a cache and without, their ratio, and the cost of late ids over that of early ones.

    name: of a token denoiser that needs no prompt. places: of the stream at which the uncached way is measured.
    """
    cls: Any = Catalog.load().find("denoiser", name)
    torch.manual_seed(0)
    fact = TokenFact(width=1, grid=GRID, channels=8, codebook=512)
    denoiser: TokenDenoiser = cls(fact, ConditioningFact(), _InOrder(), width=width, depth=depth, heads=heads).eval()
    canvas, nothing = Tokens.canvas(GRID, clips), Conditioning()
    ids = torch.randint(0, 512, (clips, GRID.cells))
    cells = GRID.cells
    with torch.inference_mode():
        denoiser(canvas.with_values(ids), nothing)
        cache = denoiser.new_cache(canvas)
        each, kept = [], []
        for n in range(cells):
            started = time.process_time()
            kept.append(denoiser(canvas.with_values(ids[:, :n]), nothing, cache).values)
            each.append(time.process_time() - started)
        whole, worst = [], 0.0
        for i in range(places):
            n = (2 * i + 1) * cells // (2 * places)
            started = time.process_time()
            logits = denoiser(canvas.with_values(ids), nothing).values
            whole.append(time.process_time() - started)
            worst = max(worst, float((logits[:, n] - kept[n][:, 0]).abs().max()))
    cached, uncached = sum(each), statistics.median(whole) * cells
    early, late = statistics.median(each[WINDOW : 2 * WINDOW]), statistics.median(each[-WINDOW:])
    return {
        "denoiser": name, "tokens": cells, "clips": clips, "width": width, "depth": depth,
        "threads": torch.get_num_threads(),
        "cached_seconds": round(cached, 3), "uncached_seconds": round(uncached, 3),
        "ratio": round(uncached / cached, 2),
        "late_over_early": round(late / early, 3),
        "largest_difference": worst,
        "cache_bytes": denoiser.cache_bytes(canvas),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measured(), indent=2))
