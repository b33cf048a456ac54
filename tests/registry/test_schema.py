"""Constructors as contracts, and settings checked against them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import pytest

from mutoscope.core.component import Nested
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import Acted, ClipFact, Continuous, Regular, TokenFact
from mutoscope.core.metric import Metric
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count
from mutoscope.core.training.plan import Budget, Descent
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.schema import (
    NOTHING,
    DefinitionError,
    FactNeed,
    check_definition,
    check_fields,
    check_settings,
    fact_needs,
    json_schema,
    part_named,
    settings_of,
    settings_table,
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load([Path(__file__).with_name("parts.py")], strict=True, entries=[])


@pytest.fixture(scope="module")
def wide(catalog):
    return catalog.find("denoiser", "wide")


@pytest.fixture(scope="module")
def duel(catalog):
    return catalog.find("objective", "duel")


def problems(cls, **given: Any) -> list[str]:
    return [f"{'.'.join(map(str, p.path))}: {p.problem}{p.suggestion}" for p in check_settings(cls, given)[1]]


# Reading


def test_facts_are_the_positional_parameters(wide):
    tokens, process, given = fact_needs(wide)
    assert tokens == FactNeed("tokens", TokenFact, (Continuous, Regular), False)
    assert process == FactNeed("process", LevelProcess)
    assert given.optional


def test_settings_are_the_keywords_with_their_docs(wide):
    settings = {setting.name: setting for setting in settings_of(wide)}
    assert settings["width"].doc == "features of a token"
    assert settings["low"].doc == settings["high"].doc == "bounds of the levels that it looks at"
    assert settings["window"].doc == "of local attention; null for none"
    assert settings["window"].optional
    assert settings["bias"].default is True


def test_keywords_of_a_role_are_nested_parts(duel):
    settings = {setting.name: setting for setting in settings_of(duel)}
    assert settings["weight"].nested is None
    assert (settings["judge"].nested, settings["judge"].optional, settings["judge"].many) == (
        "discriminator",
        False,
        False,
    )
    assert (settings["second"].nested, settings["second"].optional) == ("discriminator", True)
    assert settings["judges"].many
    assert settings["judges"].part is Discriminator


def test_a_part_without_a_constructor_has_no_settings(catalog):
    assert settings_of(catalog.find("denoiser", "ids")) == fact_needs(catalog.find("denoiser", "ids")) == []


class Bad(Metric):
    def score(self, material):
        return []


class Kwargs(Bad):
    def __init__(self, **kwargs: Any) -> None: ...


class Args(Bad):
    def __init__(self, *args: TokenFact) -> None: ...


class Untyped(Bad):
    def __init__(self, *, width=3) -> None: ...


class Bag(Bad):
    def __init__(self, width: int) -> None: ...


class NoDefault(Bad):
    def __init__(self, *, judge: Discriminator) -> None: ...


class WrongDefault(Bad):
    def __init__(self, *, judge: Discriminator = "patches") -> None: ...  # pyright: ignore


class Reserved(Bad):
    def __init__(self, *, frozen: bool = False) -> None: ...


class OutOfBounds(Bad):
    def __init__(self, *, width: Count = 0) -> None: ...


class Unknown(Bad):
    def __init__(self, *, width: Widht = 0) -> None: ...  # noqa: F821 # pyright: ignore


class Optional(Bad):
    def __init__(
        self, clip: Annotated[ClipFact, Acted] | None, tokens: Annotated[TokenFact | None, Continuous]
    ) -> None: ...


@pytest.mark.parametrize("cls", [Kwargs, Args, Untyped, Bag, NoDefault, WrongDefault, Reserved, OutOfBounds, Unknown])
def test_a_constructor_that_is_no_contract_is_refused(cls):
    with pytest.raises(DefinitionError, match=cls.__name__):
        check_definition(cls)


def test_facts_may_be_optional_on_either_side_of_their_needs():
    assert [(need.optional, need.needs) for need in fact_needs(Optional)] == [(True, (Acted,)), (True, (Continuous,))]


# Checking


def test_values_arrive_as_the_constructor_takes_them(wide):
    given = {"type": "wide", "frozen": True, "weights": None, "scale": 2, "window": [4, 4], "widths": [1, 2, 3]}
    values, wrong = check_settings(wide, given)
    assert wrong == []
    assert values == {"scale": 2.0, "window": (4, 4), "widths": (1, 2, 3)}
    assert isinstance(values["scale"], float)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("width", 0, "width: must be a whole number of at least 1"),
        ("width", True, "width: must be a whole number of at least 1"),
        ("width", 1.0, "width: must be a whole number of at least 1"),
        ("width", "64", "width: must be a whole number of at least 1"),
        ("width", None, "width: must be a whole number of at least 1"),
        ("scale", True, "scale: must be a number of more than 0"),
        ("scale", math.inf, "scale: must be a finite number"),
        ("shift", math.nan, "shift: must be a finite number"),
        ("shift", "x", "shift: must be a number, or null"),
        ("high", 1.5, "high: must be a number of at least 0 and at most 1"),
        ("bias", 1, "bias: must be true or false"),
        ("bias", "yes", "bias: must be true or false"),
        ("window", [1], "window: must be a list of 2, each a whole number of at least 1, or null"),
        ("window", [1, 0], "window: must be a list of 2, each a whole number of at least 1, or null"),
        ("window", {"a": 1}, "window: must be a list of 2, each a whole number of at least 1, or null"),
        ("widths", 8, "widths: must be a list, each a whole number of at least 1"),
        ("mixing", "jont", 'mixing: must be one of joint, factorised, windowed; did you mean "joint"?'),
        ("label", 3, "label: must be a text"),
        ("label", "x" * 20000, "label: must be a text of at most 10,000 characters"),
        ("frozen", "yes", "frozen: must be true or false"),
        ("weights", 3, "weights: must be a text, or null"),
        ("widht", 3, 'widht: unknown setting; did you mean "width"?'),
        ("frosen", True, 'frosen: unknown setting; did you mean "frozen"?'),
        ("process", 3, 'process: unknown setting; did you mean "precision"?'),
    ],
)
def test_each_mistake_is_one_problem(wide, key, value, said):
    assert problems(wide, **{key: value}) == [said]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_recipe(wide):
    told = problems(wide, widht=3, width=0, scale="x", bias=False)
    assert [line.partition(":")[0] for line in told] == ["widht", "width", "scale"]


def test_what_is_right_is_still_given_beside_what_is_wrong(wide):
    values, wrong = check_settings(wide, {"width": 0, "depth": 3})
    assert values == {"depth": 3}
    assert len(wrong) == 1


def test_a_setting_without_a_default_is_required(catalog):
    _, (missing,) = check_settings(catalog.find("sampler", "steps_"), {"guidance": 2})
    assert (missing.path, missing.problem, missing.got) == (("steps",), "is missing", NOTHING)


def test_nested_parts_are_always_there(duel):
    values, wrong = check_settings(duel, {})
    assert wrong == []
    assert values == {"judge": Nested("patches", {"width": 16}), "second": None, "judges": {"a": Nested("patches")}}
    given = {"judge": "patches", "second": {"type": "patches", "width": 3, "frozen": True}, "judges": {"b": "patches"}}
    assert check_settings(duel, given) == (
        {
            "judge": Nested("patches"),
            "second": Nested("patches", {"width": 3, "frozen": True}),
            "judges": {"b": Nested("patches")},
        },
        [],
    )


def test_settings_alone_change_those_of_the_default(duel):
    values, wrong = check_settings(duel, {"judge": {"slope": 0.1}, "judges": {"a": {"width": 4}}})
    assert wrong == []
    assert values["judge"] == Nested("patches", {"width": 16, "slope": 0.1})
    assert values["judges"] == {"a": Nested("patches", {"width": 4})}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"judge": None}, "judge"),
        ({"judge": 3}, "judge"),
        ({"judge": "os.system"}, "judge.type"),
        ({"judge": "../patches"}, "judge.type"),
        ({"second": {"width": 3}}, "second.type"),
        ({"second": {"tpye": "patches"}}, "second.tpye"),
        ({"judges": "patches"}, "judges"),
        ({"judges": {"type": "patches"}}, "judges"),
        ({"judges": {"b": ["patches"]}}, "judges.b"),
    ],
)
def test_nested_parts_are_words_or_mappings_with_a_type(duel, given, path):
    (wrong,) = check_settings(duel, given)[1]
    assert ".".join(map(str, wrong.path)) == path


@pytest.mark.parametrize("word", ["os.system", "../dit", "/etc/passwd", "Dit", "", "dit v2", "ｄit", "a" * 10 + "\n"])
def test_a_part_is_never_named_by_a_path(word):
    named, (wrong,) = part_named(word)
    assert named is None
    assert wrong.path == ("type",)


def test_fields_of_a_dataclass_are_checked_the_same_way():
    values, wrong = check_fields(Descent, {"steps": 5, "betas": [0.9, 0.95], "budget": {"flops": 10}})
    assert wrong == []
    assert values == {"steps": 5, "betas": (0.9, 0.95), "budget": Budget(flops=10.0)}
    _, wrong = check_fields(Descent, {"lr": 0, "stpes": 5, "budget": {"flosp": 1}, "schedule": "cosin"})
    told = [f"{'.'.join(map(str, p.path))}: {p.problem}{p.suggestion}" for p in wrong]
    assert sorted(told) == [
        'budget.flosp: unknown setting; did you mean "flops"?',
        "lr: must be a number of more than 0",
        'schedule: must be one of constant, cosine, linear, rsqrt; did you mean "cosine"?',
        'stpes: unknown setting; did you mean "steps"?',
    ]


# For editors and readers


def test_the_json_schema_knows_every_part_and_key(catalog):
    schema = json.loads(json.dumps(json_schema(catalog)))
    defs = schema["$defs"]
    assert defs["denoiser"]["anyOf"][0] == {"enum": ["ids", "wide"]}
    assert {"$ref": "#/$defs/denoiser.wide"} in defs["denoiser"]["anyOf"]
    wide = defs["denoiser.wide"]
    assert wide["additionalProperties"] is False
    assert wide["properties"]["type"] == {"const": "wide"}
    assert wide["properties"]["width"] == {
        "type": "integer",
        "minimum": 1,
        "default": 64,
        "description": "features of a token",
    }
    assert wide["properties"]["mixing"]["enum"] == ["joint", "factorised", "windowed"]
    assert {"weights", "frozen"} <= set(wide["properties"])
    assert defs["sampler.steps_"]["required"] == ["type", "steps"]
    assert all("enum" not in option for option in defs["sampler"]["anyOf"])
    assert defs["objective.duel"]["properties"]["judge"]["anyOf"] == [{"$ref": "#/$defs/discriminator"}]
    assert {"phases", "lr", "budget"} <= set(schema["properties"]["training"]["properties"])
    assert all(ref.removeprefix("#/$defs/") in defs for ref in references(schema))


def references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [ref for one in schema for ref in references(one)]
    if isinstance(schema, dict):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [ref for one in schema.values() for ref in references(one)]
    return []


def test_the_table_has_a_row_per_setting(wide):
    table = settings_table(wide)
    assert "| `width` | a whole number of at least 1 | `64` | features of a token |" in table
    assert len(table.splitlines()) == 2 + len(settings_of(wide))
