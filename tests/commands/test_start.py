"""How fast the command line starts: what it imports, and how long it takes against torch's own import."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

RUN = "import sys\nfrom mutoscope.commands.main import main\ntry:\n    main({words})\nexcept SystemExit:\n    pass\n"
HEAVY = ("scipy", "timm", "open_clip", "diffusers", "transformers", "torchvision", "matplotlib", "PIL", "jinja2")
"""Libraries that cost more than a tenth of a second each and that no verb needs to say what there is."""


def modules(words: list[str]) -> set[str]:
    """Top-level modules that a verb imports."""
    code = RUN.format(words=words) + "print('|' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(said.stdout.rpartition("|")[2].split())


def test_help_imports_nothing_heavy():
    assert not {"torch", "numpy", "pydantic", "typer", *HEAVY} & modules(["--help"])


def test_list_imports_torch_and_nothing_heavier():
    found = modules(["list"])
    assert "torch" in found
    assert not set(HEAVY) & found


@pytest.mark.parametrize("words", [["describe", "nothing"], ["train", "quickstart", "denoiserr=dit"], ["lineage"]])
def test_what_the_recipe_alone_shows_needs_no_torch(words: list[str]):
    assert "torch" not in modules(words)


@pytest.mark.slow
def test_starts_in_proportion_to_torch():
    """Under 2 s for `list` and 0.4 s for `--help`, where importing torch takes 1 s: medians of interleaved runs."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return time.perf_counter() - start

    runs = [
        (seconds("import torch"), seconds(RUN.format(words=["list"])), seconds(RUN.format(words=["--help"])))
        for _ in range(9)
    ]
    lists, helps = (sorted(run[i] / run[0] for run in runs)[4] for i in (1, 2))
    assert lists < 2
    assert helps < 0.4
