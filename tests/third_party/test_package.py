"""A third party's package: installing it is all it takes."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Grid, Tokens

PACKAGE = Path(__file__).with_name("package")
ASK = """
import contextlib, io, json, sys
from mutoscope.commands.main import main
def said(words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main(words)
        except SystemExit as left:
            return {"code": left.code, "out": out.getvalue()}
print(json.dumps([said(words) for words in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip put the package, offline."""
    folder = tmp_path_factory.mktemp("third")
    source = shutil.copytree(PACKAGE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), str(source)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def ask(site: Path, folder: Path, *verbs: list[str]) -> list[dict]:
    """What the verbs say in a fresh process that has the package."""
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(verbs)], capture_output=True, text=True, cwd=folder, env=env
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_installing_is_all_it_takes(installed: Path, tmp_path: Path):
    """Listed, checked, described and trained, in one process, with nothing said but its parts' names."""
    shutil.copy(PACKAGE / "ripple.yaml", tmp_path)
    small = [
        "data.clips=16",
        "training.phases=[{learn: denoiser, steps: 2}]",
        "autoencoder=identity",
        "patchifier.size=[1, 4, 4]",
        "training.batch=4",
    ]
    words = ["denoiser.width=16", "denoiser.depth=1", "sampler.steps=2", "conditioner.width=16", *small]
    told = ask(
        installed,
        tmp_path,
        ["list", "--json"],
        ["plugins", "--json"],
        ["check", "ripple", "--json"],
        ["describe", "ripple.yaml", "--json"],
        ["train", "ripple.yaml", *words, "--out", "run"],
        ["sample", "run", "--prompt", "a red circle moves left"],
    )
    assert [one["code"] for one in told] == [0] * 6, told
    listed, plugins, checked, described = (json.loads(one["out"]) for one in told[:4])
    own = {(row["role"], row["name"]): row for row in listed if row["plugin"] == "ripple"}
    assert set(own) == {("denoiser", "ripple"), ("sampler", "adams")}
    assert own["denoiser", "ripple"]["capabilities"] == ["LevelDenoiser"]
    assert own["denoiser", "ripple"]["paper"] == "Lee-Thorp et al. 2022, arXiv:2105.03824"
    [plugin] = [row for row in plugins if row["plugin"] == "ripple"]
    assert (plugin["version"], plugin["origin"], plugin["status"]) == ("0.3.1", "mutoscope-ripple", "works")
    assert plugin["offers"] == ["denoiser ripple", "sampler adams"]
    assert {row["plugin"] for row in plugins} > {"ripple", "diffusion"}
    assert all(row["passed"] for row in checked)
    assert {"level_and_conditioning_matter", "gradient_reaches_every_weight"} <= {row["check"] for row in checked}
    assert (described["parts"]["denoiser"]["type"], described["parts"]["sampler"]["type"]) == ("ripple", "adams")
    assert described["parts"]["denoiser"]["flops"] > 0
    assert (tmp_path / told[5]["out"].strip()).stat().st_size > 100


class Gaussian(LevelProcess):
    """Straight paths from data of deviation 0.5."""

    kind = "flow"

    def coefficients(self, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1 - level, level


def test_its_sampler_is_of_second_order(monkeypatch: pytest.MonkeyPatch):
    """On Gaussian data the flow is known: x at level 0 is sigma times x at level 1, and halving the step quarters the
    error."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    from mutoscope_ripple.adams import Adams  # pyright: ignore[reportMissingImports]

    from mutoscope.core.facts import TokenFact

    sigma, grid = 0.5, Grid(1, 2, 2)

    def slope(tokens: Tokens, level: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        t = (level / 1000)[:, None, None]
        return tokens.filled() * (t - (1 - t) * sigma**2) / ((1 - t) ** 2 * sigma**2 + t**2)

    draw, canvas = Draw(0, "test", 0, (0, 1)), Tokens.canvas(grid, 2)
    noise = draw.like(canvas, width=3)
    errors = []
    for steps in (16, 32, 64, 128):
        sampler = Adams(TokenFact(3, grid, 3), Gaussian(), steps=steps)
        made = sampler.sample(slope, canvas, Conditioning(), draw).filled()  # type: ignore[arg-type]
        errors.append((made - sigma * noise).abs().max().item())
        assert sampler.calls(canvas) == steps
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert errors[-1] < 1e-3
    assert all(1.7 < order < 2.4 for order in orders), orders


BROKEN = {
    "import_error": ("import nowhere_to_be_found", "failed to import: ModuleNotFoundError"),
    "exits": ("import sys\nsys.exit(3)", "failed to import: SystemExit"),
    "raises": ("raise RuntimeError('not today')", "failed to import: RuntimeError"),
    "clash": (
        "from mutoscope import hookimpl\nfrom mutoscope_ripple.adams import Adams\n"
        "@hookimpl\ndef mutoscope_components():\n    return [Adams]",
        "failed to offer: ValueError",
    ),
    "rubbish": (
        "from mutoscope import hookimpl\n@hookimpl\ndef mutoscope_components():\n    return ['dit']",
        "failed to offer: TypeError",
    ),
    "hookless": ("a = 1", "failed to register: TypeError"),
}


def test_broken_packages_cost_only_themselves(installed: Path, tmp_path: Path):
    """Installed beside the good one: everything else works, and `plugins` says why each does not."""
    site = Path(shutil.copytree(installed, tmp_path / "site"))
    for name, (code, _) in BROKEN.items():
        (site / f"bad_{name}.py").write_text(code)
        info = site / f"bad_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bad-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mutoscope]\nzz_{name} = bad_{name}\n")
    listed, plugins, described = ask(
        site,
        tmp_path,
        ["list", "--json"],
        ["plugins", "--json"],
        ["describe", "quickstart", "denoiser=ripple", "--json"],
    )
    assert [one["code"] for one in (listed, plugins, described)] == [0, 0, 0]
    names = {(row["role"], row["name"]) for row in json.loads(listed["out"])}
    assert {("denoiser", "ripple"), ("sampler", "adams"), ("denoiser", "dit")} <= names
    rows = {row["plugin"]: row for row in json.loads(plugins["out"])}
    for name, (_, reason) in BROKEN.items():
        assert rows[f"zz_{name}"]["status"].startswith(reason), rows[f"zz_{name}"]
        assert rows[f"zz_{name}"]["offers"] == []
        assert rows[f"zz_{name}"]["version"] == "1.0"
    assert all(row["status"] == "works" for name, row in rows.items() if not name.startswith("zz_"))
