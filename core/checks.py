"""Contract checks: what every part of a role must hold. Public: the built-in parts and a third party's pass the same.

`checks_of(part)` lists the checks of a part's role; each is a function of a `Bench`, which builds the part, small, with
the facts it needs and stand-in siblings. A check raises AssertionError with a sentence. A part says what makes it
small in `tiny`, that it mixes its batch in `mixes_batch`, and what it cannot be tried without in `material`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, get_args, get_origin

import torch
from torch import Tensor, nn

from mutoscope.core.component import Component, Facts, Nested
from mutoscope.core.denoiser import FrameDenoiser, LevelDenoiser, OneStepDenoiser, TokenDenoiser
from mutoscope.core.facts import (
    ClassifierFact,
    ClipFact,
    ConditioningFact,
    EarlierFact,
    FeatureFact,
    FieldFact,
    LatentFact,
    TokenFact,
)
from mutoscope.core.process import FrameProcess, LevelProcess, OneStepProcess, TokenProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Grid, Latents, Tokens

CLIP = ClipFact(channels=3, frames=5, size=(16, 16), classes=4, actions=3)
GRID = Grid(3, 4, 4)
LATENT = LatentFact(channels=4, stride=(2, 4, 4), grid=GRID, causal=True)
TOKEN = TokenFact(width=4, grid=GRID, channels=4)
GIVEN = ConditioningFact(pooled=8, sequence=8, length=5, vocabulary=32)
PROMPTS = ("a red circle moves left", "a blue square moves up quickly", "a green triangle stays")
CODES = 16


@dataclass(frozen=True)
class Check:
    """A named check; `run` raises AssertionError."""

    name: str
    run: Callable[[], None]


# Stand-in processes: the plainest of each kind


class Straight(LevelProcess):
    """x = (1 - t) x0 + t eps, flow asked for."""

    kind = "flow"

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - level.float(), level.float()


class Causal(TokenProcess):
    causal, hole = True, None


class Masked(TokenProcess):
    causal, hole = False, CODES


class Unit(FrameProcess):
    """A Gaussian of unit variance."""

    def output_width(self, tokens: TokenFact) -> int:
        return tokens.width

    def nll(self, raw: Tensor, frame: Tensor) -> Tensor:
        return 0.5 * (raw - frame).square().sum((1, 2))

    def sample(self, raw: Tensor, draw: Draw, temperature: float) -> Tensor:
        return raw + temperature * draw.normal("frame", *raw.shape[1:])


PROCESSES = (Straight(), Causal(), Masked(), Unit(), OneStepProcess())


class Bench:
    """Where a part is tried: builds it with facts that meet its needs.

    nested: builds a nested part from its recipe word; by default a part with nested parts is built with their defaults
    left out, which fails where it needs them.
    """

    def __init__(self, part: type[Component], nested: Callable[[Nested, Facts], Any] | None = None) -> None:
        self.part, self.nested = part, nested
        self.facts = Facts(_facts_for(part))
        self.folder: TemporaryDirectory[str] | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Those that make the part small, and point to its material; that lasts as long as the bench."""
        if self.part.material.__func__ is Component.material.__func__:
            return dict(self.part.tiny)
        self.folder = TemporaryDirectory(prefix="mutoscope-")
        return {**self.part.tiny, **self.part.material(Path(self.folder.name))}

    def build(self, seed: int = 0, device: str = "cpu") -> Any:
        """The part, with the weights of a seed."""
        given = [_chosen(parameter, self.facts) for parameter in _positional(self.part)]
        settings = dict(self.settings)
        lent = self.facts.with_(self.part.lend(self.facts))
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(seed)
            for name, default in _nested(self.part):
                said = settings.get(name, default)
                if isinstance(said, Nested) and self.nested is not None:
                    settings[name] = self.nested(said, lent)
                elif isinstance(said, dict) and any(isinstance(v, Nested) for v in said.values()) and self.nested:
                    settings[name] = {k: self.nested(v, lent) for k, v in said.items()}
            return self.part(*given, **settings)

    def stirred(self, seed: int = 0) -> Any:
        """The part with zero-initialised weights moved, so that everything takes part."""
        part = self.build(seed).eval()
        with torch.no_grad():
            for i, parameter in enumerate(part.parameters()):
                noise = Draw(seed, "stir", 0, (i,)).normal("weights", parameter.numel()).view(parameter.shape)
                parameter.add_(0.05 * noise.to(parameter.dtype))
        return part

    def draw(self, clips: int, step: int = 0) -> Draw:
        return Draw(7, "check", step, tuple(range(clips)))

    def tokens(self, clips: int = 3, grid: Grid = GRID) -> Tokens:
        """Tokens that fit the part: continuous or ids."""
        fact = self.facts.get(TokenFact) or TOKEN
        canvas = Tokens.canvas(grid, clips)
        draw = self.draw(clips)
        if fact.codebook is not None:
            return canvas.with_values((draw.uniform("ids", grid.cells) * fact.codebook).long())
        return canvas.with_values(draw.normal("tokens", grid.cells, fact.width))

    def conditioning(self, clips: int = 3) -> Conditioning:
        """Conditioning that fits the part's fact, with a null twin."""
        fact, draw = self.facts.get(ConditioningFact) or ConditioningFact(), self.draw(clips)

        def told(name: str) -> Conditioning:
            mask = torch.ones(clips, fact.length, dtype=torch.bool)
            mask[:, -1] = False
            return Conditioning(
                pooled=draw.normal(name, fact.pooled) if fact.pooled else None,
                sequence=draw.normal(name + "s", fact.length, fact.sequence) if fact.sequence else None,
                mask=mask if fact.sequence else None,
                prompt_ids=(draw.uniform(name + "i", fact.length) * fact.vocabulary).long()
                if fact.vocabulary
                else None,
            )

        return replace(told("told"), null=told("null"))

    def batch(self, clips: int = 3) -> Batch:
        """A batch of noise video with captions, labels and actions."""
        draw, fact = self.draw(clips), self.facts.get(ClipFact) or CLIP
        earlier = self.facts.get(EarlierFact)
        video = draw.uniform("video", fact.channels, fact.frames, *fact.size) * 2 - 1
        return Batch(
            video=video,
            prompt=tuple(PROMPTS[i % len(PROMPTS)] for i in range(clips)),
            label=torch.arange(clips) % max(fact.classes, 1),
            actions=torch.arange(clips * fact.frames).view(clips, -1) % max(fact.actions, 1),
            clips=tuple(range(clips)),
            earlier=draw.uniform("earlier", earlier.channels, earlier.frames, *earlier.size) if earlier else None,
        )


