"""Resumed at any step: the same clips in the same order, and the same bits of everything at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import final

import pytest
import torch

from mutoscope.core.dataset import Dataset
from mutoscope.core.facts import ClipFact
from mutoscope.core.model import Model
from mutoscope.core.storage.checkpoint import listed
from mutoscope.core.training.feed import Feed, Share
from mutoscope.core.training.turns import Turns
from mutoscope.core.values import Batch
from mutoscope.registry.runs import load

DATA = "data: {type: shapes, frames: 5, size: [8, 8], clips: 12, held: 8}\n"
TRAINING = "batch: 4, steps: 9, warmup: 2, checkpoint_every: 1, keep: 99, log_every: 1"
"""Epochs of three steps."""
DIT = """
autoencoder: identity
patchifier: {type: spacetime, size: [1, 4, 4]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: dit, width: 16, depth: 1, heads: 2}
objective: flow
sampler: {type: euler, steps: 2}
"""
RECIPES = {
    "plain": DATA + DIT + f"training: {{{TRAINING}, ema: 0.9}}\n",
    "accumulated": DATA + DIT + f"training: {{{TRAINING}, ema: 0.9, accumulate: 2, schedule: linear}}\n",
    "uncached": DATA + DIT + f"training: {{{TRAINING}, ema: 0.9, cache: 0, optimizer: lion}}\n",
    "mixed sizes": "data: {type: shapes, sizes: [[3, 8, 8], [5, 8, 16], [1, 8, 8]], clips: 12, held: 4}\n"
    + DIT.replace("type: dit", "type: navit").replace("type: spacetime", "type: navit")
    + f"training: {{{TRAINING}, ema: 0.9}}\n",
    "two players": DATA.replace("frames: 5, size: [8, 8]", "frames: 8, size: [8, 8]")
    + """
autoencoder: identity
patchifier: {type: spacetime, size: [1, 1, 1]}
denoiser: {type: vgan, code: 4, width: 2, doublings: 2}
objective:
  type: adversarial
  loss: hinge
  discriminators: {video: {type: conv3d, width: 2, depth: 2}, frames: {type: patch_frames, width: 2, depth: 1}}
sampler: one_step
"""
    + f"training: {{{TRAINING}, ema: 0.5, turns: {{discriminator: {{lr: 2.0e-4, betas: [0.5, 0.9]}}}}}}\n",
    "two phases": DATA
    + DIT.replace("autoencoder: identity", "autoencoder: {type: causal_kl, channels: 4, stride: [2, 4, 4], width: 8, depth: 1}")
    .replace("size: [1, 4, 4]", "size: [1, 1, 1]")
    + f"training: {{{TRAINING.replace('steps: 9, ', '')}, ema: 0.9, phases: "
    "[{learn: autoencoder, objective: reconstruction, steps: 4}, {learn: denoiser, steps: 5}]}\n",
}  # fmt: skip
EDGES = {"two phases": (3, 4, 5), "plain": (2, 3, 4)}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["edges", "every step"])
def test_resumed_at_a_step_it_ends_in_the_same_bits(name, every, train, made_in, trials, tmp_path):
    """Around the edge of an epoch and of a phase, or at every step: parameters, optimizers, average and its counter,
    state and journal."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPES[name])
    whole = train(recipe, tmp_path / "whole" / "run")
    expected, steps = made_in(whole), listed(whole / "checkpoints")
    chosen = range(1, len(steps)) if every else EDGES.get(name, (3, 4))
    with trials(f"resumed at a step: {name}", least=len(chosen)) as tally:
        for step in chosen:
            folder = Path(shutil.copytree(whole, tmp_path / f"from-{step}" / "run"))
            for path in listed(folder / "checkpoints"):
                if int(path.name[5:]) > step:
                    shutil.rmtree(path)
            train(recipe, folder)
            differs = [key for key, value in made_in(folder).items() if value != expected[key]]
            tally.tried(f"from step {step}: other {', '.join(differs)}" if differs else "")


# The order of clips


@final
class Numbered(Dataset):
    """Clips that remember that they were asked for, of one size or several."""

    name = "numbered"
    fixed = False

    def __init__(self, clips: int, mixed: bool) -> None:
        self.clips, self.mixed = clips, mixed
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def length(self, split: str) -> int:
        return self.clips

    def batch(self, split: str, indices: Sequence[int], epoch: int = 0) -> Batch:
        self.asked.append((epoch, tuple(indices)))
        videos = [torch.full((3, 1 + i % 3 if self.mixed else 2, 4, 4), float(i)) for i in indices]
        return Batch(video=tuple(videos) if self.mixed else torch.stack(videos), clips=tuple(indices))

    def facts(self) -> Iterable[ClipFact]:
        return (ClipFact(3, 2, (4, 4), mixed=self.mixed),)


