"""Reading a constructor as a contract: which facts a part is wired to, and what a recipe may set.

Positional parameters are facts, keyword-only parameters are settings, and a keyword annotated with a role is a nested
part. Nothing else may stand in the constructor of a component.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Union, cast, get_args, get_origin

from mutoscope.core.component import Component, Nested
from mutoscope.core.facts import Need
from mutoscope.core.process import Process

RESERVED: dict[str, Any] = {"type": str, "weights": str | None, "frozen": bool}
"""Keys of every part: its name, a folder or file of weights to start from, and whether it never learns."""
NOTHING = inspect.Parameter.empty
"""Default of a setting that a recipe must give."""


class DefinitionError(TypeError):
    """A component's constructor is no contract: a parameter is neither a fact, a setting nor a nested part."""


@dataclass(frozen=True)
class Setting:
    """A keyword of a constructor, which a recipe may set.

    default: `NOTHING` where the recipe must give it. nested: the role's word, for a nested part; part: the abstract
    class it must be; many: it is a mapping of parts by name; optional: it may be null.
    """

    name: str
    annotation: Any
    default: Any = NOTHING
    nested: str | None = None
    doc: str = ""
    part: type[Component] | None = None
    many: bool = False
    optional: bool = False


@dataclass(frozen=True)
class FactNeed:
    """A positional parameter of a constructor, filled with the latest fact of its type.

    optional: None is passed, or the default left, where no such fact was published.
    """

    name: str
    fact: type
    needs: tuple[Need, ...] = ()
    optional: bool = False


@cache
def settings_of(cls: type[Component]) -> list[Setting]:
    """The settings of a component, in the order of its constructor. Raises DefinitionError."""
    parameters = _parameters(cls)
    docs = _docs(cls, [parameter.name for parameter in parameters])
    return [
        _setting(cls, parameter, docs.get(parameter.name, ""))
        for parameter in parameters
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]


@cache
def fact_needs(cls: type[Component]) -> list[FactNeed]:
    """The facts a component is wired to, in the order of its constructor. Raises DefinitionError."""
    return [_fact_need(cls, p) for p in _parameters(cls) if p.kind is not inspect.Parameter.KEYWORD_ONLY]


def _parameters(cls: type[Component]) -> list[inspect.Parameter]:
    owner = next(base for base in cls.__mro__ if "__init__" in base.__dict__)
    if not issubclass(owner, Component):  # torch's or object's constructor: the part has none of its own
        return []
    try:
        signature = inspect.signature(owner.__dict__["__init__"], eval_str=True)
    except (NameError, SyntaxError, TypeError, AttributeError, ValueError) as error:
        raise DefinitionError(f"{cls.__name__}: the annotations of its constructor cannot be read: {error}") from error
    parameters = list(signature.parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            raise DefinitionError(f"{cls.__name__}: its constructor takes '{parameter}'; name every parameter")
        if parameter.annotation is NOTHING:
            raise DefinitionError(f"{cls.__name__}: parameter '{parameter.name}' has no type")
    return parameters


def _fact_need(cls: type[Component], parameter: inspect.Parameter) -> FactNeed:
    base, optional = without_none(parameter.annotation)
    needs: tuple[Need, ...] = ()
    if get_origin(base) is Annotated:
        base, *notes = get_args(base)
        needs = tuple(note for note in notes if isinstance(note, Need))
        base, inner = without_none(base)
        optional = optional or inner
    is_fact = isinstance(base, type) and (issubclass(base, Process) or dataclasses.is_dataclass(base))
    if not is_fact:
        raise DefinitionError(
            f"{cls.__name__}: positional parameter '{parameter.name}' is not annotated with a fact; "
            "a setting stands after the `*`"
        )
    return FactNeed(parameter.name, cast(type, base), needs, optional or parameter.default is not NOTHING)


def _setting(cls: type[Component], parameter: inspect.Parameter, doc: str) -> Setting:
    name, annotation, default = parameter.name, parameter.annotation, parameter.default
    if name in RESERVED:
        raise DefinitionError(f"{cls.__name__}: '{name}' is a key of every part and cannot be a setting")
    base, optional = without_none(annotation)
    many = get_origin(base) in (dict, Mapping) and len(get_args(base)) == 2
    part = get_args(base)[1] if many else base
    if not (isinstance(part, type) and issubclass(part, Component)):
        return Setting(name, annotation, default, doc=doc, optional=optional)
    if default is NOTHING:
        raise DefinitionError(f"{cls.__name__}: the nested part '{name}' has no default")
    if many and not isinstance(default, Mapping) and not (optional and default is None):
        raise DefinitionError(f"{cls.__name__}: the default of '{name}' is not a mapping of Nested")
    for one in default.values() if isinstance(default, Mapping) else [default]:
        if not isinstance(one, Nested) and not (optional and one is None):
            raise DefinitionError(f"{cls.__name__}: the default of the nested part '{name}' is not a Nested")
    return Setting(name, annotation, default, part.role, doc, part, many, optional)


def without_none(annotation: Any) -> tuple[Any, bool]:
    """`F | None` as F and True."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    members = [member for member in get_args(annotation) if member is not types.NoneType]
    return (Union[tuple(members)] if members else annotation), len(members) < len(get_args(annotation))  # noqa: UP007


def _docs(cls: type[Component], names: Sequence[str]) -> dict[str, str]:
    """What the docstrings say of each parameter: `steps: network calls per clip. low, high: bounds of ...`."""
    if not names:
        return {}
    one = rf"(?:{'|'.join(map(re.escape, names))})(?: \([^)]*\))?"
    heads = re.compile(rf"(?:(?<=[.;)] )|^)({one}(?:(?:, | and ){one})*): ")
    docs: dict[str, str] = {}
    for owner in (cls, cls.__dict__.get("__init__")):
        text = "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(owner) or "").split("\n\n"))
        for paragraph in text.split("\n\n"):
            found = list(heads.finditer(paragraph))
            ends = [match.start() for match in found[1:]] + [len(paragraph)]
            for match, end in zip(found, ends, strict=False):
                said = paragraph[match.end() : end].strip().rstrip(";.")
                heads_of = re.findall(r"\w+", re.sub(r"\([^)]*\)", "", match[1]))
                docs.update({name: said for name in heads_of if name in names})
    return docs