def checks_of(part: type[Component], nested: Callable[[Nested, Facts], Any] | None = None) -> list[Check]:
    """The checks of a part, by its role and capabilities."""
    bench = Bench(part, nested)
    found = [*_COMMON, *_BY_ROLE.get(part.role, ())]
    for capability, more in _BY_CAPABILITY.items():
        if issubclass(part, capability):
            found += more
    if not issubclass(part, nn.Module):
        found = [check for check in found if check not in _WEIGHTS]
    return [Check(check.__name__.removeprefix("check_"), partial(check, bench)) for check in found]


# Every part


def check_says_what_it_is(bench: Bench) -> None:
    part = bench.part
    assert part.name and part.summary(), f"{part.__name__} needs a name and a docstring"
    assert "\n" not in part.summary().strip(), "the docstring's first line is its summary"


def check_constructor_is_a_schema(bench: Bench) -> None:
    owner = next(base for base in bench.part.__mro__ if "__init__" in base.__dict__)
    if not issubclass(owner, Component):  # torch's or object's: the part has none of its own
        return
    for parameter in inspect.signature(owner.__init__, eval_str=True).parameters.values():
        if parameter.name == "self":
            continue
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), "no *args and no **kwargs"
        assert parameter.annotation is not parameter.empty, f"{parameter.name} needs a type"
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.default is not parameter.empty, f"setting {parameter.name} needs a default"


def check_weights_round_trip(bench: Bench) -> None:
    """Another instance with the first one's state has the first one's state."""
    one, other = bench.build(0), bench.build(1)
    other.load_state_dict(one.state_dict())
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} does not survive saving and loading"


def check_builds_on_meta(bench: Bench) -> None:
    part = bench.build(device="meta")
    stray = [n for n, p in part.named_parameters() if p.device.type != "meta"]
    assert not stray, f"{stray[0]} is made on a device of its own: create tensors without naming a device"


def check_same_seed_same_weights(bench: Bench) -> None:
    one, other = bench.build(3), bench.build(3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)), (
        "weights depend on something besides torch's generator"
    )


# Autoencoders


