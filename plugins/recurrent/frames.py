"""Between tokens, time-major, and the frames that recurrent networks step through."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from mutoscope.core.facts import TokenFact
from mutoscope.core.values import Known, Tokens


def frames_of(values: Tensor, canvas: Tokens) -> Tensor:
    """B N D tokens to B T n D: the tokens of each frame."""
    return rearrange(values, "b (t n) d -> b t n d", t=canvas.grids[0].frames)


def picture_of(frame: Tensor, rows: int, patch: tuple[int, int, int]) -> Tensor:
    """B n D tokens of a frame to B C H W cells."""
    _, j, k = patch
    return rearrange(frame, "b (h w) (c j k) -> b c (h j) (w k)", h=rows, j=j, k=k)


def frame_of(picture: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """B C H W cells to B n D tokens of a frame."""
    _, j, k = patch
    return rearrange(picture, "b c (h j) (w k) -> b (h w) (c j k)", j=j, k=k)


def check_frames(name: str, tokens: TokenFact) -> None:
    """Raises ValueError where a token joins frames, which a network that goes frame by frame cannot take apart."""
    if tokens.patch[0] != 1:
        raise ValueError(f"{name} goes frame by frame, and the patchifier joins {tokens.patch[0]} frames in a token")


def known_frames(known: Known | None, canvas: Tokens) -> tuple[Tensor | None, int]:
    """The frames B T n D that are known, and how many from the start are known of every clip as a whole."""
    if known is None:
        return None, 0
    whole = frames_of(known.where[..., None], canvas).flatten(2).all(dim=2).all(dim=0).tolist()
    return frames_of(known.values, canvas), next((t for t, told in enumerate(whole) if not told), len(whole))
