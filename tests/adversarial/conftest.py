"""Parts built by hand, small, with the facts that they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mutoscope.core.component import Component, Facts, Nested
from mutoscope.core.facts import ClipFact, ConditioningFact, FieldFact, TokenFact
from mutoscope.core.process import OneStepProcess
from mutoscope.core.values import Grid
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import fact_needs

GRID = Grid(4, 8, 8)
CLIP = ClipFact(3, 4, (8, 8), classes=4)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="session")
def facts() -> Facts:
    """Colour clips of four frames of 8 x 8 pixels, told nothing."""
    token = TokenFact(3, GRID, 3)
    return Facts((CLIP, token, ConditioningFact(), FieldFact(3, 4, (8, 8)), OneStepProcess()))


@pytest.fixture(scope="session")
def make(catalog: Catalog, facts: Facts) -> Callable[..., Any]:
    """A part of a role by name, with settings, wired to the facts; with those of `given` in their place."""

    def made(role: str, name: str, given: Facts | None = None, **settings: Any) -> Any:
        cls = catalog.find(role, name)
        assert cls is not None, name
        wires = {need.name: (given or facts).get(need.fact) for need in fact_needs(cls)}
        return cls(**wires, **settings)

    return made


@pytest.fixture(scope="session")
def nested(catalog: Catalog) -> Callable[[Nested, Facts], Any]:
    """Builds a nested part for the contract checks."""

    def built(said: Nested, lent: Facts) -> Any:
        roles = ("discriminator", "denoiser")
        cls: type[Component] = next(c for role in roles if (c := catalog.find(role, said.type)) is not None)
        return cls(**{need.name: lent.get(need.fact) for need in fact_needs(cls)}, **said.settings)

    return built
