"""Checkpoints: a folder of safetensors and JSON that is there whole or not at all, and is checked before it is used.

Written under a temporary name, every file flushed, `manifest.json` last, then one rename. The newest one is computed
from what verifies, never pointed at.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutoscope.core.errors import InputError, WorkError
from mutoscope.core.storage.atomic import clean, flush_file, need_space, whole_folder
from mutoscope.core.storage.failpoints import reach
from mutoscope.core.storage.weights import load_tensors, read_header, save_tensors

FORMAT = 1
NAME = re.compile(r"step-(\d{8,})")
MANIFEST = "manifest.json"
STATE = "state.json"


def write_checkpoint(
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `folder/step-00000300`: a safetensors file per part, `state.json`, and the manifest.

    state: JSON-able; floats keep their bits. Raises WorkError when the disk will not take it or a tensor is not
    finite; what was there before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    need_space(folder, sum(t.numel() * t.element_size() for tensors in parts.values() for t in tensors.values()))
    for part, tensors in parts.items():
        bad = next((n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), None)
        if bad is not None:
            raise WorkError(f"step {step}: {part}.{bad} is not finite; no checkpoint is written of it")
    path = folder / f"step-{step:08d}"
    with whole_folder(path) as temporary:
        for part, tensors in parts.items():
            if not tensors:  # a part without tensors has a line in the manifest and no file
                continue
            save_tensors(temporary / f"{part}.safetensors", tensors)
            flush_file(temporary / f"{part}.safetensors")
            reach("checkpoint.between_files")
        _write(temporary / STATE, state)
        files = {
            file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(temporary.iterdir())
        }
        tensors = {
            part: {name: [list(t.shape), str(t.dtype)] for name, t in tensors.items()}
            for part, tensors in parts.items()
        }
        manifest = {
            "format": FORMAT,
            "step": step,
            "files": files,
            "tensors": tensors,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "notes": dict(notes or {}),
        }
        reach("checkpoint.before_manifest")
        _write(temporary / MANIFEST, manifest)
    return path


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file is as it was written. Raises InputError naming what is not."""
    manifest_file = path / MANIFEST
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        files = {str(name): (int(info["size"]), str(info["sha256"])) for name, info in manifest["files"].items()}
        version = manifest["format"]
    except OSError as bad:
        raise InputError(f"{manifest_file}: {bad.strerror}; this is no whole checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise InputError(f"{manifest_file}: damaged: {bad}") from None
    if version != FORMAT:
        raise InputError(f"{manifest_file}: format {version}; this version reads format {FORMAT}")
    there = {file.name for file in path.iterdir()} - {MANIFEST}
    if there != set(files):
        raise InputError(f"{path}: holds {sorted(there ^ set(files))[0]} against its manifest")
    for name, (size, sha256) in files.items():
        file = path / name
        if file.is_symlink() or not file.is_file() or file.stat().st_size != size or _sha256(file) != sha256:
            raise InputError(f"{file}: not as it was written (size or hash differs); the checkpoint is not used")
    return manifest


def newest(folder: Path, report: Callable[[str], object] = lambda said: None) -> Path | None:
    """The newest checkpoint that verifies, or None. report: told why a newer one was passed over."""
    for path in reversed(listed(folder)):
        try:
            verify(path)
        except InputError as bad:
            report(f"passed over a damaged checkpoint: {bad}")
        else:
            return path
    return None


def listed(folder: Path) -> list[Path]:
    """Checkpoint folders by step, whether they verify or not."""
    found = [p for p in folder.iterdir() if NAME.fullmatch(p.name) and p.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def read_checkpoint(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by part, and the state. Verifies first; raises InputError and loads nothing on anything damaged."""
    manifest = verify(path)
    files = [name.removesuffix(".safetensors") for name in manifest["files"] if name.endswith(".safetensors")]
    for name in files:
        said = {n: tuple(shape) for n, (shape, _) in manifest["tensors"].get(name, {}).items()}
        header = {n: tuple(info["shape"]) for n, info in read_header(path / f"{name}.safetensors").items()}
        if said != header:
            raise InputError(f"{path / name}.safetensors: its tensors are not those of the manifest")
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in manifest["tensors"]}
    parts |= {name: load_tensors(path / f"{name}.safetensors", device=device) for name in files}
    return parts, json.loads((path / STATE).read_text(encoding="utf-8"))


def prune(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints, and what interrupted writes left; only once the newest verifies."""
    clean(folder)
    paths = listed(folder)
    if len(paths) <= keep:
        return
    verify(paths[-1])
    for path in paths[:-keep]:
        reach("prune.before_delete")
        (path / MANIFEST).unlink(missing_ok=True)  # first: a half-deleted folder must not verify
        shutil.rmtree(path)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    flush_file(path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
