"""What a model says of real clips, and what single clips add to a distance."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mutoscope.core.metric import Material
from mutoscope.core.model import Model
from mutoscope.plugins.metrics.classified import Classified
from mutoscope.plugins.metrics.distances import kernel_distance, kernel_parts
from mutoscope.plugins.metrics.edited import coarse
from mutoscope.plugins.metrics.forecast import Forecast
from mutoscope.plugins.metrics.held_loss import HeldLoss
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe

torch.set_num_threads(1)


def assembled(text: str) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_text(text)
        return assemble(load_recipe(path), Catalog.load())


PICTURES = """
data: {type: shapes, frames: 1, size: [8, 8], laws: [still], clips: 20, held: 12}
autoencoder: identity
patchifier: {type: spacetime, size: [1, 1, 1]}
denoiser: {type: multiscale, width: 8, scales: 1, depth: 1, layers: 1, bumps: 2}
objective: {type: variational, chain: gaussian, steps: 8}
sampler: {type: ancestral, steps: 8}
tower: {type: vit, patch: 4, width: 8, depth: 1, heads: 1}
training: {batch: 4, steps: 1}
"""

MOVING = """
data: {type: shapes, frames: 5, size: [8, 8], laws: [agent], clips: 20, held: 12}
autoencoder: identity
patchifier: {type: spacetime, size: [1, 1, 1]}
conditioner: [action_code, {type: opening, frames: 2}]
denoiser: {type: lstm_composite, reads: 2, width: 16}
objective: {type: sequence, likelihood: gaussian}
sampler: {type: rollout, temperature: 0}
training: {batch: 4, steps: 1}
"""


def material(made: Any, count: int = 6) -> Material:
    real = made.dataset.batch("test", range(count))
    assert isinstance(real.video, Tensor) and isinstance(made.model, Model)
    return Material(real.video, real, real.video, "test", made.model.eval(), made.dataset)


def test_parts_of_a_kernel_distance_average_to_it() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 5)) + 0.3, rng.normal(size=(33, 5))
    value, low, high = kernel_distance(x, y)
    parts = kernel_parts(x, y)
    assert parts.mean() == pytest.approx(value, rel=1e-10)
    # One left out, by the definition.
    left = kernel_distance(np.delete(x, 3, axis=0), y)[0]
    assert parts[3] == pytest.approx(20 * value - 19 * left, rel=1e-9)
    assert parts.std(ddof=1) / np.sqrt(20) < (high - low) / 2 / 1.9


def test_classified_is_the_share_of_right_labels() -> None:
    made = assembled(PICTURES)
    seen = material(made)
    (score,) = Classified().score(seen)
    with torch.no_grad():
        logits = made.model.tower.features(seen.real.video).logits
    assert score.clips is not None
    assert score.clips.tolist() == (logits.argmax(-1) == seen.real.label).double().tolist()
    assert list(Classified().score(Material(seen.video, seen.real, seen.reference, "test"))) == []


def test_held_loss_is_the_objectives_own_and_pairs_models() -> None:
    made = assembled(PICTURES)
    seen = material(made)
    (first,) = HeldLoss(draws=64).score(seen)
    (again,) = HeldLoss(draws=64).score(seen)
    assert first.clips is not None and again.clips is not None and first.clips.tolist() == again.clips.tolist()
    # An untrained reverse chain of eight steps says less than nothing of a byte: bits per dimension of a density.
    assert np.isfinite(first.clips).all() and first.clips.std() > 0
    with torch.no_grad():
        for weight in made.model.denoiser.parameters():
            weight.mul_(3.0)
    (worse,) = HeldLoss(draws=64).score(seen)
    assert worse.clips is not None and worse.clips.mean() > first.clips.mean()


def test_forecast_scores_the_frames_that_follow_those_shown() -> None:
    made = assembled(MOVING)
    seen = material(made)
    real = seen.real.video
    assert isinstance(real, Tensor)
    scores = {score.name: score.clips for score in Forecast(frames=2).score(seen)}
    still = (real[:, :, 1:2] - real[:, :, 2:]).double().square().mean(dim=(1, 2, 3, 4))
    assert scores["forecast.copied"] == pytest.approx(still.numpy())
    other = Material(seen.video, seen.real, seen.reference, "test", made.model, made.dataset, seed=1)
    again = {score.name: score.clips for score in Forecast(frames=2).score(other)}
    assert scores["forecast"] == pytest.approx(again["forecast"])  # no chance at temperature 0: what is shown decides
    assert len(set(np.round(scores["forecast"], 6).tolist())) > 1


EDITING = """
data: {type: shapes, frames: 1, size: [16, 16], laws: [still], clips: 20, held: 24}
autoencoder: identity
patchifier: {type: spacetime, size: [1, 4, 4]}
denoiser: {type: dit, width: 16, depth: 1, heads: 2}
objective: ddpm
sampler: {type: sdedit, strength: STRENGTH, steps: 4}
training: {batch: 4, steps: 1}
metrics: [edited]
"""


def test_edited_holds_edits_of_coarse_clips_against_real_ones() -> None:
    found = {}
    for strength in ("0", "0.5"):
        made = assembled(EDITING.replace("STRENGTH", strength))
        found[strength] = {score.name: score for score in made.metrics[0].score(material(made, 12))}
    kept, noised = found["0"], found["0.5"]
    # Without noise on the way the coarse clip comes back.
    assert kept["edited.far"].clips == pytest.approx(0, abs=1e-5)
    assert kept["edited"].value == pytest.approx(kept["edited.coarse"].value, rel=1e-4)
    assert noised["edited.far"].clips.min() > 0.05
    assert noised["edited.coarse"].value == kept["edited.coarse"].value
    assert noised["edited"].parts.mean() == pytest.approx(noised["edited"].value)


def test_coarse_clips_have_the_means_of_blocks() -> None:
    video = torch.randn(2, 3, 2, 8, 12)
    rough = coarse(video, 4)
    assert rough[1, 2, 1, 4:8, 8:12] == pytest.approx(video[1, 2, 1, 4:8, 8:12].mean().expand(4, 4), abs=1e-6)
    assert torch.allclose(coarse(rough, 4), rough, atol=1e-6)
