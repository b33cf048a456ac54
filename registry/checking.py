"""Checking settings against a constructor: strictly, all at once, with one problem per setting."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.types import Strict

from mutoscope.core.component import NAME, Component, Nested
from mutoscope.core.errors import nearest
from mutoscope.registry.contract import (
    NOTHING,
    RESERVED,
    DefinitionError,
    Setting,
    fact_needs,
    settings_of,
    without_none,
)
from mutoscope.registry.wording import bare, choices, words

LONGEST = 10_000
"""Characters that a text in a recipe may have."""

_STRICT = ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), arbitrary_types_allowed=True
)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one setting.

    path: from the part to the setting. got: the value, or the key where that is unknown; `NOTHING` where it is
    missing. allowed: the words that it may be, where it is a choice.
    """

    path: tuple[str | int, ...]
    problem: str
    got: Any = NOTHING
    allowed: tuple[str, ...] = ()

    @property
    def suggestion(self) -> str:
        """`; did you mean "x"?`, or nothing where no allowed word is near."""
        return nearest(str(self.got), self.allowed)


def check_definition(cls: type[Component]) -> None:
    """Raises DefinitionError if the constructor is no contract: see the module's first lines."""
    fact_needs(cls)
    settings = settings_of(cls)
    try:
        model = settings_model(cls)
    except Exception as error:
        raise DefinitionError(f"{cls.__name__} has a setting of a type that no recipe can write: {error}") from error
    blank = model.model_construct()
    for setting in settings:
        if setting.nested is None and setting.default is not NOTHING:
            try:
                model.__pydantic_validator__.validate_assignment(blank, setting.name, setting.default)
            except ValidationError as error:
                said = f"the default of '{setting.name}' is not allowed: {error.errors()[0]['msg']}"
                raise DefinitionError(f"{cls.__name__}: {said}") from None


@cache
def settings_model(cls: type[Component]) -> type[BaseModel]:
    """The strict pydantic model of a component's settings, without those of its nested parts.

    Unknown keys are errors; a whole number will do for a number, a list for a tuple; booleans are not numbers, and
    numbers are finite.
    """
    settings = settings_of(cls)
    fields: dict[str, Any] = {
        s.name: (
            writable(s.annotation) if s.nested is None else Any,
            ... if s.default is NOTHING else Field(default_factory=lambda default=s.default: default),
        )
        for s in settings
    }
    return create_model(f"{cls.__name__}Settings", __config__=_STRICT, **fields)


