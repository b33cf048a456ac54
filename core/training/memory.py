"""Memory that does not suffice: told in one line with the shape and the bytes, and tried before the first step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mutoscope.core.errors import WorkError
from mutoscope.core.training.plan import Phase
from mutoscope.core.training.provenance import peak_memory
from mutoscope.core.values import Batch

SAID = re.compile(r"can't allocate memory|out of memory|not enough memory|Cannot allocate memory", re.IGNORECASE)
ASKED = re.compile(r"(?:allocate|allocation of) ([0-9.]+ ?(?:[KMGT]i?B|bytes))", re.IGNORECASE)


@contextmanager
def told(phase: Phase, what: Callable[[], str], device: torch.device) -> Iterator[None]:
    """Turns running out of memory in the block into a WorkError. what: says what was being done, with its shape."""
    try:
        yield
    except (MemoryError, RuntimeError) as failed:
        if not isinstance(failed, MemoryError) and not SAID.search(str(failed)):
            raise
        asked = ASKED.search(str(failed))
        bytes_asked = f"{asked[1]} more" if asked else "more"
        raise WorkError(
            f"{phase.name}: out of memory: {what()}; {bytes_asked} asked for beyond a peak of "
            f"{peak_memory(device):,} bytes; lower training.batch, or raise training.accumulate (now "
            f"{phase.descent.accumulate}) for smaller micro-batches, or lower data.size, data.frames or the width"
        ) from failed


def shape_of(batch: Batch) -> str:
    """The largest clip of a batch in words."""
    clips: list[Tensor] = []
    if batch.video is not None:
        clips = list(batch.video)
    elif batch.latents is not None:
        clips = list(batch.latents.clips())
    if not clips:
        return "its clips"
    largest = max(clips, key=lambda clip: clip.numel())
    kind = "" if batch.video is not None else " latents"
    return f"{len(clips)} clips of at most {' x '.join(map(str, largest.shape))}{kind}"
