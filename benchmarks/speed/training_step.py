"""What the house costs: a training step through recipe, contracts and trainer, against a loop written by hand.

    python -m mutoscope.benchmarks.speed.training_step [--pairs N] [--recipe quickstart] [key=value ...]

The trainer runs as `mutoscope train` runs it, with its journal and its averaged weights; after each of its steps the
hand-written loop below takes one of its own, with a copy of the same network, on latents of the same clips: rectified
flow that predicts the clean latents, prompts dropped at the same rate, clipped gradients, AdamW, an average of the
weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutoscope.benchmarks.speed.pairs import FEWEST, ratio
from mutoscope.core.model import Model
from mutoscope.core.training.plan import Phase
from mutoscope.core.training.progress import Silence
from mutoscope.core.training.run import train
from mutoscope.core.values import Batch, Conditioning
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe

WARM = 5
"""Pairs that are not counted."""


class ByHand:
    """The loop that somebody would write for this one model: no draws by clip, no contracts, no checks but clipping."""

    def __init__(self, model: Model, phase: Phase, latents: Tensor, prompts: Sequence[str]) -> None:
        self.denoiser, self.conditioner = copy.deepcopy(model.denoiser), copy.deepcopy(model.conditioners[0])
        self.patchifier, self.descent = model.patchifier, phase.descent
        self.grid = model.patchifier.token_grid(model.autoencoder.latent_grid(model.clip.frames, model.clip.size))
        self.latents, self.prompts = latents, prompts
        self.parameters = [*self.denoiser.parameters(), *self.conditioner.parameters()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        decayed = [p for p in self.parameters if p.ndim >= 2], [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": decayed[0], "weight_decay": self.descent.weight_decay}, {"params": decayed[1]}]
        self.optimizer = torch.optim.AdamW(groups, self.descent.lr, self.descent.betas, weight_decay=0.0, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.canvas = model.patchifier.canvas([self.grid] * self.descent.batch, model.device)
        self.done = 0

    def step(self) -> None:
        batch, steps = self.descent.batch, self.descent.steps or 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.descent.lr * 0.5 * (1 + math.cos(math.pi * self.done / steps))
        chosen = torch.randint(len(self.latents), (batch,))
        clean = self.latents[chosen]
        t = torch.rand(batch)
        told = [
            "" if drop else self.prompts[i]
            for i, drop in zip(chosen.tolist(), (torch.rand(batch) < 0.1).tolist(), strict=True)
        ]
        noisy = torch.lerp(clean, torch.randn_like(clean), t[:, None, None])
        given = self.conditioner.embed(Batch(prompt=tuple(told)), None)  # type: ignore[arg-type]
        given = Conditioning(given.pooled, given.sequence, given.mask)
        made = self.denoiser(self.canvas.with_values(noisy), t, given)
        loss = ((made - clean).square().mean((1, 2)) / t.clamp(min=0.02)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.descent.clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.descent.ema)
        self.done += 1


class InTurn(Silence):
    """After every step of the trainer times one of the loop by hand."""

    def __init__(self, hand: ByHand) -> None:
        self.hand = hand
        self.trainer: list[float] = []
        self.loop: list[float] = []
        self.resumed: float | None = None

    def advance(self, done: int, said: Mapping[str, float] | None = None) -> None:
        ended = time.perf_counter()
        if self.resumed is not None:
            self.trainer.append(ended - self.resumed)
            self.hand.step()
            self.loop.append(time.perf_counter() - ended)
        self.resumed = time.perf_counter()


def measure(recipe: str, overrides: Sequence[str] = (), pairs: int = 200) -> dict[str, Any]:
    """The ratio of seconds per step, trainer over loop, over `pairs` pairs."""
    last = [f"training.phases.1.steps={pairs + WARM + 1}", "training.phases.0.steps=5"]
    catalog = Catalog.load()
    made = assemble(load_recipe(recipe, [*overrides, *last]), catalog, "cpu")
    model, plan = made.model, made.plan
    assert isinstance(model, Model)
    batch = made.dataset.batch("train", range(512))
    with torch.no_grad():
        latents = model.patchifier.patchify(model.autoencoder.encode(batch.video)).filled()  # type: ignore[arg-type]
    phase = plan.phases[1]
    with tempfile.TemporaryDirectory() as folder:
        watch = InTurn(ByHand(model, phase, latents, batch.prompt or ()))
        silent = _Later(watch, phase.name)
        train(model, plan, Path(folder), progress=silent)
    found = ratio(watch.trainer[WARM:], watch.loop[WARM:])
    return {
        "recipe": recipe,
        "denoiser": model.denoiser.name,
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "batch": phase.descent.batch,
        "ratio": asdict(found),
        "bar": 1.03,
        "within": found.within(1.03) if pairs >= FEWEST else None,
        "seconds_per_step": sorted(watch.trainer[WARM:])[len(watch.trainer[WARM:]) // 2],
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }


class _Later(Silence):
    """Watches one phase only."""

    def __init__(self, watch: InTurn, phase: str) -> None:
        self.watch, self.phase, self.now = watch, phase, ""

    def begin(self, name: str, total: int, done: int = 0) -> None:
        self.now = name

    def advance(self, done: int, said: Mapping[str, float] | None = None) -> None:
        if self.now == self.phase:
            self.watch.advance(done, said)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Seconds of a training step over those of a loop written by hand.")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("overrides", nargs="*")
    said = parser.parse_args(arguments)
    print(json.dumps(measure(said.recipe, said.overrides, said.pairs), indent=2))


if __name__ == "__main__":
    main()
