"""YAML 1.2 as plain values with lines."""

from __future__ import annotations

import math
import time

import pytest

from mutoscope.core.errors import InputError
from mutoscope.registry import documents
from mutoscope.registry.documents import Node, merged, read, replaced, without, write


def plain(text: str):
    return read(text, "a.yaml").plain()


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read(text, "a.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        ("-.5", -0.5),
        ("7.", 7.0),
        ("012", 12),
        ("0o17", 15),
        ("0xff", 255),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("~", None),
        ("null", None),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("nan", "nan"),
        ("-.inf", -math.inf),
        ('"1"', "1"),
        ("'true'", "true"),
        ("[1, [2, {a: b}]]", [1, [2, {"a": "b"}]]),
        ("{1: a, true: b}", {"1": "a", "true": "b"}),
        ("größe: 轉", {"größe": "轉"}),
    ],
)
def test_scalars_are_those_of_the_core_schema(text, value):
    assert plain(text) == value
    assert type(plain(text)) is type(value)


def test_nan_is_a_number_that_is_none():
    assert math.isnan(plain(".nan"))


def test_every_value_knows_its_line():
    root = read("a:\n  b: 1\n  c:\n  - x\n  - {d: 2}\n", "f.yaml")
    lines = {path: node_at(root, path).place.line for path in ["", "a", "a.b", "a.c", "a.c.0", "a.c.1", "a.c.1.d"]}
    assert lines == {"": 1, "a": 1, "a.b": 2, "a.c": 3, "a.c.0": 4, "a.c.1": 5, "a.c.1.d": 5}


def node_at(node: Node, path: str) -> Node:
    for key in path.split(".") if path else []:
        node = node.child(key)
    return node


def test_aliases_are_copies():
    assert plain("a: &x {b: [1]}\nc: *x\n") == {"a": {"b": [1]}, "c": {"b": [1]}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3: duplicate key 'a', already in line 1"),
        ("a: !!python/object/apply:os.system [id]\n", "a.yaml:1: tags are not allowed"),
        ("a: !!str 1\n", "a.yaml:1: tags are not allowed"),
        ("%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!name:os.system x\n", "tags are not allowed"),
        ("!!python/name:os.system x: 1\n", "a key must be a word"),
        ("a: 1\n!!python/name:os.system x: 1\n", "a key must be a word"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("a: *b\n", "a.yaml:1: alias 'b' refers to nothing"),
        ("a: &b [*b]\n", "a.yaml:1: alias 'b' refers to itself"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2: a second document begins"),
        ("", "a.yaml:1: is empty"),
        ("# only a comment\n", "is empty"),
        ("a: [1, 2\nb: 3\n", "is not YAML"),
        ("a: 'x\n", "is not YAML"),
        ("a: b: c\n", "a.yaml:1: is not YAML"),
        ("\ta: 1\n", "is not YAML"),
        ("a: \x01\n", "is not YAML"),
        ("a: " + "9" * 5000 + "\n", "a number has more than 100 digits"),
        ("a: " + "[" * 5000, "is nested deeper than 40 levels"),
        ("- " * 500 + "x", "is nested deeper than 40 levels"),
        ("a: [" + "1," * 20000 + "]", "has more than 10,000 values"),
        ("x" * (documents.BYTES + 1), "is larger than 200,000 bytes"),
    ],
)
def test_what_no_recipe_needs_is_refused_with_its_line(text, said):
    start = time.perf_counter()
    assert said in refused(text)
    assert time.perf_counter() - start < 20


def test_an_alias_bomb_is_refused_at_once():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
    )
    start = time.perf_counter()
    assert "aliases written out" in refused(bomb)
    assert time.perf_counter() - start < 20


def test_written_data_reads_as_the_same():
    data = {
        "a": 1e-5, "b": 1e22, "c": "1e5", "d": "true", "e": "", "f": None, "g": [1, 2.0, "x: y", "- z"], "h": {},
        "i": {"j": [], "k": "a\nb\n", "l": "  x "}, "m": "0o7", "n": "012", "o": "1_0", "p": "~", "q": "轉", "r": "*a",
        "s": -0.0, "t": "yes", "u": "x" * 300, "v": "#", "w": "1.", "y": ".5", "z": "0x1f", "+1": "+1", "e3": "1e3",
        "long": " ".join(["word"] * 60), "inf": math.inf, "nul": "Null", "eq": "=", "merge": "<<",
    }  # fmt: skip
    assert plain(write(data)) == data
    assert list(plain(write(data))) == list(data)


