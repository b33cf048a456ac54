"""The samplers of ids: what they draw, in which order, and with how many calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.checks import Causal, Masked, checks_of
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.generation import Request, generate
from mutoscope.core.layers.masked import Layout, Rollout
from mutoscope.core.randomness import Draw
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch, Conditioning, Features, Grid, Known, Logits, Tokens
from mutoscope.plugins.autoregressive.choosing import chosen, sharpened
from mutoscope.plugins.autoregressive.gpt import Gpt
from mutoscope.plugins.autoregressive.maskgit import Maskgit
from mutoscope.plugins.autoregressive.parti import Parti
from mutoscope.plugins.autoregressive.raster import Raster
from mutoscope.plugins.autoregressive.reranked import Reranked

CODES, GRID, CLIPS = 6, Grid(1, 4, 4), 3
TOKEN = TokenFact(width=1, grid=GRID, channels=4, codebook=CODES)
CANVAS = Tokens.canvas(GRID, CLIPS)
DRAW = Draw(5, "sample", 0, (0, 1, 2))


class Counting(TokenDenoiser):
    """Id n follows from id n - 1 for certain: one more, from 2 on. calls: made so far."""

    name = "counting_up"

    def __init__(self, told: float = 0.0) -> None:
        super().__init__()
        self.calls, self.told, self.shown = 0, told, list[Tensor]()

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Any = None) -> Logits:
        self.calls += 1
        ids = tokens.filled()
        self.shown.append(ids.clone())
        before = torch.cat([torch.ones_like(ids[:, :1]), ids], 1)[:, : GRID.cells]
        return Logits(50.0 * F.one_hot((before + 1) % CODES, CODES).float())


def test_contracts() -> None:
    for part in (Raster, Maskgit):
        for check in checks_of(part):
            check.run()


@pytest.mark.parametrize("top", [{}, {"top_k": 2}, {"top_p": 0.6}, {"temperature": 2.0}])
def test_draws_follow_the_probabilities(top: dict[str, Any]) -> None:
    """40,000 draws against the probabilities, truncated and renormalised by hand."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04, 0.0]).log()
    expected = {"top_k": [4 / 7, 3 / 7, 0, 0, 0, 0], "top_p": [4 / 7, 3 / 7, 0, 0, 0, 0]}.get(next(iter(top), ""))
    if "temperature" in top:
        expected = (logits / 2).softmax(-1).tolist()
    expected = torch.tensor(expected or logits.exp().tolist())
    probabilities = sharpened(logits, top.get("temperature", 1.0), top.get("top_k", 0), top.get("top_p", 1.0))
    assert torch.allclose(probabilities, expected, atol=1e-6)
    ids = chosen(probabilities.expand(40_000, CODES), DRAW.of([0]).uniform("ids", 40_000)[0])
    seen = torch.bincount(ids, minlength=CODES) / 40_000
    assert (seen - expected).abs().max() < 0.01
    assert seen[5] == 0, "an id without mass was drawn"


