"""`my_part` keeps its contract: it passes the checks that the built-in parts pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutoscope.core.checks import Check, checks_of
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.describe import describe
from mutoscope.registry.recipe import load_recipe

PLUGIN = Path(__file__).with_name("my_part.py")
CATALOG = Catalog.load([PLUGIN])
PART = CATALOG.classes("denoiser")["my_part"]


@pytest.mark.parametrize("check", checks_of(PART), ids=lambda check: check.name)
def test_contract(check: Check):
    check.run()


def test_a_recipe_names_it():
    told = describe(load_recipe("quickstart", ["denoiser=my_part"]), CATALOG)
    assert told["training_flops_per_step"] > 0
