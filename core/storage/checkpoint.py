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
from mutoscope.core.storage.weights import DTYPES, load_tensors, read_header, save_tensors

FORMAT = 2
"""Since 2 the manifest is sealed; checkpoints of format 1 are read without that."""
LARGEST_JSON = 256 << 20
"""Bytes. A manifest or state is names, numbers and records; a larger one is an attack or damage."""
NAME = re.compile(r"step-(\d{8,})")
MANIFEST = "manifest.json"
STATE = "state.json"
SEAL = '"seal": "'
UNSEALED = "0" * 64


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
            reach("checkpoint.before_flush")
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
            "seal": UNSEALED,
        }
        reach("checkpoint.before_manifest")
        _write_text(temporary / MANIFEST, _sealed(_as_text(manifest)))
    return path


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file is as it was written. Raises InputError naming what is not."""
    manifest_file = path / MANIFEST
    if manifest_file.is_symlink():
        raise InputError(f"{manifest_file}: is a link; the checkpoint is not used")
    try:
        manifest = _read_json(manifest_file)
        files = {str(name): (int(info["size"]), str(info["sha256"])) for name, info in manifest["files"].items()}
        version, step = manifest["format"], manifest["step"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(f"{manifest_file}: damaged: says nothing of files, format or step") from None
    if version not in (1, FORMAT):
        raise InputError(f"{manifest_file}: format {version}; this version reads format {FORMAT}")
    if version == FORMAT or "seal" in manifest:
        text = manifest_file.read_text(encoding="utf-8")
        if _sealed((SEAL + UNSEALED).join(text.rsplit(f"{SEAL}{manifest.get('seal')}", 1))) != text:
            raise InputError(f"{manifest_file}: not as it was written; the checkpoint is not used")
    if NAME.fullmatch(path.name) and path.name != f"step-{step:08d}":
        raise InputError(f"{manifest_file}: is of step {step}; the checkpoint is not used")
    there = {file.name for file in path.iterdir()} - {MANIFEST}
    if not all(Path(name).name == name for name in files) or STATE not in files:
        raise InputError(f"{manifest_file}: names what is no file of a checkpoint")
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
    try:
        told = {
            part: {name: (tuple(shape), DTYPES[dtype]) for name, (shape, dtype) in tensors.items()}
            for part, tensors in manifest["tensors"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path / MANIFEST}: damaged: says nothing of tensors") from None
    state = _read_json(path / STATE)
    if not isinstance(state, dict) or set(files) != {part for part, tensors in told.items() if tensors}:
        raise InputError(f"{path / MANIFEST}: its parts are not those of its files")
    for name in files:  # all of them, before any is loaded
        header = {n: (tuple(i["shape"]), i["dtype"]) for n, i in read_header(path / f"{name}.safetensors").items()}
        if told[name] != header:
            raise InputError(f"{path / name}.safetensors: its tensors are not those of the manifest")
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in told}
    parts |= {name: load_tensors(path / f"{name}.safetensors", told[name], device) for name in files}
    return parts, state


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
        reach("prune.in_delete")
        shutil.rmtree(path)


def _as_text(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _sealed(text: str) -> str:
    """A manifest's text with the hash of itself, as it stands without one, in its last entry."""
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return f"{SEAL}{digest}".join(text.rsplit(SEAL + UNSEALED, 1))


def _write(path: Path, content: Any) -> None:
    _write_text(path, _as_text(content))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    flush_file(path)


def _read_json(path: Path) -> Any:
    """What a JSON file says. Raises InputError naming the file."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(f"{path}: damaged: larger than {LARGEST_JSON:,} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as bad:
        raise InputError(f"{path}: {bad.strerror}; this is no whole checkpoint") from None
    except (ValueError, RecursionError) as bad:
        raise InputError(f"{path}: damaged: {' '.join(str(bad).split())[:120]}") from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