def test_temperature_zero_takes_the_likeliest_and_edges_hold() -> None:
    logits = torch.randn(7, CODES)
    certain = sharpened(logits, 0.0)
    assert torch.equal(chosen(certain, torch.full((7,), 0.999999)), logits.argmax(-1))
    assert torch.equal(chosen(certain, torch.zeros(7)), logits.argmax(-1))
    assert torch.equal(sharpened(logits, 1.0, top_p=1e-6).argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("cached", [True, False])
def test_raster_fills_in_order(cached: bool) -> None:
    denoiser, sampler = Counting(), Raster(Causal(), cached=cached)
    ids = sampler.sample(denoiser, CANVAS, Conditioning(), DRAW).filled()
    assert torch.equal(ids, (torch.arange(16) + 2).expand(CLIPS, 16) % CODES)
    assert denoiser.calls == sampler.calls(CANVAS) == 16


def test_raster_keeps_known_ids_and_goes_on_from_them() -> None:
    where = torch.zeros(CLIPS, 16, dtype=torch.bool)
    where[:, :3] = True
    known = Known(torch.full((CLIPS, 16), 4), where)
    ids = Raster(Causal()).sample(Counting(), CANVAS, Conditioning(known=known), DRAW).filled()
    assert ids[0, :5].tolist() == [4, 4, 4, 5, 0]


def gpt(process: Any = None, given: ConditioningFact | None = None) -> Gpt:
    torch.manual_seed(0)
    denoiser = Gpt(TOKEN, given or ConditioningFact(), process or Causal(), width=16, depth=2, heads=2, band=5).eval()
    for parameter in denoiser.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return denoiser


def test_the_cache_changes_no_id() -> None:
    with torch.no_grad():
        cached = Raster(Causal()).sample(gpt(), CANVAS, Conditioning(), DRAW).filled()
        whole = Raster(Causal(), cached=False).sample(gpt(), CANVAS, Conditioning(), DRAW).filled()
    assert torch.equal(cached, whole)
    alone = Raster(Causal()).sample(gpt(), Tokens.canvas(GRID, 1), Conditioning(), DRAW.of([2])).filled()
    assert torch.equal(alone[0], cached[2]), "a clip's ids depend on its batch mates"


def told(clips: int = CLIPS, null: bool = True) -> Conditioning:
    g = torch.Generator().manual_seed(2)
    mask = torch.ones(clips, 4, dtype=torch.bool)
    sequence, nothing = torch.randn(clips, 4, 8, generator=g), torch.randn(1, 4, 8, generator=g).expand(clips, 4, 8)
    other = Conditioning(sequence=nothing, mask=mask) if null else None
    return Conditioning(sequence=sequence, mask=mask, null=other)


def test_guidance_of_parti() -> None:
    """Scale 0 ignores the caption, 1 is the conditional model to the bit, 2 is on the line through both."""
    given = ConditioningFact(sequence=8, length=4)
    torch.manual_seed(0)
    denoiser = Parti(TOKEN, given, Causal(), width=16, encoder=1, depth=2, heads=2, window=3).eval()
    for parameter in denoiser.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    seen: dict[float, Tensor] = {}
    from mutoscope.plugins.autoregressive.choosing import GuidedLogits

    tokens = CANVAS.with_values(torch.zeros(CLIPS, 16, dtype=torch.long))
    for scale in (0.0, 1.0, 2.0):
        seen[scale] = GuidedLogits(denoiser, CANVAS, told(), scale, cached=False)(tokens)
    null = told().null
    assert null is not None
    assert torch.equal(seen[1.0], denoiser(tokens, told()).values)
    assert torch.equal(seen[0.0], denoiser(tokens, null).values)
    assert torch.allclose(seen[0.0][0], seen[0.0][1], atol=1e-6), "without the caption clips differ"
    assert not torch.allclose(seen[1.0][0], seen[1.0][1], atol=1e-3)
    assert torch.allclose(seen[2.0], seen[0.0] + 2 * (seen[1.0] - seen[0.0]), atol=1e-4)
    assert Raster(Causal(), guidance=1.2).calls(CANVAS) == 32
    assert Raster(Causal(), guidance=0.0).calls(CANVAS) == Raster(Causal()).calls(CANVAS) == 16
    with pytest.raises(InputError, match="told nothing"):
        Raster(Causal(), guidance=1.2).sample(denoiser, CANVAS, told(null=False), DRAW)
    cached = Raster(Causal(), guidance=1.5).sample(denoiser, CANVAS, told(), DRAW).filled()
    whole = Raster(Causal(), guidance=1.5, cached=False).sample(denoiser, CANVAS, told(), DRAW).filled()
    assert torch.equal(cached, whole)


def test_maskgit_hides_ever_fewer_and_keeps_what_it_kept() -> None:
    denoiser, sampler = Counting(), Maskgit(Masked(), steps=5)
    sampler.hole = CODES
    ids = sampler.sample(denoiser, CANVAS, Conditioning(), DRAW).filled()
    assert denoiser.calls == sampler.calls(CANVAS) == 5
    holes = [(shown == CODES).sum(1) for shown in denoiser.shown]
    # ceil(cos(pi t / 10) 16) for t = 0 ... 4.
    assert [int(h[0]) for h in holes] == [16, 16, 13, 10, 5]
    assert all((h == h[0]).all() for h in holes)
    for before, after in zip(denoiser.shown, [*denoiser.shown[1:], ids], strict=True):
        kept = before != CODES
        assert torch.equal(before[kept], after[kept])
    assert not (ids == CODES).any(), "a hole is left"


def test_maskgit_keeps_the_confident() -> None:
    class Sure(TokenDenoiser):
        name = "surer_to_the_right"

        def forward(self, tokens: Tokens, conditioning: Conditioning, cache: Any = None) -> Logits:
            sharp = torch.linspace(0.0, 30.0, 16)[None, :, None]
            return Logits(sharp * F.one_hot(torch.full(tokens.filled().shape, 2), CODES).float())

    denoiser = Sure()
    shown: list[Tensor] = []
    denoiser.register_forward_pre_hook(lambda _, args: shown.append(args[0].filled().clone()))
    Maskgit(Masked(), steps=4, noise=0.0).sample(denoiser, CANVAS, Conditioning(), DRAW)
    for seen in shown[1:]:
        left = int((seen[0] == 16).sum())
        assert (seen[:, :left] == 16).all(), "a confident id was hidden"


def test_maskgit_on_a_network_with_known_ids() -> None:
    process = Masked()
    process.hole = CODES
    where = torch.zeros(CLIPS, 16, dtype=torch.bool)
    where[:, 5:9] = True
    known = Known(torch.full((CLIPS, 16, 1), 3.0), where)
    ids = Maskgit(process, steps=4).sample(gpt(process), CANVAS, Conditioning(known=known), DRAW).filled()
    assert (ids[:, 5:9] == 3).all()
    assert (ids < CODES).all()


class Brightness(Tower):
    """Sees how bright a clip is."""

    name = "brightness_tower"

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        mean = video.mean((1, 2, 3, 4))
        return Features(pooled=torch.stack([mean, torch.ones_like(mean)], 1))


class Bright(Conditioner):
    """Asks for brightness, whatever the prompt."""

    name = "asks_for_brightness"

    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        return Conditioning(pooled=torch.tensor([[1.0, 0.0]]).expand(len(batch), 2))

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (ConditioningFact(pooled=2),)


def test_reranking_keeps_the_best_of_its_candidates() -> None:
    from mutoscope.core.facts import ClipFact
    from mutoscope.core.model import Model
    from mutoscope.plugins.autoencoders.palette import Palette
    from mutoscope.plugins.autoregressive.next_token import NextToken
    from mutoscope.plugins.patchifiers.spacetime import Spacetime

    torch.manual_seed(0)
    clip = ClipFact(3, 1, (4, 4))
    coder = Palette(clip, colours=CODES)
    cut = Spacetime(next(iter(coder.facts())), size=(1, 1, 1))

    def model(sampler: Any) -> Model:
        parts = {"autoencoder": coder, "patchifier": cut, "objective": NextToken(), "denoiser": gpt()}
        return Model(clip, sampler=sampler, **parts)

    ranked = Reranked(candidates=5, sampler=Raster(Causal()), tower=Brightness(), text=Bright())
    best = generate(model(ranked), Request(count=4)).video.mean((1, 2, 3, 4))
    draw = Draw(0, "sample", 0, (0, 1, 2, 3))
    canvas = Tokens.canvas(GRID, 4)
    each = torch.stack(
        [
            coder.decode(cut.unpatchify(Raster(Causal()).sample(gpt(), canvas, Conditioning(), draw.at(i))))
            .mean((1, 2, 3, 4))
            .detach()
            for i in range(5)
        ]
    )
    assert torch.allclose(best, each.amax(0), atol=1e-6)
    assert not torch.allclose(best, each[0])
    assert ranked.calls(canvas) == 5 * 16


def test_the_cost_of_a_cached_id_does_not_grow_with_the_stream() -> None:
    """Rows computed per call: one, whatever is behind."""
    denoiser, rows = gpt(), []
    denoiser.blocks[0].register_forward_hook(lambda _, args, out: rows.append(out.shape[1]))
    Raster(Causal()).sample(denoiser, CANVAS, Conditioning(), DRAW)
    assert rows == [1] * 16
    assert Rollout(Layout(1, GRID), 2, torch.device("cpu")).rows == 0
