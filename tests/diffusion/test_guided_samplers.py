"""DPM-Solver++, SDEdit, classifier guidance: closed forms on Gaussian data, and steps against diffusers'."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClassifierFact, ClipFact, ConditioningFact, LatentFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch, Conditioning, Example, Features, Grid, Known, Tokens
from mutoscope.plugins.diffusion.classifier_guided import ClassifierGuided
from mutoscope.plugins.diffusion.classify_noisy import ClassifyNoisy
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.dpm_solver_pp import DpmSolverPp, dpm_step
from mutoscope.plugins.diffusion.flow import FlowProcess
from mutoscope.plugins.diffusion.karras import EdmProcess, VeProcess, VpProcess
from mutoscope.plugins.diffusion.sdedit import Sdedit
from mutoscope.plugins.diffusion.unets.adm_classifier import AdmClassifier

SPREAD, MEAN = 0.5, 0.3


def flow_map(process, noise: torch.Tensor) -> torch.Tensor:
    """Where the probability flow takes `noise`, for data N(MEAN, SPREAD^2)."""
    a, s = (float(x) for x in process.coefficients(process.levels(1)[:1]))
    x = noise.double() * math.hypot(a, s)
    return MEAN + SPREAD * (x - a * MEAN) / math.sqrt(a * a * SPREAD**2 + s * s)


# DPM-Solver++


class Even(VpProcess):
    """The variance-preserving process with levels evenly spaced in log signal-to-noise ratio, as the solver likes."""

    def levels(self, steps: int) -> torch.Tensor:
        sigma = torch.linspace(math.log(80.0), math.log(1e-3), steps, dtype=torch.float64).exp()
        return torch.cat([self.time(sigma), sigma.new_zeros(1)])


@pytest.mark.parametrize("order", [1, 2])
def test_the_solver_has_its_order(order, token, canvas, draw, exact, by_time) -> None:
    """Errors fall by 2^order when the steps double, in the closed form of the flow between two levels."""
    process = Even()

    def error(steps: int) -> float:
        times = process.levels(steps)[:-1]
        a, s = process.coefficients(times)
        levels = list(zip(a.tolist(), s.tolist(), strict=True))
        deviation = [math.hypot(a * SPREAD, s) for a, s in levels]
        x, clean = torch.tensor(deviation[0], dtype=torch.float64), []
        for i in range(steps - 1):
            clean = [x * levels[i][0] * SPREAD**2 / deviation[i] ** 2, *clean[: order - 1]]
            x = dpm_step(x, clean, levels[i::-1][:order], levels[i + 1], order)
        return abs(float(x) / deviation[steps - 1] - 1)

    errors = [error(n) for n in (60, 120, 240)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.45)


@pytest.mark.parametrize(
    "process",
    [FlowProcess(), Ddpm().process, EdmProcess(), VpProcess(), Ddpm(schedule="cosine", predict="clean").process],
)
@pytest.mark.parametrize("order", [1, 2])
def test_the_probability_flow_is_followed(process, order, token, canvas, draw, exact, by_time) -> None:
    timed = by_time(process)
    made = DpmSolverPp(token, timed, steps=100, order=order).sample(
        exact(timed, SPREAD, MEAN), canvas, Conditioning(), draw
    )
    expected = flow_map(process, draw.like(canvas, width=token.width))
    assert float((made.filled() - expected).abs().max()) < (0.08 if order == 1 else 0.04)


def test_solver_steps_are_the_independent_sources() -> None:
    diffusers = pytest.importorskip("diffusers")
    for order in (1, 2):
        theirs = diffusers.DPMSolverMultistepScheduler(
            1000, solver_order=order, algorithm_type="dpmsolver++", lower_order_final=False, prediction_type="sample"
        )
        theirs.set_timesteps(8)
        torch.manual_seed(order)
        x, clean, levels = torch.randn(2, 6, 4), [], []
        ours = x
        for i, t in enumerate(theirs.timesteps[:-1]):
            field = torch.randn(2, 6, 4)
            x = theirs.step(field, t, x).prev_sample
            clean = [field, *clean]
            a_s = []
            for sigma in (float(theirs.sigmas[i]), float(theirs.sigmas[i + 1])):
                a = 1 / math.sqrt(1 + sigma**2)
                a_s.append((a, sigma * a))
            levels = [a_s[0], *levels]
            ours = dpm_step(ours, clean, levels, a_s[1], order)
            torch.testing.assert_close(ours, x, atol=2e-5, rtol=1e-5)


def test_two_steps_from_pure_noise_are_finite(token, canvas, draw, exact, by_time) -> None:
    for steps in (1, 2, 3):
        timed = by_time(FlowProcess())
        part = DpmSolverPp(token, timed, steps=steps)
        network = exact(timed)
        assert torch.isfinite(part.sample(network, canvas, Conditioning(), draw).filled()).all()
        assert network.calls == part.calls(canvas) == steps


# SDEdit


def edited(process, exact, by_time, strength: float, steps: int, source: float, clips: int = 200, **settings):
    timed, token = by_time(process), TokenFact(width=4, grid=Grid(1, 4, 4), channels=4)
    canvas = Tokens.canvas(Grid(1, 4, 4), clips).with_values(torch.full((clips, 16, 4), source))
    draw = Draw(0, "edit", 0, tuple(range(clips)))
    part = Sdedit(token, timed, strength=strength, steps=steps, **settings)
    return part.sample(exact(timed, SPREAD), canvas, Conditioning(), draw).filled()


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_mean_and_variance_of_edits_are_the_closed_form(sigma, exact, by_time) -> None:
    """Prior N(0, s^2), exact score: mean k g with k = s^2/(s^2 + s0^2), variance s0^2 k^2 + s^2 s0^2/(s^2 + s0^2)."""
    process, s, g = EdmProcess(), SPREAD, 0.8
    time = float(process.time(torch.tensor(sigma, dtype=torch.float64)))
    made = edited(process, exact, by_time, time, 400, g)
    k = s**2 / (s**2 + sigma**2)
    assert made.mean().item() == pytest.approx(k * g, abs=0.02)
    expected = sigma**2 * k**2 + s**2 * sigma**2 / (s**2 + sigma**2)
    assert made.var().item() == pytest.approx(expected, rel=0.05)


def test_edits_on_a_variance_preserving_chain_have_the_same_form(exact, by_time) -> None:
    process, g = Ddpm().process, 0.8
    a, sigma = (float(c) for c in process.coefficients(torch.tensor(0.3, dtype=torch.float64)))
    ratio = sigma / a
    made = edited(process, exact, by_time, 0.3, 1000, g, variance="small")
    k = SPREAD**2 / (SPREAD**2 + ratio**2)
    assert made.mean().item() == pytest.approx(k * g, abs=0.02)
    assert made.var().item() == pytest.approx(ratio**2 * k**2 + SPREAD**2 * ratio**2 / (SPREAD**2 + ratio**2), rel=0.05)


def test_no_strength_gives_the_source_back(exact, by_time) -> None:
    for process in (EdmProcess(), Ddpm().process, FlowProcess()):
        made = edited(process, exact, by_time, 0.0, 20, 0.7, clips=2)
        assert torch.equal(made, torch.full_like(made, 0.7))


@pytest.mark.parametrize("process", [VeProcess(), Ddpm().process])
def test_the_distance_to_the_source_grows_with_strength(process, exact, by_time) -> None:
    strengths = [0.0, 1e-5, 1e-4, 1e-2] if isinstance(process, VeProcess) else [0.0, 0.1, 0.3, 0.8]
    gaps = [(edited(process, exact, by_time, s, 300, 1.5).mean() - 1.5).abs().item() for s in strengths]
    assert gaps == sorted(gaps)
    assert gaps[0] == 0
    assert gaps[-1] == pytest.approx(1.5, abs=0.1)


def test_repeats_go_further(exact, by_time) -> None:
    """Each repeat multiplies the mean by k once more."""
    process, k = EdmProcess(), SPREAD**2 / (SPREAD**2 + 0.09)
    time = float(process.time(torch.tensor(0.3, dtype=torch.float64)))
    made = edited(process, exact, by_time, time, 300, 0.8, repeats=3)
    assert made.mean().item() == pytest.approx(k**3 * 0.8, abs=0.02)


def test_what_stays_is_the_sources_own(exact, by_time, token) -> None:
    """Noised anew at each step from the source, and clean at the end; the network is told of no known tokens."""
    timed = by_time(EdmProcess())
    canvas = Tokens.canvas(Grid(1, 2, 3), 64).with_values(torch.full((64, 6, 4), 0.8))
    where = torch.zeros(64, 6, dtype=torch.bool)
    where[:, :2] = True
    told = Conditioning(known=Known(torch.zeros(64, 6, 4), where))
    network, draw = exact(timed, SPREAD), Draw(0, "e", 0, tuple(range(64)))
    part = Sdedit(token, timed, strength=0.6, steps=20)
    made = part.sample(network, canvas, told, draw).filled()
    assert (made[:, :2] == 0.8).all()
    assert not (made[:, 2:] == 0.8).any()
    times = part.edited()
    for x, time in zip(network.seen, times, strict=False):
        sigma = float(timed.inner.sigma(torch.tensor(time)))
        kept = x[:, :2] - 0.8
        assert kept.std().item() == pytest.approx(sigma, rel=0.15)
    flat = [x[:, :2].flatten() - 0.8 for x in network.seen[:2]]
    assert abs(torch.corrcoef(torch.stack(flat))[0, 1].item()) < 0.2  # anew, not once


def test_without_a_source_it_samples_from_noise(exact, by_time, token) -> None:
    timed, canvas = by_time(Ddpm().process), Tokens.canvas(Grid(1, 8, 8), 32)
    part = Sdedit(token, timed, steps=300, variance="small")
    network = exact(timed, SPREAD, MEAN)
    made = part.sample(network, canvas, Conditioning(), Draw(0, "s", 0, tuple(range(32)))).filled()
    assert made.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert made.std().item() == pytest.approx(SPREAD, abs=0.03)
    assert network.calls == part.calls(canvas) == 300


def test_edits_count_their_calls(exact, by_time, token) -> None:
    timed = by_time(Ddpm().process)
    canvas = Tokens.canvas(Grid(1, 2, 2), 2).with_values(torch.zeros(2, 4, 4))
    for strength in (0.0, 0.33, 1.0):
        part, network = Sdedit(token, timed, strength=strength, steps=10, repeats=2), exact(timed)
        part.sample(network, canvas, Conditioning(), Draw(0, "s", 0, (0, 1)))
        assert network.calls == part.calls(canvas)


# Classifier guidance: a mixture of two Gaussians, and its exact posterior as the classifier

PLACES = (-1.0, 1.0)
NARROW = 0.25
PIXELS = LatentFact(1, (1, 1, 1), Grid(1, 1, 1), pixels=(0.0, 1.0))


class Mixture(torch.nn.Module):
    """The best denoiser of an even mixture of N(-1, 1/16) and N(1, 1/16), value by value."""

    def __init__(self, process) -> None:
        super().__init__()
        self.process = process

    def forward(self, tokens, level, conditioning):
        a, s = self.process.per_token(tokens, (level + 1) / 1000)
        x = tokens.filled()
        share = posterior_of(x, a, s)
        variance = a * a * NARROW**2 + s * s
        means = [m + a * NARROW**2 / variance * (x - a * m) for m in PLACES]
        clean = (1 - share) * means[0] + share * means[1]
        return (x - a * clean) / s


def posterior_of(x, a, s):
    """Chance of the component at 1."""
    variance = a * a * NARROW**2 + s * s
    scores = [-((x - a * m) ** 2) / (2 * variance) for m in PLACES]
    return torch.sigmoid(scores[1] - scores[0])


class Knows(Tower):
    """The exact classifier of a noisy value; with `clean`, one that takes every value for a clean one."""

    name = "test_knows"

    def __init__(self, process, clean: bool = False) -> None:
        super().__init__()
        self.process, self.clean = process, clean

    def features(self, video, level=None) -> Features:
        time = torch.full_like(level, 1 / 1000) if self.clean else (level + 1) / 1000
        a, s = (c.view(-1, 1, 1, 1, 1) for c in self.process.coefficients(time))
        share = posterior_of(video, a, s).flatten(1).clamp(1e-12, 1 - 1e-12)
        logits = torch.cat([(1 - share).log(), share.log()], dim=1)
        return Features(logits=logits)


def guided(scale: float, label: int, method: str = "ancestral", clean: bool = False, steps: int = 250) -> torch.Tensor:
    process, clips = Ddpm().process, 600
    token = TokenFact(width=1, grid=Grid(1, 1, 1), channels=1)
    seen = ClassifierFact(Knows(process, clean), 2, 1)
    part = ClassifierGuided(
        token, process, ConditioningFact(vocabulary=2, length=1), seen, PIXELS, scale=scale, method=method, steps=steps
    )
    told = Conditioning(prompt_ids=torch.full((clips, 1), label))
    canvas, draw = Tokens.canvas(Grid(1, 1, 1), clips), Draw(0, "g", 0, tuple(range(clips)))
    return part.sample(Mixture(process), canvas, told, draw).filled().flatten()  # type: ignore[arg-type]


def test_without_guidance_both_classes_are_sampled() -> None:
    share = (guided(0.0, 1) > 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
def test_guidance_samples_the_class_asked_for(method) -> None:
    """At scale 1 on the unconditional score: that component's mean and deviation."""
    for label, place in enumerate(PLACES):
        made = guided(1.0, label, method)
        assert (made.sign() == place).float().mean().item() > 0.97
        assert made.mean().item() == pytest.approx(place, abs=0.06)
        assert made.std().item() == pytest.approx(NARROW, abs=0.08)