def check_latents_have_the_grid(bench: Bench) -> None:
    part, video = bench.build().eval(), bench.batch().video
    assert isinstance(video, Tensor)
    coded = part.encode(video)
    grid = part.latent_grid(video.shape[2], tuple(video.shape[3:]))
    assert coded.grids() == (grid,) * len(video), f"encode gives {coded.grids()[0]}, latent_grid says {grid}"
    fact = next(iter(part.facts()))
    if not coded.ids:
        assert coded.values.shape[1] == fact.channels, "LatentFact.channels is not what encode gives"


def check_round_trip_has_the_size(bench: Bench) -> None:
    part, video = bench.build().eval(), bench.batch().video
    assert isinstance(video, Tensor)
    decoded = part.decode(part.encode(video))
    if not next(iter(part.facts())).decodes:  # for a further stage, which makes video of it
        assert decoded.shape[2:] == video.shape[2:], "what stands for video has another size"
        return
    assert decoded.shape == video.shape, f"{tuple(video.shape)} comes back as {tuple(decoded.shape)}"
    assert torch.isfinite(decoded).all(), "the round trip is not finite"


def check_an_image_is_a_video_of_one_frame(bench: Bench) -> None:
    part, video = bench.build().eval(), bench.batch().video
    assert isinstance(video, Tensor)
    grid = part.latent_grid(1, tuple(video.shape[3:]))
    frames, *size = part.video_size(grid)
    if frames == 1:
        assert part.decode(part.encode(video[:, :, :1])).shape[2:] == (1, *size)


def check_clips_are_coded_alone(bench: Bench) -> None:
    part, video = bench.stirred(), bench.batch().video
    assert isinstance(video, Tensor)
    together, alone = part.encode(video), part.encode(video[:1])
    _close(together.values[:1], alone.values, "a clip's latents depend on its batch mates")


def check_reconstruction_trains(bench: Bench) -> None:
    part, batch = bench.stirred().train(), bench.batch()
    if not any(p.requires_grad for p in part.parameters()):
        return
    made = part(batch.video, bench.draw(3))
    (made.video.float().square().mean() + sum(t.float().mean() for t in made.terms.values())).backward()
    _all_reached(part)


# Patchifiers


def check_unpatchify_is_the_inverse(bench: Bench) -> None:
    part, latents = bench.build(), _latents(bench)
    back = part.unpatchify(part.patchify(latents))
    for one, other in zip(latents.clips(), back.clips(), strict=True):
        assert torch.equal(one, other), "unpatchify(patchify(x)) is not x"


def check_canvas_matches_tokens(bench: Bench) -> None:
    part, latents = bench.build(), _latents(bench)
    tokens = part.patchify(latents)
    canvas = part.canvas([part.token_grid(grid) for grid in latents.grids()])
    assert canvas.grids == tokens.grids and torch.equal(canvas.positions, tokens.positions), "canvas and tokens differ"
    assert torch.equal(canvas.clip, tokens.clip), "canvas and tokens number clips differently"
    assert part.latent_grid(tokens.grids[0]) == latents.grids()[0], "latent_grid does not undo token_grid"


# Conditioners


def check_gives_what_it_publishes(bench: Bench) -> None:
    part, fact = bench.build().eval(), None
    fact = next(iter(part.facts()))
    told = part.embed(bench.batch(), bench.draw(3))
    assert (told.pooled.shape if told.pooled is not None else None) == ((3, fact.pooled) if fact.pooled else None)
    assert (told.sequence.shape[-1] if told.sequence is not None else 0) == fact.sequence
    assert (told.per_frame.shape[-1] if told.per_frame is not None else 0) == fact.per_frame
    assert (told.cells.shape[1] if told.cells is not None else 0) == fact.cells
    if told.sequence is not None:
        assert told.mask is not None and told.mask.shape == told.sequence.shape[:2], "a sequence comes with its mask"


def check_null_has_the_same_form(bench: Bench) -> None:
    part = bench.build().eval()
    told = part.embed(bench.batch(), bench.draw(3))
    if part.dropout > 0:
        assert told.null is not None, "a conditioner with dropout gives a null conditioning"
    if told.null is not None:
        dropped = told.keep(torch.tensor([True, False, True]))
        if told.pooled is not None and dropped.pooled is not None and told.null.pooled is not None:
            assert torch.equal(dropped.pooled[1], told.null.pooled.expand_as(told.pooled)[1])
            assert torch.equal(dropped.pooled[0], told.pooled[0])


