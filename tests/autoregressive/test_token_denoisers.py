"""The token denoisers: no leak by gradients, exact masks, caches, first losses, and what each paper is known by."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.checks import Causal, Masked, checks_of
from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import ClipFact, ConditioningFact, TokenFact
from mutoscope.core.process import TokenProcess
from mutoscope.core.values import Conditioning, Grid, Tokens
from mutoscope.plugins.autoregressive.dalle import Dalle
from mutoscope.plugins.autoregressive.gpt import Gpt
from mutoscope.plugins.autoregressive.igpt import Igpt
from mutoscope.plugins.autoregressive.nuwa import Nuwa
from mutoscope.plugins.autoregressive.parti import Parti
from mutoscope.plugins.autoregressive.transformer import Transformer, positions
from mutoscope.plugins.autoregressive.videogpt import Videogpt
from mutoscope.plugins.autoregressive.words import Words

DENOISERS = (Gpt, Igpt, Videogpt, Dalle, Nuwa, Parti, Transformer)
CODES, GRID, L = 16, Grid(2, 4, 3), 5
TOKEN = TokenFact(width=1, grid=GRID, channels=6, codebook=CODES)
GIVEN = ConditioningFact(pooled=8, sequence=8, length=L, vocabulary=32, per_frame=3)


def made(part: type[TokenDenoiser], process: TokenProcess | None = None, given: ConditioningFact = GIVEN, **more: Any):
    torch.manual_seed(0)
    denoiser = part(TOKEN, given, process or Causal(), **{**part.tiny, **more}).eval()  # type: ignore[call-arg]
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return denoiser


def told(clips: int = 2, seed: int = 0) -> Conditioning:
    g = torch.Generator().manual_seed(seed)
    mask = torch.ones(clips, L, dtype=torch.bool)
    mask[:, -1] = False
    return Conditioning(
        pooled=torch.randn(clips, 8, generator=g),
        sequence=torch.randn(clips, L, 8, generator=g),
        mask=mask,
        prompt_ids=torch.randint(0, 32, (clips, L), generator=g),
        per_frame=torch.randn(clips, GRID.frames, 3, generator=g),
    )


def ids(clips: int = 2, seed: int = 1) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    return Tokens.canvas(GRID, clips).with_values(torch.randint(0, CODES, (clips, GRID.cells), generator=g))


def support(denoiser: Any, given: Conditioning | None = None) -> Tensor:
    """Which ids (columns) the logits of each id (rows) have a gradient on, by differentiable one-hot ids."""
    tokens, given = ids(1), given or told(1)
    soft = F.one_hot(tokens.filled(), CODES).float().requires_grad_(True)
    table = denoiser.codes if isinstance(denoiser, Videogpt) else denoiser.table.weight
    offset = denoiser.words if isinstance(denoiser, Transformer) else 0
    # A hook on the lookup: ids become differentiable mixtures of the table's rows.
    inner, read = F.embedding, []

    def looked_up(number: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if weight is table and number.ndim == 2 and number.shape[1] >= GRID.cells - 1:
            read.append(number.shape[1])
            return soft[:, : number.shape[1]] @ weight[offset : offset + CODES]
        return inner(number, weight, *args, **kwargs)

    F.embedding = looked_up  # type: ignore[assignment]
    try:
        logits = denoiser(tokens, given).values
    finally:
        F.embedding = inner  # type: ignore[assignment]
    assert read, "the denoiser did not look its ids up"
    rows = [torch.autograd.grad(logits[0, n].square().sum(), soft, retain_graph=True)[0] for n in range(GRID.cells)]
    return torch.stack([row[0].abs().sum(-1) > 0 for row in rows])


@pytest.mark.parametrize("part", DENOISERS, ids=lambda p: p.name)
@pytest.mark.parametrize("process", [Causal(), Masked()], ids=["causal", "masked"])
def test_contract(part: type[TokenDenoiser], process: TokenProcess) -> None:
    for check in checks_of(part):
        bench = check.run.args[0]  # type: ignore[attr-defined]
        others = [fact for fact in bench.facts.published if not isinstance(fact, TokenProcess)]
        bench.facts = type(bench.facts)([*others, process])
        check.run()


@pytest.mark.parametrize("part", DENOISERS, ids=lambda p: p.name)
def test_no_gradient_reaches_an_id_from_itself_or_later(part: type[TokenDenoiser]) -> None:
    seen = support(made(part))
    assert not seen.triu().any(), "the logits of an id have a gradient on it or on a later one"
    assert seen.diagonal(-1).all(), "the id right before is not seen: the shift is off by one"


@pytest.mark.parametrize("part", DENOISERS, ids=lambda p: p.name)
def test_with_holes_the_gradient_goes_both_ways(part: type[TokenDenoiser]) -> None:
    seen = support(made(part, Masked()))
    assert seen.triu(1).any()
    assert seen.tril(-1).any()


def cell(n: int) -> tuple[int, int, int]:
    return n // 12, n % 12 // 3, n % 3


def test_one_layer_of_dalle_sees_exactly_its_mask() -> None:
    """The row that predicts id n reads id n - 1, and sees what the mask of that one allows."""
    window = support(made(Dalle, depth=1, window=3))
    rows = support(made(Dalle, depth=2, window=1))
    for n in range(1, GRID.cells):
        for k in range(GRID.cells):
            (_, i, j), (_, y, x) = cell(n - 1), cell(k)
            assert bool(window[n, k]) == (k < n and abs(i - y) <= 1 and abs(j - x) <= 1), (n, k)
            # A row layer, then a window of one cell, which reaches into the same place of every frame before.
            through = [m for m in range(n) if cell(m)[1:] == (i, j)]
            assert bool(rows[n, k]) == any(0 <= m - k <= GRID.columns for m in through), (n, k)


def test_every_row_of_dalle_sees_all_of_the_text() -> None:
    denoiser, base = made(Dalle), told(1)
    assert base.prompt_ids is not None
    logits = denoiser(ids(1), base)
    changed = base.prompt_ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 32
    other = denoiser(ids(1), replace(base, prompt_ids=changed))
    assert ((logits.values - other.values).abs().amax(-1) > 0).all()
    assert torch.equal(logits.prompt[:, :4], other.prompt[:, :4]), "text sees later text"
    assert not torch.equal(logits.prompt[:, 4], other.prompt[:, 4])
    padded = base.prompt_ids.clone()
    padded[:, -1] = 7
    assert torch.equal(logits.values, denoiser(ids(1), replace(base, prompt_ids=padded)).values), "padding matters"
    places = denoiser.padding  # a vector of its own for each place
    assert places is not None
    assert len({tuple(row.tolist()) for row in places}) == L


def test_one_layer_of_nuwa_sees_exactly_the_neighbourhood() -> None:
    seen = support(made(Nuwa, depth=1, reach=(1, 1, 1)))
    for n in range(GRID.cells):
        for k in range(GRID.cells):
            near = all(abs(a - b) <= 1 for a, b in zip(cell(n), cell(k), strict=True))
            # The id right before is read by the same row, whatever the attention does.
            assert bool(seen[n, k]) == ((k < n and near) or k == n - 1), (n, k)


@pytest.mark.parametrize("part", [Igpt, Videogpt], ids=lambda p: p.name)
def test_an_untrained_model_gives_every_id_the_same_probability(part: type[TokenDenoiser]) -> None:
    torch.manual_seed(0)
    denoiser = part(TOKEN, GIVEN, Causal(), **part.tiny).eval()  # type: ignore[call-arg]
    tokens = ids()
    nats = F.cross_entropy(denoiser(tokens, told()).values.flatten(0, 1), tokens.filled().flatten())
    assert abs(float(nats.detach()) - math.log(CODES)) < 1e-6


@pytest.mark.parametrize("part", DENOISERS, ids=lambda p: p.name)
@pytest.mark.parametrize("prompted", [True, False])
def test_cached_equals_whole(part: type[TokenDenoiser], prompted: bool) -> None:
    if not prompted and part in (Nuwa, Parti, Transformer):
        pytest.skip("an encoder-decoder has a prompt")
    given = GIVEN if prompted else ConditioningFact()
    denoiser, tokens = made(part, given=given), ids()
    conditioning = told() if prompted else Conditioning()
    whole = denoiser(tokens, conditioning).values
    cache = denoiser.new_cache(tokens.with_values(None))
    for n in range(GRID.cells):
        step = denoiser(tokens.with_values(tokens.filled()[:, :n]), conditioning, cache).values
        assert step.shape == (2, 1, CODES)
        assert torch.allclose(step[:, 0], whole[:, n], atol=1e-5), n
    kept = sum(t.numel() * t.element_size() for m in cache.memories for t in (m.k, m.v))
    assert kept == denoiser.cache_bytes(tokens)


@pytest.mark.parametrize("part", DENOISERS, ids=lambda p: p.name)
def test_the_prompt_and_the_actions_matter(part: type[TokenDenoiser]) -> None:
    denoiser, tokens = made(part), ids()
    base = denoiser(tokens, told()).values
    assert not torch.allclose(base, denoiser(tokens, told(seed=5)).values)
    if part is not Transformer:
        first = told()
        assert first.per_frame is not None
        later = first.per_frame.clone()
        later[:, 1] += 1
        other = denoiser(tokens, replace(first, per_frame=later)).values
        assert torch.allclose(base[:, :12], other[:, :12], atol=1e-6), "an action moves frames before it"
        assert not torch.allclose(base[:, 12:], other[:, 12:])


def test_positions_of_the_transformer_turn() -> None:
    """PE(p + k) = M_k PE(p) with M_k a rotation of each pair (Vaswani et al. 2017, sec. 3.5)."""
    width, k = 32, 7
    x = torch.zeros(1, 64, width, dtype=torch.float64)
    table = positions(0, x)
    angle = k * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    sin, cos = table[:, 0::2], table[:, 1::2]
    turned = torch.stack([sin * angle.cos() + cos * angle.sin(), cos * angle.cos() - sin * angle.sin()], -1).flatten(1)
    assert torch.allclose(turned[:-k], table[k:], atol=1e-5)
    assert torch.equal(positions(5, x[:, 5:]), table[5:])


def test_the_transformers_encoder_needs_positions_and_ignores_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, base = made(Transformer), told(1)
    assert base.prompt_ids is not None
    order = torch.tensor([2, 0, 3, 1, 4])
    shuffled = replace(base, prompt_ids=base.prompt_ids[:, order])
    assert not torch.allclose(denoiser._encoded(base)[:, order], denoiser._encoded(shuffled), atol=1e-4)
    padded = base.prompt_ids.clone()
    padded[:, -1] = 9
    first, second = denoiser(ids(1), base).values, denoiser(ids(1), replace(base, prompt_ids=padded)).values
    assert torch.equal(first, second), "padding keys change the output"
    monkeypatch.setattr("mutoscope.plugins.autoregressive.transformer.positions", lambda since, x: 0.0)
    assert torch.allclose(denoiser._encoded(base)[:, order], denoiser._encoded(shuffled), atol=1e-5)


def test_restricted_attention_of_the_transformers_decoder_reaches_few_rows() -> None:
    """A reach of one leaves an id nothing but the one before it; two layers of two leave it three."""
    cells = torch.arange(GRID.cells)
    distance = cells[:, None] - cells[None]
    for reach, seen in ((1, 1), (2, 3), (0, GRID.cells)):
        denoiser = made(Transformer, reach=reach)
        assert torch.equal(support(denoiser), (distance >= 1) & (distance <= seen)), reach


def test_the_transformer_shares_one_matrix_and_norms_after_the_sum() -> None:
    denoiser = made(Transformer)
    names = [name for name, _ in denoiser.named_parameters()]
    assert sum(p.shape == (32 + CODES, 32) for p in denoiser.parameters()) == 1
    assert not [name for name in names if "out.bias" in name or "qkv.bias" in name], "attention has biases"
    x = denoiser.encoder[0](torch.randn(2, L, 32) * 50, None)
    norm = denoiser.encoder[0].norm2
    undone = (x - norm.bias) / norm.weight
    assert torch.allclose(undone.std(-1, correction=0), torch.ones(2, L), atol=1e-3), "its output is not normed"


def test_gpt_ties_its_matrix_and_initialises_by_depth() -> None:
    torch.manual_seed(0)
    denoiser = Gpt(TOKEN, ConditioningFact(), Causal(), width=64, depth=8, heads=2)
    assert not any("out" in name and name.startswith("out") for name, _ in denoiser.named_parameters())
    ends = torch.cat([b.feed[-1].weight.flatten() for b in denoiser.blocks])  # type: ignore[union-attr, index]
    assert abs(float(ends.std()) - 0.02 / 4) < 2e-4


def test_videogpt_reads_the_codebook_it_adopts() -> None:
    denoiser = made(Videogpt)
    codes = torch.randn(CODES, 6)
    before = denoiser(ids(), told()).values
    denoiser.adopt(codes)
    assert torch.equal(denoiser.codes, codes)
    assert not torch.allclose(before, denoiser(ids(), told()).values)
    assert not any(p.shape == codes.shape for p in denoiser.parameters()), "a table of ids is learned"
    denoiser.adopt(torch.randn(3, 6))
    assert torch.equal(denoiser.codes, codes), "a codebook of another size is not its own"


def test_igpts_bert_mode_reads_holes_as_zero() -> None:
    denoiser, tokens = made(Igpt, Masked()), ids()
    holed = tokens.filled().clone()
    holed[:, 3] = CODES
    first = denoiser(tokens.with_values(holed), told()).values
    denoiser.table.weight.data += 1.0
    second = denoiser._read(torch.full((1, 1), CODES))
    assert torch.equal(second, torch.zeros_like(second))
    assert torch.isfinite(first).all()


def test_a_larger_canvas_than_was_learned_is_refused_in_one_line() -> None:
    from mutoscope.core.errors import InputError

    larger = Grid(3, 4, 3)
    tokens = Tokens.canvas(larger, 1).with_values(torch.zeros(1, larger.cells, dtype=torch.long))
    for part in (Gpt, Igpt, Videogpt, Dalle, Nuwa, Parti):
        with pytest.raises(InputError, match="positions"):
            made(part)(tokens, replace(told(1), per_frame=torch.zeros(1, 3, 3)))


def test_words_hash_alike_everywhere_and_end() -> None:
    words = Words(ClipFact(3, 1, (8, 8)), vocabulary=64, length=4)
    assert words.ids_of("A red circle moves left") == words.ids_of("a RED circle falls")
    assert len(words.ids_of("a red circle moves left")) == 4
    assert words.ids_of("") == [0]
    assert words.ids_of("red")[0] != words.ids_of("blue")[0]
    for check in checks_of(Words):
        check.run()