def test_a_classifier_of_clean_clips_guides_worse() -> None:
    """It takes noise for data, so that its gradients are none or far too large."""
    own, other = guided(1.0, 1, "ddim"), guided(1.0, 1, "ddim", clean=True)
    assert (own > 0).float().mean() > 0.99 > 0.9 > (other > 0).float().mean()
    assert other.std().item() > 2 * NARROW > own.std().item()


def test_guidance_needs_a_classifier_that_fits() -> None:
    process, token = Ddpm().process, TokenFact(width=1, grid=Grid(1, 1, 1), channels=1)
    seen, given = ClassifierFact(Knows(process), 2, 1), ConditioningFact(vocabulary=2, length=1)
    with pytest.raises(ValueError, match="tower: adm_classifier"):
        ClassifierGuided(token, process, given, None, PIXELS)
    with pytest.raises(ValueError, match="identity"):
        ClassifierGuided(TokenFact(width=4, grid=Grid(1, 1, 1), channels=1), process, given, seen, PIXELS)
    with pytest.raises(ValueError, match="identity"):
        ClassifierGuided(token, process, given, seen, LatentFact(1, (1, 8, 8), Grid(1, 1, 1)))
    with pytest.raises(ValueError, match="one_hot"):
        ClassifierGuided(token, process, ConditioningFact(), seen, PIXELS)
    part = ClassifierGuided(token, process, given, seen, PIXELS)
    with pytest.raises(InputError, match="id of a class"):
        part.sample(Mixture(process), Tokens.canvas(Grid(1, 1, 1), 1), Conditioning(), Draw(0, "g", 0, (0,)))  # type: ignore[arg-type]