def check_clips_are_embedded_alone(bench: Bench) -> None:
    part, batch = bench.stirred(), bench.batch()
    one = Batch(
        video=None if batch.video is None else batch.video[:1],
        prompt=batch.prompt[:1] if batch.prompt else None,
        label=None if batch.label is None else batch.label[:1],
        actions=None if batch.actions is None else batch.actions[:1],
        clips=batch.clips[:1],
        earlier=None if batch.earlier is None else batch.earlier[:1],
    )
    together, alone = part.embed(batch, bench.draw(3)), part.embed(one, bench.draw(1))
    for name in ("pooled", "sequence", "per_frame", "cells"):
        a, b = getattr(together, name), getattr(alone, name)
        if a is not None and b is not None:
            shared = min(a.shape[1], b.shape[1]) if name == "sequence" else a.shape[1]
            _close(a[:1, :shared], b[:, :shared], f"a clip's {name} features depend on its batch mates")


# Denoisers


def check_output_fits_the_process(bench: Bench) -> None:
    part, process = bench.build().eval(), bench.facts.get(LevelProcess)
    for grid in (GRID, Grid(1, 4, 4), Grid(2, 6, 4)):
        tokens = bench.tokens(2, grid)
        out = part(tokens, torch.tensor([100.0, 900.0]), bench.conditioning(2))
        expected = (2, grid.cells, process.output_width(bench.facts.get(TokenFact)))  # type: ignore[union-attr]
        assert tuple(out.shape) == expected, f"gives {tuple(out.shape)} on a grid of {tuple(grid)}, not {expected}"
        assert torch.isfinite(out).all(), "the output is not finite"


def check_clips_are_denoised_alone(bench: Bench) -> None:
    part, tokens, told = bench.stirred(), bench.tokens(), bench.conditioning()
    level = torch.tensor([100.0, 500.0, 900.0])
    alone = _first(tokens), level[:1], told.each(lambda x: x[:1])
    _close(part(tokens, level, told)[:1], part(*alone), "a clip's output depends on its batch mates")


def check_level_and_conditioning_matter(bench: Bench) -> None:
    part, tokens, told = bench.stirred(), bench.tokens(), bench.conditioning()
    level = torch.full((3,), 300.0)
    base = part(tokens, level, told)
    assert not torch.allclose(base, part(tokens, level + 500, told)), "the level makes no difference"
    assert told.null is not None
    assert not torch.allclose(base, part(tokens, level, told.null)), "the conditioning makes no difference"


def check_gradient_reaches_every_weight(bench: Bench) -> None:
    part = bench.stirred().train()
    part(bench.tokens(), torch.tensor([100.0, 500.0, 900.0]), bench.conditioning()).square().mean().backward()
    _all_reached(part)


def check_inputs_are_left_alone(bench: Bench) -> None:
    part, tokens, told = bench.stirred(), bench.tokens(), bench.conditioning()
    before = tokens.filled().clone()
    part(tokens, torch.tensor([100.0, 500.0, 900.0]), told)
    assert torch.equal(before, tokens.filled()), "the input tokens were changed in place"


def check_bfloat16_is_close(bench: Bench) -> None:
    part, tokens, told = bench.stirred(), bench.tokens(), bench.conditioning()
    level = torch.tensor([100.0, 500.0, 900.0])
    with torch.no_grad():
        full = part(tokens, level, told)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = part(tokens, level, told)
    error = (half.float() - full).norm() / full.norm()
    assert error < 0.1, f"under bfloat16 autocast the output is off by {error:.0%}"


def check_logits_fit_the_codebook(bench: Bench) -> None:
    part, tokens = bench.build().eval(), bench.tokens()
    logits = part(tokens, bench.conditioning()).values
    assert logits.shape == (*tokens.clip.shape, CODES), f"logits are {tuple(logits.shape)}"


def check_no_leak_from_later_ids(bench: Bench) -> None:
    process = bench.facts.get(TokenProcess)
    if process is None or not process.causal:
        return
    part, tokens, told = bench.stirred(), bench.tokens(), bench.conditioning()
    base, ids = part(tokens, told).values, tokens.filled()
    for n in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, n:] = (changed[:, n:] + 1) % CODES
        logits = part(tokens.with_values(changed), told).values
        _close(base[:, : n + 1], logits[:, : n + 1], f"the logits of id {n} or earlier depend on id {n} or later")