def check_settings(cls: type[Component], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The settings of a part as its constructor takes them, and everything wrong with them.

    given: the part's mapping in a recipe, with or without the reserved keys, which are checked and left out. Settings
    that are not given are left out too, except nested parts: those are always there, as `Nested`, None, or a mapping
    of `Nested`, from the recipe or by default.
    """
    settings = {setting.name: setting for setting in settings_of(cls)}
    annotations = {**{s.name: s.annotation for s in settings.values()}, **RESERVED}
    plain = {key: value for key, value in given.items() if not _nested(settings.get(key)) and key not in RESERVED}
    values, problems = _checked(settings_model(cls), plain, annotations)
    for key in RESERVED:
        if key in given:
            problems += _checked(_reserved_model(), {key: given[key]}, RESERVED)[1]
    for setting in settings.values():
        if _nested(setting):
            value, wrong = _nested_value(setting, given.get(setting.name, NOTHING))
            values[setting.name] = value
            problems += wrong
    order = {key: place for place, key in enumerate(given)}
    return values, sorted(problems, key=lambda problem: order.get(str(problem.path[0]), len(order)))


def check_fields(kind: type, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """As `check_settings` for a dataclass of which some fields are given, and none is required: a phase's descent."""
    return _checked(_fields_model(kind, False), given, get_type_hints(kind, include_extras=True))


def part_named(value: Any, default: Nested | None = None) -> tuple[Nested | None, list[Problem]]:
    """A part as a recipe names it, a word or a mapping with a `type`, and what is wrong with that.

    The settings keep the reserved keys `weights` and `frozen`. A mapping without a `type` changes settings of the
    default.
    """
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        return None, [Problem((), "must be the name of a part, or a mapping with its 'type'", value)]
    settings = {key: setting for key, setting in value.items() if key != "type"}
    if "type" not in value and default is not None:
        return Nested(default.type, {**default.settings, **settings}), []
    if "type" not in value:
        typo = next((key for key in value if nearest(key, ("type",))), None)
        if typo is not None:
            return None, [Problem((typo,), "unknown setting", typo, ("type",))]
        return None, [Problem(("type",), "is missing: a part is named by its 'type'")]
    name = value["type"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return None, [Problem(("type",), "must be the name of a part: lower-case letters, digits, underscores", name)]
    return Nested(name, settings), []


def _nested(setting: Setting | None) -> bool:
    return setting is not None and setting.nested is not None


def _nested_value(setting: Setting, given: Any) -> tuple[Any, list[Problem]]:
    default = setting.default
    if given is NOTHING:
        return default, []
    if given is None and setting.optional:
        return None, []
    if not setting.many:
        value, wrong = part_named(given, default if isinstance(default, Nested) else None)
        return value, _under((setting.name,), wrong)
    if not isinstance(given, Mapping) or "type" in given:
        said = f"must be a mapping of parts of the role {setting.nested}, by name"
        return None, [Problem((setting.name,), said, given)]
    parts, problems = {}, []
    for key, one in given.items():
        parts[key], wrong = part_named(one, (default or {}).get(key))
        problems += _under((setting.name, key), wrong)
    return parts, problems


def _under(path: tuple[str | int, ...], problems: Iterable[Problem]) -> list[Problem]:
    return [dataclasses.replace(problem, path=(*path, *problem.path)) for problem in problems]


def _checked(
    model: type[BaseModel], given: Mapping[str, Any], annotations: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """The given values as the model has them, and one problem per setting that is wrong."""
    try:
        checked = model.__pydantic_validator__.validate_python(dict(given))
        return {key: getattr(checked, key) for key in given}, []
    except ValidationError as error:
        found = error.errors(include_url=False)
    problems: dict[tuple[str | int, ...], Problem] = {}
    for wrong in found:
        place = _place(wrong["loc"], given)
        if place not in problems:
            problems[place] = _problem(wrong["type"], wrong["loc"], place, given, annotations)
    bad = {problem.path[0] for problem in problems.values()}
    good = {key: value for key, value in given.items() if key not in bad}
    complete = not any(wrong["type"] == "missing" and len(wrong["loc"]) == 1 for wrong in found)
    values = _checked(model, good, annotations)[0] if bad & set(given) and complete else {}
    return values, list(problems.values())


def _place(location: tuple[str | int, ...], given: Any) -> tuple[str | int, ...]:
    """The part of pydantic's location that is a path in what was given, without the elements of sequences."""
    path: list[str | int] = [location[0]]
    for key in location[1:]:
        given = given.get(path[-1]) if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping):
            break
        if key in given:
            path.append(key)
    return tuple(path)


def _problem(
    kind: str,
    location: tuple[str | int, ...],
    place: tuple[str | int, ...],
    given: Mapping[str, Any],
    annotations: Mapping[str, Any],
) -> Problem:
    value: Any = given
    for key in place:
        value = value.get(key, NOTHING) if isinstance(value, Mapping) else NOTHING
    if kind == "missing" and (len(location) == 1 or isinstance(value, Mapping)):
        return Problem(place if len(location) == 1 else (*place, location[-1]), "is missing")
    known = annotations
    for key in place[:-1]:
        known = _fields_of(known.get(str(key)))
    if kind == "extra_forbidden":
        return Problem(place, "unknown setting", str(place[-1]), tuple(known))
    if kind in _SAID:
        return Problem(place, _SAID[kind], value)
    annotation = known.get(str(place[-1]))
    said = f"must be {words(annotation)}" if annotation is not None else "is not allowed"
    return Problem(place, said, value, tuple(choices(annotation)) if isinstance(value, str) else ())


_SAID = {
    "finite_number": "must be a finite number",
    "string_too_long": f"must be a text of at most {LONGEST:,} characters",
}


def _fields_of(annotation: Any) -> Mapping[str, Any]:
    """The fields of a dataclass in an annotation, for what stands beneath it."""
    base = bare(without_none(annotation)[0])
    return get_type_hints(base, include_extras=True) if dataclasses.is_dataclass(base) else {}


@cache
def _reserved_model() -> type[BaseModel]:
    fields: dict[str, Any] = {key: (writable(kind), None) for key, kind in RESERVED.items()}
    return create_model("Reserved", __config__=_STRICT, **fields)


@cache
def _fields_model(kind: type, complete: bool) -> type[BaseModel]:
    """The model of a dataclass's fields. complete: those without a default are required."""
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        fields[field.name] = (writable(hints[field.name]), ... if required and complete else None)
    return create_model(kind.__name__, __config__=_STRICT, **fields)


def writable(annotation: Any) -> Any:
    """The annotation as a recipe can write it: a list for a tuple, a mapping for a dataclass, a text for a path."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(writable(arguments[0]), *arguments[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(writable(member) for member in arguments)]  # noqa: UP007
    if origin is tuple:
        inner = tuple(one if one is Ellipsis else writable(one) for one in arguments)
        return Annotated[tuple[inner], BeforeValidator(_as_tuple)]
    if origin in (list, dict, Sequence, Mapping):
        return origin[tuple(writable(one) for one in arguments)]
    if annotation is str:
        return Annotated[str, Field(max_length=LONGEST)]
    if annotation is Path:
        return Annotated[Path, Strict(False)]
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        model = _fields_model(annotation, True)
        return Annotated[model, BeforeValidator(_as_mapping), AfterValidator(lambda made: _made(annotation, made))]
    return annotation


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_mapping(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _made(kind: type, made: BaseModel) -> Any:
    return kind(**{key: getattr(made, key) for key in made.model_fields_set})