def test_the_noisy_classifier_learns_on_noisy_clips() -> None:
    """What it is shown has the variance of the level that it is told."""
    clip = ClipFact(3, 2, (8, 8), classes=4)
    part = ClassifyNoisy(clip, None, None)

    class Watches(Tower):
        name = "test_watches"

        def features(self, video, level=None) -> Features:
            self.seen = video, level
            return Features(logits=torch.zeros(len(video), 4, requires_grad=True))

    tower, clips = Watches(), 400
    batch = Batch(video=torch.zeros(clips, 3, 2, 8, 8), label=torch.arange(clips) % 4, clips=tuple(range(clips)))
    loss = part.loss(tower, Example(None, Conditioning(), batch), Draw(0, "t", 0, tuple(range(clips))), "learner")
    assert loss.total.item() == pytest.approx(math.log(4))
    video, level = tower.seen
    _, s = part.noise.coefficients((level + 1) / 1000)
    torch.testing.assert_close(video.flatten(1).std(1), s, atol=0.02, rtol=0.2)
    moved = ClassifyNoisy(clip, part.noise, LatentFact(3, (1, 1, 1), Grid(2, 8, 8), pixels=(0.5, 2.0)))
    moved.loss(tower, Example(None, Conditioning(), batch), Draw(0, "t", 0, tuple(range(clips))), "learner")
    a, _ = part.noise.coefficients((level + 1) / 1000)
    torch.testing.assert_close(tower.seen[0] - video, -a.view(-1, 1, 1, 1, 1).expand_as(video), atol=1e-5, rtol=1e-4)
    assert level.min() >= 0
    assert 400 < level.mean().item() < 600


def test_the_classifiers_count_is_the_released_one() -> None:
    with torch.device("meta"):
        part = AdmClassifier(
            ClipFact(3, 1, (128, 128), classes=1000),
            width=128,
            multipliers=(1, 1, 2, 3, 4),
            depth=2,
            attend=(4, 8, 16),
        )
    assert sum(p.numel() for p in part.parameters()) == 42_568_040


def test_the_classifier_sees_frames_alone_and_any_size() -> None:
    torch.manual_seed(0)
    part = AdmClassifier(ClipFact(3, 2, (8, 8), classes=5), **AdmClassifier.tiny).eval()
    x, level = torch.randn(2, 3, 2, 8, 8), torch.tensor([100.0, 800.0])
    whole = part.features(x, level).logits
    frames = [part.features(x[:, :, t : t + 1], level).logits for t in range(2)]
    torch.testing.assert_close(whole, (frames[0] + frames[1]) / 2, atol=1e-5, rtol=1e-4)  # type: ignore[operator]
    assert part.features(torch.randn(1, 3, 1, 12, 10), level[:1]).logits.shape == (1, 5)  # type: ignore[union-attr]