def check_cache_changes_nothing(bench: Bench) -> None:
    part, tokens, told = bench.stirred(), bench.tokens(), bench.conditioning()
    cache = part.new_cache(tokens.with_values(None))
    if cache is None:
        return
    full, ids = part(tokens, told).values, tokens.filled()
    for n in range(ids.shape[1]):
        step = part(tokens.with_values(ids[:, :n]), told, cache).values
        _close(step[:, -1], full[:, n], f"cached logits of id {n} differ")


def check_one_step_gives_a_sample(bench: Bench) -> None:
    part, canvas, told = bench.stirred(), bench.tokens().with_values(None), bench.conditioning()
    noise = part.noise(canvas, bench.draw(3))
    assert noise and all(len(z) == 3 for z in noise.values()), "noise has one entry per clip first"
    out = part(noise, canvas, told)
    assert out.shape == (3, GRID.cells, TOKEN.width), f"the sample is {tuple(out.shape)}"
    other = part(part.noise(canvas, bench.draw(3, step=1)), canvas, told)
    assert not torch.allclose(out, other), "the noise makes no difference"


def check_frames_follow_the_state(bench: Bench) -> None:
    part, canvas, told = bench.stirred(), bench.tokens().with_values(None), bench.conditioning()
    frames = bench.tokens().as_grid()
    process = bench.facts.get(FrameProcess)
    expected = (3, GRID.rows * GRID.columns, process.output_width(TOKEN) if process else TOKEN.width)
    state, outs = part.begin(canvas, told), []
    frame = None
    for t in range(GRID.frames):
        out, state = part(frame, state, t, told)
        assert out.shape == expected, f"frame {t} is {tuple(out.shape)}, not {expected}"
        outs.append(out)
        frame = frames[:, :, t].flatten(2).transpose(1, 2)
    assert torch.isfinite(torch.stack(outs)).all(), "the output is not finite"


# Discriminators, towers


def check_scores_each_clip(bench: Bench) -> None:
    field = bench.facts.get(FieldFact)
    assert field is not None
    part, draw = bench.stirred(), bench.draw(3)
    grid = draw.normal("grid", field.channels, field.frames, *field.size).requires_grad_(True)
    scores = part(grid, bench.conditioning())
    assert len(scores) == 3, f"three clips get {len(scores)} scores"
    scores.square().sum().backward()
    assert grid.grad is not None and grid.grad.abs().sum() > 0, "no gradient reaches the grid"


def check_features_of_each_clip(bench: Bench) -> None:
    part, video = bench.build().eval(), bench.batch().video
    assert isinstance(video, Tensor)
    together, alone = part.features(video), part.features(video[:1])
    assert any(f is not None for f in (together.sequence, together.pooled, together.logits)), "gives no features"
    for name in ("sequence", "pooled", "logits"):
        a, b = getattr(together, name), getattr(alone, name)
        if a is not None:
            _close(a[:1], b, f"a clip's {name} features depend on its batch mates")


# Datasets


def check_clips_are_reproducible(bench: Bench) -> None:
    part = bench.build()
    fact = next(iter(part.facts()))
    one, other = part.batch("train", [0, 1, 2]), bench.build().batch("train", [2, 0])
    if isinstance(one.video, Tensor) and isinstance(other.video, Tensor):
        assert one.video.shape[1] == fact.channels and one.video.dtype == torch.float32
        assert one.video.min() >= -1 and one.video.max() <= 1, "video is in [-1, 1]"
        assert torch.equal(one.video[[2, 0]], other.video), "a clip depends on the order or company it is asked in"
    assert one.clips == (0, 1, 2) and part.length("train") > 0 and "train" in part.splits()


# How facts and needs meet


