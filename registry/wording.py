"""Types and values of settings in words, for errors and tables."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as bounds

from mutoscope.core.component import Component, Nested
from mutoscope.registry.contract import without_none


def words(annotation: Any) -> str:
    """A type in words that complete "must be ...": `a whole number of at least 1`."""
    base, optional = without_none(annotation)
    said = _words(base)
    return f"{said}, or null" if optional else said


def _words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [said for note in arguments[1:] for said in _limits(note)]
        return " ".join([_words(arguments[0]), *([f"of {' and '.join(limits)}"] if limits else [])])
    if origin in (Union, types.UnionType):
        return " or ".join(_words(member) for member in arguments)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(str(choice) for choice in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list, each {_words(arguments[0])}"
    if origin is tuple:
        each = list(dict.fromkeys(map(_words, arguments)))
        return f"a list of {len(arguments)}, each {each[0]}" if len(each) == 1 else f"a list of {', '.join(each)}"
    if origin in (list, Sequence):
        return f"a list, each {_words(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping, each value {_words(arguments[1])}"
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return f"a mapping with {', '.join(field.name for field in dataclasses.fields(annotation))}"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return f"a part of the role {annotation.role}"
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    return "anything" if annotation is Any else simple.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(note: Any) -> list[str]:
    """Bounds in words, of annotated_types or in a pydantic Field."""
    if isinstance(note, bounds.GroupedMetadata) or hasattr(note, "metadata"):
        inner = note.metadata if hasattr(note, "metadata") else note
        return [said for one in inner for said in _limits(one)]
    said = {
        bounds.Ge: ("at least", "ge"),
        bounds.Gt: ("more than", "gt"),
        bounds.Le: ("at most", "le"),
        bounds.Lt: ("less than", "lt"),
        bounds.MultipleOf: ("a multiple of", "multiple_of"),
        bounds.MinLen: ("at least this length:", "min_length"),
        bounds.MaxLen: ("at most this length:", "max_length"),
    }.get(type(note))
    return [f"{said[0]} {getattr(note, said[1]):g}"] if said else []


def bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def choices(annotation: Any) -> list[str]:
    """The words that an annotation allows, if it is a choice of words."""
    base = bare(without_none(annotation)[0])
    if get_origin(base) is Literal:
        return [str(choice) for choice in get_args(base)]
    if get_origin(base) in (tuple, list):
        return [choice for one in get_args(base) for choice in choices(one)]
    return []


def plain(value: Any) -> Any:
    """A value as a recipe writes it: lists for tuples, mappings for parts and dataclasses, texts for paths."""
    if isinstance(value, Nested):
        return {"type": value.type, **plain(value.settings)} if value.settings else value.type
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
