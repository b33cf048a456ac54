"""The recipes and studies that ship with the package, by name, and files by path."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from mutoscope.core.errors import InputError

RECIPES = ("", "lineage", "paper")
"""Folders of recipes under `recipes/`, in the order in which a name is looked up."""
STUDIES = ("studies",)
"""Folders of studies."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
"""What a recipe may be called: one word, which is safe as the name of a folder."""
SUFFIXES = (".yaml", ".yml")


def folder() -> Path:
    """Where the shipped recipes are."""
    return Path(str(files("mutoscope.recipes")))


def names(folders: Sequence[str] = RECIPES) -> list[str]:
    """The names of the shipped files in these folders, folder by folder, each sorted: `quickstart`, `25-dit`."""
    return [path.stem for name in folders for path in _files(name)]


def find(name: str, folders: Sequence[str] = RECIPES) -> Path | None:
    """The shipped file of a name: a stem (`25-dit`), or a folder and a stem (`lineage/25-dit`); None if there is none.

    Names are compared with what is shipped and never made into a path, so no name leads out of the folder.
    """
    shipped = [path for each in folders for path in _files(each)]
    return next((path for path in shipped if name in (path.stem, f"{path.parent.name}/{path.stem}")), None)


def find_recipe(name: str) -> Path:
    """The file of a recipe: the path of a YAML file, or a shipped name, also where that is written as a path
    (`recipes/quickstart.yaml`). Raises InputError with the nearest name."""
    return _found(name, RECIPES)


def find_study(name: str) -> Path:
    """As `find_recipe`, for studies."""
    return _found(name, STUDIES)


def is_file(path: Path) -> bool:
    """Whether it is a file that can be looked at; no error for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _found(name: str, folders: Sequence[str]) -> Path:
    path = Path(os.path.expanduser(name)) if name.isprintable() else Path()
    if path.suffix in SUFFIXES and is_file(path):
        return path
    written = name
    if path.suffix in SUFFIXES and path.parts[0] == "recipes":
        written = "/".join((*path.parts[1:-1], path.stem))
    found = find(written, folders)
    if found is None and path.suffix in SUFFIXES:
        raise InputError(file=name[:200], problem="no such file")
    if found is None:
        raise InputError(problem="no file and no shipped name is called this", got=name, allowed=names(folders))
    return found


def _files(name: str) -> list[Path]:
    root = (folder() / name).resolve()
    return sorted(path for path in root.glob("*.yaml") if path.is_file() and path.resolve().parent == root)