def _facts_for(part: type[Component]) -> Iterator[Any]:
    """Facts that meet the part's needs: the plainest candidates of each type that hold."""
    wanted = {_fact_type(p): _needs(p) for p in _positional(part)}
    token = wanted.get(TokenFact, ())
    latent = wanted.get(LatentFact, ())
    ids = any(not need.holds(TOKEN) and need.holds(replace(TOKEN, codebook=CODES)) for need in token)
    ids |= issubclass(part, TokenDenoiser)
    ids |= any(not need.holds(LATENT) and need.holds(replace(LATENT, codebook=CODES)) for need in latent)
    yield CLIP
    yield replace(LATENT, codebook=CODES if ids else None, pixels=None if ids else (0.0, 1.0))
    yield replace(TOKEN, codebook=CODES if ids else None, width=1 if ids else TOKEN.width)
    yield GIVEN
    yield FeatureFact(8, Grid(CLIP.frames, 4, 4), (1, 4, 4))
    yield ClassifierFact(None, GIVEN.vocabulary, TOKEN.width)
    yield EarlierFact(CLIP.channels, GRID.frames, (GRID.rows // 2, GRID.columns // 2))
    yield FieldFact(TOKEN.channels, GRID.frames, (GRID.rows * 4, GRID.columns * 4))
    for kind, needs in wanted.items():
        for process in PROCESSES:
            if isinstance(process, kind) and all(need.holds(process) for need in needs):
                yield process
                break


def _positional(part: type[Component]) -> list[inspect.Parameter]:
    parameters = inspect.signature(part.__init__, eval_str=True).parameters.values()
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]


def _fact_type(parameter: inspect.Parameter) -> type:
    said = parameter.annotation
    if get_origin(said) is Annotated:
        said = get_args(said)[0]
    kinds = [kind for kind in get_args(said) or (said,) if isinstance(kind, type) and kind is not type(None)]
    return kinds[0]


def _needs(parameter: inspect.Parameter) -> tuple[Any, ...]:
    said = parameter.annotation
    return get_args(said)[1:] if get_origin(said) is Annotated else ()


def _chosen(parameter: inspect.Parameter, facts: Facts) -> Any:
    return facts.get(_fact_type(parameter))


def _nested(part: type[Component]) -> list[tuple[str, Any]]:
    parameters = inspect.signature(part.__init__, eval_str=True).parameters.values()
    return [
        (p.name, p.default)
        for p in parameters
        if isinstance(p.default, Nested)
        or (isinstance(p.default, dict) and any(isinstance(v, Nested) for v in p.default.values()))
    ]


def _latents(bench: Bench) -> Latents:
    fact = bench.facts.get(LatentFact) or LATENT
    draw = bench.draw(3)
    if fact.codebook is not None:
        return Latents((draw.uniform("ids", *GRID) * fact.codebook).long(), ids=True)
    return Latents(draw.normal("latents", fact.channels, *GRID))


def _first(tokens: Tokens) -> Tokens:
    return Tokens(tokens.filled()[:1], tokens.positions[:1], tokens.clip[:1], tokens.grids[:1])


def _close(a: Tensor, b: Tensor, otherwise: str) -> None:
    assert torch.allclose(a, b, atol=1e-5, rtol=1e-4), f"{otherwise}: off by {(a - b).abs().max():.2g}"


def _all_reached(part: nn.Module) -> None:
    missed = [n for n, p in part.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not missed, f"no gradient reaches {', '.join(missed[:3])}"


_WEIGHTS = (check_weights_round_trip, check_builds_on_meta, check_same_seed_same_weights)
_COMMON = (check_says_what_it_is, check_constructor_is_a_schema, *_WEIGHTS)
_BY_ROLE: dict[str, tuple[Callable[[Bench], None], ...]] = {
    "autoencoder": (
        check_latents_have_the_grid,
        check_round_trip_has_the_size,
        check_an_image_is_a_video_of_one_frame,
        check_clips_are_coded_alone,
        check_reconstruction_trains,
    ),
    "patchifier": (check_unpatchify_is_the_inverse, check_canvas_matches_tokens),
    "conditioner": (check_gives_what_it_publishes, check_null_has_the_same_form, check_clips_are_embedded_alone),
    "discriminator": (check_scores_each_clip,),
    "tower": (check_features_of_each_clip,),
    "data": (check_clips_are_reproducible,),
}
_BY_CAPABILITY: dict[type, tuple[Callable[[Bench], None], ...]] = {
    LevelDenoiser: (
        check_output_fits_the_process,
        check_clips_are_denoised_alone,
        check_level_and_conditioning_matter,
        check_gradient_reaches_every_weight,
        check_inputs_are_left_alone,
        check_bfloat16_is_close,
    ),
    TokenDenoiser: (check_logits_fit_the_codebook, check_no_leak_from_later_ids, check_cache_changes_nothing),
    OneStepDenoiser: (check_one_step_gives_a_sample,),
    FrameDenoiser: (check_frames_follow_the_state,),
}
