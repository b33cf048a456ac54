"""Every part of the plugin holds the contract of its role."""

from __future__ import annotations

import pytest

from mutoscope.core.checks import checks_of
from mutoscope.plugins.recurrent.hooks import mutoscope_components


@pytest.mark.parametrize("part", mutoscope_components(), ids=lambda part: part.name)
def test_part_holds_its_contract(part):
    for check in checks_of(part):
        try:
            check.run()
        except AssertionError as error:
            raise AssertionError(f"{part.name}: {check.name}: {error}") from error