# Laying one over another


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"d": {"type": "dit", "w": 1}}, {"d": {"type": "unet", "x": 2}}, {"d": {"type": "unet", "x": 2}}),
        ({"d": {"type": "dit", "w": 1}}, {"d": {"type": "dit", "x": 2}}, {"d": {"type": "dit", "w": 1, "x": 2}}),
        ({"d": {"type": "dit", "w": 1}}, {"d": {"x": 2}}, {"d": {"type": "dit", "w": 1, "x": 2}}),
        ({"d": {"type": "dit", "w": 1}}, {"d": "unet"}, {"d": "unet"}),
        ({"d": {"type": "dit", "w": 1}}, {"d": "dit"}, {"d": {"type": "dit", "w": 1}}),
        ({"d": "dit"}, {"d": {"w": 1}}, {"d": {"type": "dit", "w": 1}}),
        ({"d": "dit"}, {"d": {"type": "unet"}}, {"d": {"type": "unet"}}),
        ({"t": {"steps": 5, "lr": 1}}, {"t": {"budget": {"flops": 2}}}, {"t": {"lr": 1, "budget": {"flops": 2}}}),
        ({"t": {"steps": 5}}, {"t": {"budget": 1, "steps": 2}}, {"t": {"steps": 2, "budget": 1}}),
        ({"a": 1}, {"a": None}, {"a": None}),
    ],
)
def test_merging(old, new, result):
    assert merged(Node.of(old), Node.of(new)).plain() == result


@pytest.mark.parametrize(
    ("path", "value", "result"),
    [
        ("d.w", 2, {"d": {"type": "dit", "w": 2}, "l": [{"steps": 1}, "x"], "s": "heun"}),
        ("s.steps", 2, {"d": {"type": "dit", "w": 1}, "l": [{"steps": 1}, "x"], "s": {"type": "heun", "steps": 2}}),
        ("l.0.steps", 2, {"d": {"type": "dit", "w": 1}, "l": [{"steps": 2}, "x"], "s": "heun"}),
        ("l.0.budget.flops", 2, {"d": {"type": "dit", "w": 1}, "l": [{"budget": {"flops": 2}}, "x"], "s": "heun"}),
        ("l.1", "y", {"d": {"type": "dit", "w": 1}, "l": [{"steps": 1}, "y"], "s": "heun"}),
        ("n.m", 1, {"d": {"type": "dit", "w": 1}, "l": [{"steps": 1}, "x"], "s": "heun", "n": {"m": 1}}),
    ],
)
def test_replacing_at_a_path(path, value, result):
    old = {"d": {"type": "dit", "w": 1}, "l": [{"steps": 1}, "x"], "s": "heun"}
    assert replaced(Node.of(old), tuple(path.split(".")), Node.of(value)).plain() == result


@pytest.mark.parametrize("path", ["l.2", "l.x", "l.-1", "n.0.x", "d.w.x"])
def test_a_path_to_nowhere_is_one_error(path):
    old = Node.of({"d": {"type": "dit", "w": 1}, "l": [1, 2], "n": 3})
    with pytest.raises(InputError, match=path.split(".")[0]):
        replaced(old, tuple(path.split(".")), Node.of(1))


def test_removing_what_stands_at_a_path():
    old = Node.of({"a": {"b": 1, "c": 2}, "l": [1, {"x": 1, "y": 2}]})
    assert without(old, ("a", "b")).plain() == {"a": {"c": 2}, "l": [1, {"x": 1, "y": 2}]}
    assert without(old, ("l", 1, "x")).plain() == {"a": {"b": 1, "c": 2}, "l": [1, {"y": 2}]}
    assert without(old, ("l", 0)).plain()["l"] == [{"x": 1, "y": 2}]
    assert without(old, ("q", "b")) == old
