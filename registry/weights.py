"""Weights that a recipe names: a safetensors file or an exported folder, into a part that has just been built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.errors import InputError, nearest
from mutoscope.core.storage.weights import load_tensors, read_header


def load_weights(part: nn.Module, name: str, address: str, folders: Iterable[Path] = ()) -> None:
    """Loads a part's weights, or checks names and shapes only where the part is on the meta device.

    name: a path, relative to the working directory or to one of `folders`. address: of the part in its model; names
    in the file may begin with it, as they do in an exported model. Raises InputError.
    """
    files = _files(name, folders)
    wanted = part.state_dict()
    if isinstance(part, Component) and type(part).adapted is not Component.adapted:
        _load_adapted(part, files, wanted, address)
        return
    shapes = {key: tuple(said["shape"]) for file in files for key, said in read_header(file).items()}
    prefix = _prefix(wanted, shapes, address)
    _check(wanted, shapes, prefix)
    if any(not target.is_meta for target in wanted.values()):
        for file in files:
            stored = load_tensors(file)
            part.load_state_dict({k: stored[prefix + k] for k in wanted if prefix + k in stored}, strict=False)


def _load_adapted(part: nn.Module, files: Sequence[Path], wanted: Mapping[str, Tensor], address: str) -> None:
    """The same for a part that can make its weights from another network's."""
    stored = {key: tensor for file in files for key, tensor in load_tensors(file).items()}
    prefix = _prefix(wanted, stored, address)
    own = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
    made = part.adapted(own)  # type: ignore[operator]
    _check(wanted, {key: tuple(tensor.shape) for key, tensor in made.items()}, "")
    if any(not target.is_meta for target in wanted.values()):
        part.load_state_dict(made)


def _files(name: str, folders: Iterable[Path]) -> list[Path]:
    path = next((p for p in (Path(name), *(folder / name for folder in folders)) if p.exists()), None)
    if path is None:
        raise InputError(problem="no such file or folder", got=name)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise InputError(problem="a folder without a .safetensors file", got=name)
    return files


def _prefix(wanted: Mapping[str, Tensor], stored: Iterable[str], address: str) -> str:
    """What stands before the part's own names in the file."""
    words = address.split(".")
    endings = [".".join(words[i:]) + "." for i in range(len(words))]
    role = words[0] + "."
    found = set(stored)
    return max(["", *endings, role], key=lambda prefix: sum(prefix + key in found for key in wanted))


def _check(wanted: Mapping[str, Tensor], stored: Mapping[str, tuple[int, ...]], prefix: str) -> None:
    missing = [key for key in wanted if prefix + key not in stored]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(problem=f"has no weights '{missing[0]}'{more}{nearest(missing[0], stored)}")
    if not prefix and (extra := sorted(set(stored) - set(wanted))):
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise InputError(problem=f"has weights that the part does not: '{extra[0]}'{more}")
    for key, target in wanted.items():
        if tuple(target.shape) != stored[prefix + key]:
            raise InputError(problem=f"'{key}' is {list(stored[prefix + key])}; the part wants {list(target.shape)}")
