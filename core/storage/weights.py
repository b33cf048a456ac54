"""Tensors in safetensors files: the only format of weights. What does not hold what it should is refused whole."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mutoscope.core.errors import InputError, WorkError

LARGEST_HEADER = 8 << 20
"""Bytes. A header is names, shapes and offsets; a larger one is an attack or damage."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Writes tensors to a safetensors file. Tensors that share memory are written one by one.

    The caller flushes and renames. Raises WorkError when the disk will not take it.
    """
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    try:
        save_file(
            whole, path, dict(notes) if notes else None
        )  # an empty dict with no tensors is written as broken JSON
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)  # safetensors leaves 0600
    except (OSError, SafetensorError) as failed:
        raise WorkError(f"{path}: could not be written: {' '.join(str(failed).split())}") from failed


def load_tensors(
    path: Path,
    expected: Mapping[str, tuple[tuple[int, ...], str]] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Reads a safetensors file. expected: shape and dtype by name, all of which must be there and nothing else.

    Raises InputError naming the file; nothing is loaded in part.
    """
    header = read_header(path)
    if expected is not None:
        said = {name: (tuple(info["shape"]), info["dtype"]) for name, info in header.items()}
        wrong = next((n for n in sorted({*said, *expected}) if said.get(n) != _as_said(expected.get(n))), None)
        if wrong is not None:
            raise InputError(f"{path}: tensor {wrong}: has {said.get(wrong)}, expected {_as_said(expected.get(wrong))}")
    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError, ValueError) as bad:
        raise InputError(f"{path}: damaged: {' '.join(str(bad).split())}") from None


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Names, dtypes, shapes and offsets, checked against the file's size before anything is loaded."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise InputError(f"{path}: damaged: not a safetensors file of {size} bytes")
            header = json.loads(file.read(length), object_pairs_hook=_unique)
    except OSError as bad:
        raise InputError(f"{path}: {bad.strerror}") from None
    except ValueError as bad:
        raise InputError(f"{path}: damaged header: {bad}") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: damaged header: not a table of tensors")
    header.pop("__metadata__", None)
    try:
        spans = sorted(tuple(info["data_offsets"]) for info in header.values())
        ends = [0, *(end for _, end in spans)]
        whole = all(begin == before and begin <= end for (begin, end), before in zip(spans, ends, strict=False))
    except (TypeError, KeyError, ValueError):
        whole, ends = False, [0]
    if not whole or ends[-1] != size - 8 - length:
        raise InputError(f"{path}: damaged: its tensors do not fill the file exactly")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _as_said(expected: tuple[tuple[int, ...], str] | None) -> tuple[tuple[int, ...], str] | None:
    return None if expected is None else (tuple(expected[0]), expected[1])
