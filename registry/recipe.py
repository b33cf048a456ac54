"""Recipes: which parts, with which settings, trained how. Read, merged and checked without importing torch.

What stands here is what a recipe is before any part is known: YAML, `extends`, overrides, the keys at the top. What
the parts' settings may be is in their constructors, and is checked when the recipe is assembled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mutoscope.core.errors import InputError, nearest
from mutoscope.registry import documents, shipped
from mutoscope.registry.documents import Node, Place

PARTS = ("data", "autoencoder", "patchifier", "conditioner", "denoiser", "objective", "sampler", "tower", "writer")
"""Top keys that hold a part; `conditioner` may hold a list of them."""
KEYS = ("name", "extends", "plugins", *PARTS, "training", "metrics", "stages", "published")
"""All keys at the top of a recipe."""
STAGE_KEYS = ("name", "view", *PARTS[1:], "training")
"""Keys of a stage of a cascade."""
COMMAND_LINE = "command line"
"""The place of what came by an override."""
WORD = re.compile(r"[a-z][a-z0-9_]*")
"""What a part may be called in a recipe: never a path, never a dotted name."""
CHAIN = 20
"""Recipes that may extend one another."""

Keys = tuple[str | int, ...]
"""Where a value stands: keys of mappings and places in lists."""


@dataclass(frozen=True)
class Recipe:
    """A recipe after `extends` and overrides; or a study, which is read the same way.

    root: its values with their places. name: its own, or its file's. sources: the files it came from, its own first.
    A recipe never changes: `replace` and `without` give a new one.
    """

    root: Node
    name: str
    sources: tuple[Path, ...] = ()

    @classmethod
    def of(cls, data: Mapping[str, Any], name: str = "recipe") -> Recipe:
        """A recipe from plain data. Raises InputError on a structure that no recipe has."""
        return _finished(Node.of(dict(data)), name, ())

    @cached_property
    def data(self) -> dict[str, Any]:
        """Plain mappings, lists and scalars; `name` is among them, `extends` is not."""
        return self.root.plain()

    @property
    def plugins(self) -> tuple[Path, ...]:
        """The plugin files that the recipe names, absolute."""
        return tuple(map(Path, self.data.get("plugins", ())))

    def get(self, path: Keys | str, default: Any = None) -> Any:
        """The plain value at a path, or the default."""
        node: Node | None = self.root
        for key in _keys(path):
            node = node.child(key) if node is not None else None
        return default if node is None else node.plain()

    def where(self, path: Keys | str) -> tuple[str, int | None] | None:
        """File and line of a value, or of the nearest thing around it; None for a recipe that was made in Python.

        path: keys and places in lists, or the same with dots. What came by an override is on the `command line`,
        which has no lines.
        """
        place = self._place(_keys(path))
        return (place.file, place.line) if place else None

    def problem(
        self,
        path: Keys | str,
        problem: str,
        got: Any = None,
        allowed: Iterable[object] | str | None = None,
        near: Iterable[object] | None = None,
    ) -> InputError:
        """The error to raise for a value.

        allowed: what it may be; the nearest is suggested, or all are printed where none is near. near: names of which
        the nearest is suggested and the others never printed.
        """
        place = self._place(_keys(path))
        return InputError(
            file=place.file if place else None,
            line=place.line if place else None,
            field=documents.dotted(_keys(path)),
            problem=problem,
            got=got,
            allowed=_near(got, near) if allowed is None and near is not None else allowed,
        )

    def replace(self, path: Keys | str, value: Any) -> Recipe:
        """This recipe with a value at a path, as an override on the command line gives it.

        A part whose `type` changes is replaced whole; one that keeps it keeps the settings that are not given. value:
        plain, or a node that knows where it was written. Raises InputError if nothing can stand there.
        """
        node = value if isinstance(value, Node) else Node.of(value, self._place(_keys(path)))
        root = documents.replaced(self.root, _keys(path), node)
        return _finished(root, self.name, self.sources)

    def without(self, *paths: Keys | str) -> Recipe:
        """This recipe with nothing at these paths."""
        root = self.root
        for path in paths:
            root = documents.without(root, _keys(path))
        return _finished(root, self.name, self.sources)

    def dump(self) -> str:
        """The resolved recipe as YAML, which loads as the same data."""
        return documents.write(self.data)

    def _place(self, path: Keys) -> Place | None:
        node: Node | None = self.root
        place = self.root.place
        for key in path:
            node = node.child(key) if node is not None else None
            place = node.place if node is not None else place
        return place


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), kind: Literal["recipe", "study"] = "recipe"
) -> Recipe:
    """A recipe by path or shipped name, with overrides `denoiser.depth=4`. Raises InputError.

    kind: a `study` is looked up among the studies, and its keys are its own affair.
    """
    name = str(name_or_path)
    if kind == "study":
        path = shipped.find_study(name)
        return Recipe(_changed(_read(path), overrides), path.stem, (path,))
    path = shipped.find_recipe(name)
    root, sources = _resolved(path, ())
    recipe = _finished(_changed(root, overrides), _name(path), sources)
    for i, plugin in enumerate(recipe.plugins):
        if not shipped.is_file(plugin):
            raise recipe.problem(("plugins", i), "no such plugin file", str(plugin))
    return recipe


# Files


def _read(path: Path) -> Node:
    """The mapping in a file."""
    root = documents.read(_text(path), str(path))
    if not isinstance(root.value, dict):
        raise Recipe(root, "").problem((), "must be a mapping, `denoiser: ...`", root.plain())
    return root


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > documents.BYTES:
            raise InputError(file=path, line=1, problem=f"is larger than {documents.BYTES:,} bytes")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(file=path, line=line, problem="is not a text in UTF-8") from None
    except OSError as error:
        raise InputError(file=path, problem=f"cannot be read: {error.strerror}") from None


def _resolved(path: Path, below: tuple[Path, ...]) -> tuple[Node, tuple[Path, ...]]:
    """A file laid over what it extends, and the files."""
    root = _read(path)
    recipe = Recipe(root, "")
    _check(recipe, extending=True)
    root = _with_plugins_of(root, path.parent)
    base = root.value.get("extends")
    if base is None or base.value is None:
        return documents.without(root, ("extends",)), (path,)
    chain = (*below, path.resolve())
    base_path = _base(recipe, path, base.value)
    if base_path.resolve() in chain:
        raise recipe.problem("extends", "these recipes extend each other in a circle", base.value)
    if len(chain) > CHAIN:
        raise recipe.problem("extends", f"more than {CHAIN} recipes extend each other", base.value)
    older, sources = _resolved(base_path, chain)
    older = documents.without(older, ("name",))
    return documents.merged(older, documents.without(root, ("extends",))), (path, *sources)


def _base(recipe: Recipe, path: Path, base: str) -> Path:
    """The file that a recipe extends: a path relative to its own, or a shipped name."""
    if base.endswith(shipped.SUFFIXES) and shipped.is_file(path.parent / base):
        return path.parent / base
    found = shipped.find(base)
    if found is None:
        raise recipe.problem("extends", "no such recipe", base, shipped.names())
    return found


def _with_plugins_of(root: Node, folder: Path) -> Node:
    """Paths of plugin files made absolute: they are relative to the file that names them."""
    plugins = root.value.get("plugins")
    if plugins is None or plugins.value is None:
        return root
    located = [Node(os.path.abspath(folder / os.path.expanduser(one.value)), one.place) for one in plugins.value]
    return Node({**root.value, "plugins": Node(located, plugins.place)}, root.place)


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem).lstrip("._-")[:100] or "recipe"


# Overrides


def _changed(root: Node, overrides: Sequence[str]) -> Node:
    for override in overrides:
        at, value = _override(override)
        if at[0] == "extends":
            raise InputError(file=COMMAND_LINE, field="extends", problem="cannot be overridden")
        root = documents.replaced(root, at, value)
    return root


def _override(text: str) -> tuple[Keys, Node]:
    """`denoiser.depth=4` as a path and a value, which is read as YAML."""
    key, equals, value = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise InputError(file=COMMAND_LINE, problem="an override is KEY=VALUE, `denoiser.depth=4`", got=text)
    try:
        node = documents.read(value, COMMAND_LINE) if value.strip() else Node(None)
    except InputError as error:
        raise InputError(file=COMMAND_LINE, field=key, problem=error.problem, got=value) from None
    place = Place(COMMAND_LINE)
    value = Node.of(node.plain(), place)
    if keys == ("plugins",):
        value = _with_plugins_of(Node({"plugins": value}), Path.cwd()).value["plugins"]
    return keys, value


def _keys(path: Keys | str) -> Keys:
    if isinstance(path, str):
        return tuple(path.split(".")) if path else ()
    return path


# Structure


def _finished(root: Node, name: str, sources: tuple[Path, ...]) -> Recipe:
    """The recipe of a resolved document, checked; a key at the top that is null is left out, and the name put in."""
    _check(Recipe(root, name, sources))
    own = root.child("name")
    own = Node(name, root.place) if own is None or own.value is None else own
    given = {key: node for key, node in root.value.items() if node.value is not None and key != "name"}
    return Recipe(Node({"name": own, **given}, root.place), own.value, sources)


def _check(recipe: Recipe, extending: bool = False) -> None:
    """Raises InputError on the first thing at the top that no recipe can have. extending: it may extend another."""
    _check_keys(recipe, (), recipe.root, KEYS)
    for key, node in recipe.root.value.items():
        if node.value is None:
            continue
        if key == "name":
            _check_name(recipe, (key,), node)
        elif key == "extends":
            _need(recipe, (key,), node, str, "must be the name or path of one recipe")
            if not extending:
                raise recipe.problem((key,), "only a recipe in a file extends another one")
        elif key == "plugins":
            _need(recipe, (key,), node, list, "must be a list of plugin files")
            for i, one in enumerate(node.value):
                _need(recipe, (key, i), one, str, "must be the path of a plugin file")
        elif key in PARTS:
            _check_parts(recipe, key, (key,), node)
        elif key == "metrics":
            for i, one in enumerate(_need(recipe, (key,), node, list, "must be a list of metrics")):
                _check_part(recipe, (key, i), one)
        elif key == "training":
            _check_training(recipe, (key,), node)
        elif key == "stages":
            for i, stage in enumerate(_need(recipe, (key,), node, list, "must be a list of stages")):
                _check_stage(recipe, (key, i), stage)


def _check_stage(recipe: Recipe, at: Keys, stage: Node) -> None:
    _need(recipe, at, stage, dict, "must be a mapping with a name and parts")
    _check_keys(recipe, at, stage, STAGE_KEYS)
    for key, node in stage.value.items():
        if node.value is None:
            continue
        if key == "name":
            _check_name(recipe, (*at, key), node)
        elif key in PARTS:
            _check_parts(recipe, key, (*at, key), node)
        elif key == "training":
            _check_training(recipe, (*at, key), node)
        else:
            _need(recipe, (*at, key), node, dict, "must be a mapping with size and frames")


def _check_training(recipe: Recipe, at: Keys, node: Node) -> None:
    _need(recipe, at, node, dict, "must be a mapping of settings")
    phases = node.value.get("phases")
    if phases is None or phases.value is None:
        return
    for i, phase in enumerate(_need(recipe, (*at, "phases"), phases, list, "must be a list of phases")):
        _need(recipe, (*at, "phases", i), phase, dict, "must be a mapping, `{learn: denoiser, steps: 1000}`")
        objective = phase.value.get("objective")
        if objective is not None and objective.value is not None:
            _check_part(recipe, (*at, "phases", i, "objective"), objective)


def _check_parts(recipe: Recipe, role: str, at: Keys, node: Node) -> None:
    if role == "conditioner" and isinstance(node.value, list):
        for i, one in enumerate(node.value):
            _check_part(recipe, (*at, i), one)
    else:
        _check_part(recipe, at, node)


def _check_part(recipe: Recipe, at: Keys, node: Node) -> None:
    """A part is a word, or a mapping with a `type`; its settings are not looked at."""
    word = node
    if isinstance(node.value, dict):
        at, word = (*at, "type"), node.value.get("type")
        if word is None:  # to be found in what this recipe extends, or missing, which assembly says
            return
    if not isinstance(word.value, str):
        raise recipe.problem(at, "must be the name of a part, or a mapping with its `type`", word.plain())
    if not WORD.fullmatch(word.value):
        rule = "lower-case letters, digits and underscores"
        raise recipe.problem(at, f"a part is called by its name, {rule}; never by a path", word.value)


def _check_name(recipe: Recipe, at: Keys, node: Node) -> None:
    if not isinstance(node.value, str) or not shipped.NAME.fullmatch(node.value) or len(node.value) > 100:
        raise recipe.problem(at, "must be one word of letters, digits, `.`, `_` and `-`", node.plain())


def _check_keys(recipe: Recipe, at: Keys, node: Node, keys: Sequence[str]) -> None:
    for key in node.value:
        if key not in keys:
            raise recipe.problem((*at, key), "unknown key", key, keys)


def _need(recipe: Recipe, at: Keys, node: Node, kind: type, problem: str) -> Any:
    if not isinstance(node.value, kind):
        raise recipe.problem(at, problem, node.plain())
    return node.value


def _near(got: Any, names: Iterable[object]) -> tuple[object, ...]:
    names = tuple(names)
    return names if nearest(str(got), names) else ()
