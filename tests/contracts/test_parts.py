"""Every registered part through every check of its role; and the smallest parts that other tests lean on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mutoscope.core.checks import Check, checks_of
from mutoscope.core.component import Component, Nested
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.contracts import NestedParts, check_part

torch.set_num_threads(1)
BUILT_IN = Catalog.load(strict=True)
TINY = Catalog.load([Path(__file__).parents[1] / "registry" / "tiny_parts.py"], strict=True, entries=[])
ROLES = BUILT_IN.roles()


def parts(catalog: Catalog) -> list[type[Component]]:
    return [part for role in ROLES for part in catalog.classes(role).values()]


def every_check(catalog: Catalog, word: str) -> Iterator[Any]:
    """Each check of each part, as a test of its own."""
    for part in parts(catalog):
        for check in checks_of(part, NestedParts(catalog, part)):
            yield pytest.param(check, id=f"{word}{part.role}-{part.name}-{check.name}")


@pytest.mark.parametrize("check", [*every_check(BUILT_IN, ""), *every_check(TINY, "tiny-")])
def test_part_holds_its_contract(check: Check) -> None:
    check.run()


def test_nothing_is_listed_twice() -> None:
    offered = Counter((part.role, part.name) for plugin in BUILT_IN.plugins for part in plugin.offered)
    assert [name for name, times in offered.items() if times > 1] == []
    assert set(offered) == {(part.role, part.name) for part in parts(BUILT_IN)}
    for part in parts(BUILT_IN):
        names = [check.name for check in checks_of(part)]
        assert len(names) == len(set(names)), part.name


def test_every_role_that_generates_has_parts_under_every_capability() -> None:
    """The checks of a capability are worth nothing where no part has it."""
    found = {word for part in BUILT_IN.classes("denoiser").values() for word in part.capabilities()}
    assert found >= {"LevelDenoiser", "TokenDenoiser", "OneStepDenoiser", "FrameDenoiser"}
    for role in ("autoencoder", "patchifier", "conditioner", "discriminator", "tower", "data"):
        assert len(BUILT_IN.classes(role)) > 1, role


def nested_words() -> Iterator[tuple[str, str, str]]:
    for part in parts(BUILT_IN):
        for setting in settings_of(part):
            for value in (setting.default, part.tiny.get(setting.name)):
                for one in value.values() if isinstance(value, dict) else [value]:
                    if isinstance(one, Nested) and setting.nested:
                        yield f"{part.role} {part.name}: {setting.name}", setting.nested, one.type


def test_nested_defaults_name_parts_that_there_are() -> None:
    lost = [f"{where} is {role} '{name}'" for where, role, name in nested_words() if not BUILT_IN.find(role, name)]
    assert not lost, lost
    assert len(list(nested_words())) > 8


def test_tiny_says_only_settings_that_there_are() -> None:
    for part in parts(BUILT_IN):
        unknown = set(part.tiny) - {setting.name for setting in settings_of(part)}
        assert not unknown, f"{part.role} {part.name}: {unknown}"


BROKEN = [
    ("patchifier", "cubes", "from_grid(values)", "from_grid(values * 2)", "unpatchify_is_the_inverse"),
    ("denoiser", "ids", "cache is not None else hidden[:, :-1]", "True else hidden", "logits_fit_the_codebook"),
    ("denoiser", "ids", "else hidden[:, :-1]", "else hidden[:, 1:]", "no_leak_from_later_ids"),
    (
        "denoiser",
        "generator",
        'self.net(noise["content"])',
        'self.net(0 * noise["content"])',
        "one_step_gives_a_sample",
    ),
    ("discriminator", "patches", "self.score(self.net(grid)", "self.score(0 * self.net(grid)", "scores_each_clip"),
]


@pytest.mark.parametrize(("role", "name", "sound", "broken", "check"), BROKEN, ids=[row[-1] for row in BROKEN])
def test_the_check_finds_a_broken_part(tmp_path: Path, role: str, name: str, sound: str, broken: str, check: str):
    """A check that no part can fail would check nothing."""
    text = (Path(__file__).parents[1] / "registry" / "tiny_parts.py").read_text()
    assert text.count(sound) == 1, sound
    path = tmp_path / "broken.py"
    path.write_text(text.replace(sound, broken))
    catalog = Catalog.load([path], strict=True, entries=[])
    part = catalog.find(role, name)
    assert part is not None
    assert check in {outcome.check for outcome in check_part(catalog, part) if not outcome.passed}
