"""The mutants of `mutants.py` have their place in the source, and each is found."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

spec = spec_from_file_location("mutants", Path(__file__).with_name("mutants.py"))
assert spec is not None and spec.loader is not None
mutants = sys.modules["mutants"] = module_from_spec(spec)
spec.loader.exec_module(mutants)


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_a_mutant_has_its_place(name: str):
    """Else the command would test nothing."""
    mutant = mutants.MUTANTS[name]
    assert (mutants.ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new
    for test in mutant.tests:
        assert (mutants.ROOT / test.partition("::")[0]).is_file()


@pytest.mark.slow
def test_every_mutant_is_found(capsys: pytest.CaptureFixture):
    assert mutants.main([]) == 0, capsys.readouterr().out
