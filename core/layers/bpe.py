"""Byte-pair ids of prompts, by the vocabulary that ships with open_clip; no download."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

VOCABULARY = 49408
"""Number of ids. Id 0 doubles as padding."""


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """open_clip's tokenizer of CLIP's vocabulary (Radford et al. 2021).

    Its module alone is loaded where it stands alone: open_clip as a whole brings timm and torchvision, which takes
    seconds and is of no use here.
    """
    package = importlib.util.find_spec("open_clip")
    if "open_clip" not in sys.modules and package is not None and package.submodule_search_locations:
        path = Path(package.submodule_search_locations[0]) / "tokenizer.py"
        spec = importlib.util.spec_from_file_location("mutoscope_bpe_tokenizer", path)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
                return module.SimpleTokenizer()
            except (ImportError, OSError):
                pass
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@lru_cache(maxsize=1 << 16)
def ids_of(prompt: str) -> tuple[int, ...]:
    """The ids of one prompt between those of start and end."""
    bpe = tokenizer()
    return (bpe.sot_token_id, *bpe.encode(prompt), bpe.eot_token_id)


def cut(ids: Sequence[int], length: int) -> list[int]:
    """At most `length` ids, the last of which stays the end's."""
    return list(ids) if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def distinct(prompts: Iterable[str]) -> dict[str, int]:
    """Every prompt once, with its place in order of appearance."""
    return {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
