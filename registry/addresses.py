"""Addresses of phases: a hash of everything that a phase's result depends on."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

import mutoscope.core
from mutoscope.core.training.plan import Descent

CADENCE = ("checkpoint_every", "log_every", "keep", "log", "cache")
"""Settings of a descent that do not change its result."""


def phase_address(
    depends: dict[str, Any], classes: Iterable[type], descents: dict[str, Descent], before: Iterable[str], device: str
) -> str:
    """The address of a phase.

    depends: what the recipe says of the data and parts that the phase looks at. classes: of those parts. descents: by
    turn. before: addresses of earlier phases that it builds on. device: its type; threads and versions are added,
    since other ones give other bits.
    """
    content = {
        "depends": depends,
        "code": sorted({sources_hash(part) for part in classes}) + [core_hash()],
        "descents": {turn: {k: v for k, v in asdict(d).items() if k not in CADENCE} for turn, d in descents.items()},
        "before": list(before),
        "versions": {"torch": torch.__version__, "python": sys.version_info[:2]},
        "device": device,
        "threads": torch.get_num_threads(),
    }
    return digest(content)


def digest(content: Any) -> str:
    """SHA-256 of JSON-able content, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def files_named(said: Any, folders: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of what is in every file or folder that settings name, such as weights, by the name.

    said: settings as a recipe has them. folders: where names are relative to, after the working directory.
    """
    if isinstance(said, Mapping):
        return {name: one for value in said.values() for name, one in files_named(value, folders).items()}
    if isinstance(said, (list, tuple)):
        return {name: one for value in said for name, one in files_named(value, folders).items()}
    if not isinstance(said, str) or not ("/" in said or "." in said or os.sep in said):
        return {}  # a part's name, which a folder in the working directory may happen to have too
    found = next((p for p in (Path(said), *(folder / said for folder in folders)) if p.exists()), None)
    if found is None:
        return {}
    files = sorted(p for p in found.rglob("*") if p.is_file()) if found.is_dir() else [found]
    return {
        said: digest([(str(p.relative_to(found)), _content(p, p.stat().st_mtime_ns, p.stat().st_size)) for p in files])
    }


@cache
def _content(file: Path, changed: int, size: int) -> str:
    """Hash of a file, read again when its time or size has changed."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@cache
def code_hash(file: Path) -> str:
    """Hash of a source file as a syntax tree without docstrings: comments, layout and prose do not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


@cache
def sources_hash(part: type) -> str:
    """Hash of the code that a part is made of: its own file, and what that imports from its own package, and so on.

    The core is not among it, which has a hash of its own; nor are libraries, whose versions stand beside.
    """
    own = part.__module__
    house = "mutoscope.plugins." if own.startswith("mutoscope.plugins.") else own.partition(".")[0] + "."
    files: dict[str, Path] = {own: Path(inspect.getfile(part))}
    waiting = [own]
    while waiting:
        module = waiting.pop()
        for name in _imported(files[module]):
            if name.startswith(house) and name not in files and (file := _file(name)) is not None:
                files[name] = file
                waiting.append(name)
    return digest([[name, code_hash(file)] for name, file in sorted(files.items())])[:16]


def _imported(file: Path) -> list[str]:
    """Names of the modules that a file imports, wherever in it; `from a import b` may mean `a.b`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _file(name: str) -> Path | None:
    """The source of a module, None where there is none of this name."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


@cache
def core_hash() -> str:
    """Hash of the core, which every phase runs on."""
    root = Path(mutoscope.core.__file__).parent
    return digest([code_hash(file) for file in sorted(root.rglob("*.py"))])