def fed(clips: int, mixed: bool, accumulate: int, start: int, steps: int) -> list[list[tuple[range, tuple[int, ...]]]]:
    """Places and clip numbers of every micro-batch from a step on, as the loop gets them."""
    model = SimpleNamespace(device=torch.device("cpu"), conditioners=[])
    feed = Feed(Numbered(clips, mixed), model, Share(6, accumulate), 3, steps, latents=False, cache=0)  # type: ignore[arg-type]
    given = []
    for micros in feed.from_step(start):
        for _, batch in micros:
            assert batch.video is not None
            assert [int(clip.flatten()[0]) for clip in batch.video] == list(batch.clips)
        given.append([(places, batch.clips) for places, batch in micros])
    return given


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("mixed", [False, True], ids=["one size", "several"])
def test_clips_come_in_the_same_order_from_every_batch_on(accumulate: int, mixed: bool, trials: Callable):
    """Three epochs of a length that no batch divides, and of one that it does: ordered numbers, each epoch whole."""
    with trials("ordered clip ids after a resume", least=17) as tally:
        for clips, steps in ((16, 8), (18, 9)):
            whole = fed(clips, mixed, accumulate, 0, steps)
            numbers = [n for step in whole for _, ids in step for n in ids]
            for epoch in range(len(numbers) // clips):
                assert sorted(numbers[epoch * clips : (epoch + 1) * clips]) == list(range(clips))
            assert numbers[:clips] != numbers[clips : 2 * clips], "every epoch has an order of its own"
            for start in range(steps):
                rest = fed(clips, mixed, accumulate, start, steps)
                tally.tried("" if rest == whole[start:] else f"{clips} clips, from step {start}")


def test_micro_batches_are_cuts_of_the_batch():
    once = [[n for _, ids in step for n in ids] for step in fed(16, False, 1, 0, 8)]
    assert [[n for _, ids in step for n in ids] for step in fed(16, False, 3, 0, 8)] == once


# Evaluation and the weights that train


def test_evaluation_never_touches_the_raw_weights(pixels, train, made_in, tmp_path, trials):
    """A run that is loaded, sampled and scored in mid-phase goes on as if it had not been; what samples is the average."""
    recipe = ("training.checkpoint_every=1", "training.keep=99")
    whole = train(pixels, tmp_path / "whole" / "run", *recipe)
    with trials("evaluation in mid-phase, then resumed", least=3) as tally:
        for step in (2, 5, 7):
            folder = Path(shutil.copytree(whole, tmp_path / str(step) / "run"))
            for path in listed(folder / "checkpoints"):
                if int(path.name[5:]) > step:
                    shutil.rmtree(path)
            before = made_in(folder)
            loaded = load(folder, "cpu")
            loaded.generate("a red circle moves left slowly")
            tally.tried("" if made_in(folder) == before else f"step {step}: the checkpoint has changed")
            train(pixels, folder, *recipe)
            tally.tried("" if made_in(folder) == made_in(whole) else f"step {step}: the run has changed")


def test_how_often_it_is_saved_changes_nothing(pixels, train, made_in, tmp_path):
    """A checkpoint looks at the raw weights, and puts nothing in their place."""
    often = made_in(train(pixels, tmp_path / "a" / "run", "training.checkpoint_every=1"))
    never = made_in(train(pixels, tmp_path / "b" / "run", "training.checkpoint_every=0"))
    assert often == never


def test_the_average_counts_on(pixels, train, made_in, tmp_path, monkeypatch):
    """Its counter is that of the updates made, whatever was interrupted: the decay of a resumed run is not a new one's."""
    folder = train(pixels, tmp_path / "a" / "run", "training.checkpoint_every=1", "training.keep=99")
    counts: list[int] = []
    original = Turns.step

    def step(self: Turns, number: int, micros: list) -> dict:
        log = original(self, number, micros)
        assert self.average is not None
        counts.append(self.average.count)
        return log

    monkeypatch.setattr(Turns, "step", step)
    for path in listed(folder / "checkpoints")[5:]:
        shutil.rmtree(path)
    train(pixels, folder, "training.checkpoint_every=1", "training.keep=99")
    assert counts == [6, 7, 8]
    assert isinstance(load(folder, "cpu").model, Model)
