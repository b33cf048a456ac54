"""Tensors in safetensors files: the only format of weights. What does not hold what it should is refused whole."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mutoscope.core.errors import InputError, WorkError, shown

LARGEST_HEADER = 2 << 20
"""Bytes. A header is names, shapes and offsets, about 100 bytes a tensor; a larger one is an attack or damage."""
DENSEST = 1 / 3
"""Brackets and commas that a byte of header may have: one of nothing but these becomes many times as much memory."""
DTYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.uint16": "U16", "torch.uint32": "U32", "torch.uint64": "U64", "torch.bool": "BOOL",
    "torch.complex64": "C64", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
}  # fmt: skip
"""What safetensors calls the types of torch that have a name there."""
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4,
    "U64": 8, "BOOL": 1, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of a value."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Writes tensors to a safetensors file. Tensors that share memory are written one by one.

    The caller flushes and renames. Raises WorkError when the disk will not take it.
    """
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    try:
        path.touch()
        mode = path.stat().st_mode & 0o777  # as the umask has it; safetensors leaves 0600
        # An empty dict with no tensors is written as broken JSON.
        save_file(whole, path, dict(notes) if notes else None)
        path.chmod(mode)
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
        wanted = {name: (tuple(shape), dtype) for name, (shape, dtype) in expected.items()}
        wrong = next((name for name in sorted({*said, *wanted}) if said.get(name) != wanted.get(name)), None)
        if wrong is not None:
            has, wants = (" ".join(map(str, of[wrong])) if wrong in of else "nothing" for of in (said, wanted))
            raise InputError(f"{path}: {shown(wrong)} is {has}; {wants} is expected")
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
            text = file.read(length)
            if sum(map(text.count, (b"[", b"{", b","))) > 64 + DENSEST * length:
                raise InputError(f"{path}: damaged header: not a table of tensors")
            header = json.loads(text, object_pairs_hook=_unique)
    except OSError as bad:
        raise InputError(f"{path}: {bad.strerror}") from None
    except (ValueError, RecursionError) as bad:
        raise InputError(f"{path}: damaged header: {' '.join(str(bad).split())[:120]}") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: damaged header: not a table of tensors")
    header.pop("__metadata__", None)
    for name, info in header.items():
        if not _whole(info):
            raise InputError(f"{path}: damaged header: {shown(name)} is not a dtype, a shape and offsets that agree")
    spans = sorted(tuple(info["data_offsets"]) for info in header.values())
    ends = [0, *(end for _, end in spans)]
    if any(begin != before for (begin, _), before in zip(spans, ends, strict=False)) or ends[-1] != size - 8 - length:
        raise InputError(f"{path}: damaged: its tensors do not fill the file exactly")
    return header


def _whole(info: Any) -> bool:
    """Whether an entry of the header says what it should, and its bytes are those of its shape."""
    if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
        return False
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        return False
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 64:
        return False
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, *offsets)):
        return False
    return offsets[1] - offsets[0] == math.prod(shape) * SIZES[dtype]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)
