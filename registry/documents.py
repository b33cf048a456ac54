"""YAML 1.2 as plain values that know where they were written; nothing in a document can do more than be a value.

Read from the event stream, so that limits hold before memory is spent: size, depth, number of values, and how much
aliases may repeat. There are no tags, hence no objects; `1e-4` is a number; a key given twice is an error.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from mutoscope.core.errors import InputError, shown

BYTES = 200_000
"""Size that a document may have."""
DEPTH = 40
"""How deep values may be nested."""
VALUES = 10_000
"""How many values a document may have, those that aliases repeat counted each time."""
DIGITS = 100
"""Characters that a number may have."""


@dataclass(frozen=True)
class Place:
    """Where a value was written. line: from 1, or None where there are no lines, as on the command line."""

    file: str
    line: int | None = None


@dataclass(frozen=True)
class Node:
    """A value with its place. value: a scalar, a list of nodes, or a mapping of nodes by name; never changed."""

    value: Any
    place: Place | None = None

    def child(self, key: str | int) -> Node | None:
        """The node under a key of a mapping or at a place of a list; None if there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and str(key).isdecimal() and int(key) < len(self.value):
            return self.value[int(key)]
        return None

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    @classmethod
    def of(cls, value: Any, place: Place | None = None) -> Node:
        """Plain data as nodes that were all written at one place."""
        if isinstance(value, dict):
            return cls({str(key): cls.of(one, place) for key, one in value.items()}, place)
        if isinstance(value, (list, tuple)):
            return cls([cls.of(one, place) for one in value], place)
        return cls(value, place)


def read(text: str, file: str) -> Node:
    """The one document of a text. Raises InputError with the line of what is wrong."""
    if len(text) > BYTES:
        raise InputError(file=file, line=1, problem=f"is larger than {BYTES:,} bytes")
    reader = _Reader(text, file)
    try:
        return reader.document()
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        said = next((said for key in ("problem", "context", "reason") if (said := getattr(error, key, None))), "")
        reader.line = mark.line + 1 if mark else reader.line
        raise reader.refusal(f"is not YAML: {said or 'it cannot be read'}") from None
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError):  # the parser's own, on nonsense
        raise reader.refusal("is not YAML: it cannot be read") from None


