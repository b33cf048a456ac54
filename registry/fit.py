"""Whether training clips fit the grids of autoencoder and patchifier exactly, and the nearest that do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact
from mutoscope.core.patchifier import Patchifier
from mutoscope.registry.building import Findings
from mutoscope.registry.mismatches import Path

REACH = 128
"""How far from what was asked a frame count, or a side of the picture, is looked for."""

Shape = tuple[int, int, int]
"""Frames, rows, columns of a video."""


def check_fit(findings: Findings, clip: ClipFact, parts: Mapping[str, Any], path: Path) -> None:
    """Records clips that would be padded or trimmed. Clips of mixed sizes are the data's own affair."""
    autoencoder: Autoencoder | None = parts.get("autoencoder")
    patchifier: Patchifier | None = parts.get("patchifier")
    if autoencoder is None or clip.mixed:
        return
    shape = (clip.frames, *clip.size)

    def exact(candidate: Shape) -> bool:
        return min(candidate) > 0 and covering(autoencoder, patchifier, candidate) == candidate

    if exact(shape):
        return
    whole = covering(autoencoder, patchifier, shape)
    names = " and ".join(part.name for part in (autoencoder, patchifier) if part is not None)
    said = f"{shape[0]} frames of {shape[1]} x {shape[2]} do not fit {names} exactly"
    if whole is None or not exact(whole):
        findings.problem(path, said)
        return
    wrong = [axis for axis in range(3) if shape[axis] != whole[axis]]
    fits = [_nearest(exact, whole, axis, shape[axis]) for axis in wrong]
    names_of = ("frames", "rows", "columns")
    hints = ", ".join(f"{names_of[axis]} {' or '.join(map(str, near))}" for axis, near in zip(wrong, fits, strict=True))
    findings.problem(path, f"{said}; the nearest that do: {hints}")


def covering(autoencoder: Autoencoder, patchifier: Patchifier | None, shape: Shape) -> Shape | None:
    """The video that the smallest covering grid decodes to; None where there is none."""
    try:
        grid = autoencoder.latent_grid(shape[0], shape[1:])
        if patchifier is not None:
            grid = patchifier.latent_grid(patchifier.token_grid(grid))
        return autoencoder.video_size(grid)
    except (ShapeError, ValueError):
        return None


def _nearest(exact: Callable[[Shape], bool], whole: Shape, axis: int, asked: int) -> list[int]:
    """The nearest lengths of one axis that fit, below and above, where the other axes do."""

    def fits(length: int) -> bool:
        return exact((*whole[:axis], length, *whole[axis + 1 :]))  # type: ignore[arg-type]

    below = next((n for n in range(asked, max(0, asked - REACH), -1) if fits(n)), None)
    above = next((n for n in range(asked, asked + REACH) if fits(n)), whole[axis])
    return [n for n in (below, above) if n is not None]
