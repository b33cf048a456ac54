"""What is drawn, against closed forms."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from mutoscope.core.checks import checks_of
from mutoscope.plugins.world.dataset import Shapes
from mutoscope.plugins.world.drawing import CODES, EXTENT, coverage, draw, half_width
from mutoscope.plugins.world.events import EVENTS_BY_NAME
from mutoscope.plugins.world.laws import LAWS_BY_NAME
from mutoscope.plugins.world.state import BACKGROUND, PALETTE, SHAPES

ALL_LAWS = tuple(LAWS_BY_NAME)
STORED = "29aa6600d21a"
"""Of the first clips of the test split, whatever the machine, process and order."""


@pytest.mark.parametrize("rows", [16, 32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_the_area_of_its_disc(shape: str, rows: int) -> None:
    """pi r^2, wherever the centre lies in a pixel: size is no cue to shape."""
    rng = np.random.default_rng(0)
    radius, centre = rng.uniform(0.1, 0.25, 200), rng.uniform(0.4, 0.6, (200, 2))
    covered, _ = coverage(np.full(200, CODES[shape]), radius, centre, rows)
    error = covered.sum((1, 2)) / rows**2 / (math.pi * radius**2) - 1
    assert np.abs(error).max() < 0.003
    assert covered.min() >= 0
    assert covered.max() <= 1 + 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_the_centroid_of_what_is_drawn_is_the_position(shape: str) -> None:
    """To 0.03 pixels, which is what averaging over a pixel does to straight edges."""
    rng = np.random.default_rng(1)
    radius, centre = rng.uniform(0.14, 0.19, 100), rng.uniform(0.4, 0.6, (100, 2))
    covered, corner = coverage(np.full(100, CODES[shape]), radius, centre, 16)
    places = np.arange(covered.shape[1]) + 0.5
    for axis in (0, 1):
        found = (covered.sum(2 - axis) * places).sum(1) / covered.sum((1, 2)) + corner[:, axis]
        assert np.abs(found - centre[:, axis] * 16).max() < 0.03


def test_widths_are_those_of_the_shapes() -> None:
    """A disc's chord; a square's side sqrt(pi); a triangle as wide as its edge at the foot and a point at the top."""
    edge = math.sqrt(4 * math.pi / math.sqrt(3))
    height = edge * math.sqrt(3) / 2
    assert half_width("circle", np.array([0.0, 0.6, 1.0])) == pytest.approx([1, 0.8, 0])
    assert half_width("square", np.array([0.0])) == pytest.approx([math.sqrt(math.pi) / 2])
    assert half_width("triangle", np.array([-2 * height / 3, height / 3])) == pytest.approx([0, edge / 2], abs=1e-6)
    assert EXTENT["triangle"] == pytest.approx((-2 * height / 3, height / 3))


def test_a_wider_frame_shows_more_of_the_same_world() -> None:
    narrow = Shapes(frames=2, size=(16, 16)).worlds[0].scene("test", 0)
    wide = draw([replace(narrow, size=(16, 24))])
    assert np.array_equal(wide[:, :, :, :16], draw([narrow]))


def test_pixels_are_mixtures_of_ground_and_paint() -> None:
    scene = Shapes().worlds[0].scene("test", 3)
    pixels = draw([scene])[0].astype(float)
    ground, paint = np.array(BACKGROUND, float), np.array(PALETTE[scene.things[0].colour], float)
    share = ((pixels - ground) @ (paint - ground)) / np.square(paint - ground).sum()
    assert np.abs(pixels - ground - share[..., None] * (paint - ground)).max() <= 1.0


def fingerprint(order: list[int]) -> str:
    """Of the clips 0 to 11 under every law and event, drawn in an order, in batches of five."""
    world = Shapes(laws=ALL_LAWS, events=("none", *EVENTS_BY_NAME), objects=(1, 2), held=12)  # type: ignore[arg-type]
    made = {}
    for i in range(0, 12, 5):
        batch = world.batch("test", order[i : i + 5])
        assert isinstance(batch.video, Tensor)
        assert batch.prompt is not None
        for number, video, text in zip(batch.clips, batch.video, batch.prompt, strict=True):
            pixels = ((video + 1) * 127.5).round().byte().numpy().tobytes()
            made[number] = hashlib.sha256(pixels + text.encode()).hexdigest()
    return hashlib.sha256("".join(made[i] for i in range(12)).encode()).hexdigest()[: len(STORED)]


def test_a_clip_depends_on_nothing_but_its_number() -> None:
    assert fingerprint(list(range(12))) == STORED
    assert fingerprint([7, 3, 11, 0, 5, 1, 2, 10, 4, 9, 8, 6]) == STORED


def test_another_process_draws_the_same() -> None:
    code = (
        f"import importlib.util as u; s = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(s);"
        "s.loader.exec_module(m); print(m.fingerprint(list(range(12))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == STORED


@pytest.mark.parametrize("check", checks_of(Shapes), ids=lambda c: c.name)
def test_shapes_keeps_the_contract(check) -> None:
    check.run()