def write(data: Any) -> str:
    """Plain data as YAML; what holds nothing but scalars stands on one line."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = None
    writer.allow_unicode = True
    writer.width = 120
    writer.representer.sort_base_mapping_type_on_output = False
    out = io.StringIO()
    writer.dump(data, out)
    return out.getvalue()


class _Reader:
    """Builds nodes from events, and counts."""

    def __init__(self, text: str, file: str) -> None:
        self.events: Iterator[Any] = iter(YAML(typ="safe", pure=True).parse(text))
        self.file, self.line = file, 1
        self.anchors: dict[str, tuple[Node, int] | None] = {}
        self.count = 0

    def refusal(self, problem: str) -> InputError:
        return InputError(file=self.file, line=self.line, problem=" ".join(problem.split()))

    def next(self) -> Any:
        event: Event = next(self.events)
        self.line = event.start_mark.line + 1
        return event

    def document(self) -> Node:
        root = None
        while (event := next(self.events, None)) is not None:
            if not isinstance(event, DocumentStartEvent):
                continue
            self.line = event.start_mark.line + 1
            if root is not None:
                raise self.refusal("a second document begins; one is expected")
            root = self.node(self.next(), 0)
        if root is None:
            raise self.refusal("is empty")
        return root

    def node(self, event: Any, depth: int) -> Node:
        if depth > DEPTH:
            raise self.refusal(f"is nested deeper than {DEPTH} levels")
        if isinstance(event, AliasEvent):
            return self.alias(event.anchor)
        if event.tag is not None:
            raise self.refusal(f"tags are not allowed, found {shown(str(event.tag))}")
        place, before = Place(self.file, self.line), self.count
        self.spend(1)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, ScalarEvent):
            value: Any = event.value if event.style else self.scalar(event.value)
        elif isinstance(event, SequenceStartEvent):
            value = []
            while not isinstance(item := self.next(), SequenceEndEvent):
                value.append(self.node(item, depth + 1))
        elif isinstance(event, MappingStartEvent):
            value = self.mapping(depth)
        else:
            raise self.refusal("is not YAML: it cannot be read")
        node = Node(value, place)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, self.count - before)
        return node

    def mapping(self, depth: int) -> dict[str, Node]:
        values: dict[str, Node] = {}
        while not isinstance(event := self.next(), MappingEndEvent):
            if not isinstance(event, ScalarEvent) or event.tag is not None:
                raise self.refusal("a key must be a word")
            key, place = event.value, Place(self.file, self.line)
            if key in values:
                first = values[key].place
                raise self.refusal(f"duplicate key {shown(key)}, already in line {first.line if first else 0}")
            values[key] = Node(self.node(self.next(), depth + 1).value, place)
        return values

    def alias(self, anchor: str) -> Node:
        known = self.anchors.get(anchor)
        if known is None:
            raise self.refusal(f"alias {shown(anchor)} refers to {'itself' if anchor in self.anchors else 'nothing'}")
        node, size = known
        self.spend(size)
        return node

    def spend(self, values: int) -> None:
        self.count += values
        if self.count > VALUES:
            raise self.refusal(f"has more than {VALUES:,} values, aliases written out")

    def scalar(self, text: str) -> Any:
        """An unquoted word by the core schema of YAML 1.2, section 10.3.2."""
        if text in _WORDS:
            return _WORDS[text]
        kind = next((kind for form, kind in _NUMBERS if form.fullmatch(text)), None)
        if kind is None:
            return text
        if len(text) > DIGITS:
            raise self.refusal(f"a number has more than {DIGITS} digits")
        return kind(text)


_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMBERS = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
)


# Laying one document over another

RIVALS = {"steps": "budget", "budget": "steps"}
"""A setting that displaces another one where both are not given together."""
_WORD = re.compile(r"[a-z][a-z0-9_]*")


def merged(old: Node, new: Node) -> Node:
    """The new value over the old one: mappings key by key, anything else replaced.

    A part whose `type` changes is replaced whole. The word of a part is the mapping with that `type`, so a word alone
    keeps the settings of the part it names, and settings alone change the part that is a word.
    """
    if isinstance(new.value, dict):
        old = _as_part(old)
    if not isinstance(old.value, dict):
        return new
    kind = old.value.get("type")
    if kind is not None and isinstance(new.value, str) and new.value == kind.value:
        return old
    if not isinstance(new.value, dict):
        return new
    if kind is not None and new.value.get("type", kind).value != kind.value:
        return new
    kept = {key: node for key, node in old.value.items() if RIVALS.get(key) not in new.value or key in new.value}
    laid = {key: merged(kept[key], node) if key in kept else node for key, node in new.value.items()}
    return Node({**kept, **laid}, new.place)


def replaced(old: Node | None, path: tuple[str | int, ...], new: Node, at: tuple[str | int, ...] = ()) -> Node:
    """The new value over the one at a path; mappings on the way are made, a word becomes the part it names.

    Raises InputError if the path leads through a value that has no keys, or past the end of a list.
    """
    if not path:
        return new if old is None else merged(old, new)
    key, rest = path[0], path[1:]
    old = Node({}, new.place) if old is None or old.value is None else _as_part(old)
    child = old.child(key)
    if isinstance(old.value, list):
        if child is None:
            places = f"0 to {len(old.value) - 1}" if old.value else "none: the list is empty"
            raise _lost(new, at, "is a list; a number must say which of its items", key, places)
        items = list(old.value)
        items[int(key)] = replaced(child, rest, new, (*at, key))
        return Node(items, old.place)
    if not isinstance(old.value, dict):
        raise _lost(new, at, f"is {shown(old.value)} and has no settings", key)
    kept = {name: node for name, node in old.value.items() if name != RIVALS.get(str(key))}
    return Node({**kept, str(key): replaced(child, rest, new, (*at, key))}, old.place)


def without(old: Node, path: tuple[str | int, ...]) -> Node:
    """The node with nothing at a path."""
    child = old.child(path[0])
    if child is None:
        return old
    if isinstance(old.value, dict):
        kept = {key: node for key, node in old.value.items() if key != str(path[0]) or len(path) > 1}
        return Node({**kept, str(path[0]): without(child, path[1:])} if len(path) > 1 else kept, old.place)
    items = list(old.value)
    items[int(path[0]) : int(path[0]) + 1] = [without(child, path[1:])] if len(path) > 1 else []
    return Node(items, old.place)


def _as_part(node: Node) -> Node:
    """A word as the mapping that means the same."""
    is_word = isinstance(node.value, str) and _WORD.fullmatch(node.value)
    return Node({"type": node}, node.place) if is_word else node


def dotted(path: tuple[str | int, ...]) -> str:
    """A path on one line, whatever its keys are."""
    keys = [key if key.isprintable() else repr(key)[1:-1] for key in map(str, path)]
    return ".".join(key if len(key) <= 60 else key[:57] + "..." for key in keys)


def _lost(new: Node, at: tuple[str | int, ...], problem: str, key: str | int, allowed: str | None = None) -> InputError:
    place = new.place
    return InputError(
        file=place.file if place else None,
        line=place.line if place else None,
        field=dotted(at),
        problem=problem,
        got=key,
        allowed=allowed,
    )
