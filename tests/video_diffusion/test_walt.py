"""W.A.L.T: windows, images, corrections of low rank, the schedule's end, self-conditioning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mutoscope.core.checks import GIVEN, LATENT, TOKEN, Bench, Straight
from mutoscope.core.facts import ClipFact, ConditioningFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Tokens
from mutoscope.plugins.autoencoders.causal_kl import CausalKl
from mutoscope.plugins.video_diffusion.joint_images import JointImages
from mutoscope.plugins.video_diffusion.walt import Walt
from mutoscope.plugins.video_diffusion.windows import WindowAttention, Windows
from mutoscope.plugins.video_diffusion.zero_snr import ZeroSnr, ZeroSnrProcess

GRID = Grid(4, 4, 4)
FACT = TokenFact(width=6, grid=GRID, channels=6)


def stirred(part: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The part with every weight moved, so that zeros at first do not hide anything."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return part.eval()


def walt(given: ConditioningFact | None = None, process=None, **settings) -> Walt:
    said = {"width": 16, "depth": 2, "heads": 2, "space": (1, 2, 2), "both": (2, 2, 2), **settings}
    return stirred(Walt(FACT, given or ConditioningFact(), process or Straight(), **said))  # type: ignore[return-value]


def tokens_of(grid: Grid, clips: int = 2, width: int = 6, seed: int = 1) -> Tokens:
    values = torch.randn(clips, grid.cells, width, generator=torch.Generator().manual_seed(seed))
    return Tokens.canvas(grid, clips).with_values(values)


def reached(layers: torch.nn.ModuleList, both: tuple[int, int, int], place: int) -> Tensor:
    """T H W: which places one output place of one layer depends on."""
    x = torch.randn(1, GRID.cells, 16, requires_grad=True)
    windows = Windows(GRID, both)
    out = windows.join(layers[0].attention(windows.cut(x), windows, 1))  # type: ignore[union-attr, operator]
    out[0, place].sum().backward()
    assert x.grad is not None
    return (x.grad[0].abs().sum(-1) > 0).view(*GRID)


@pytest.mark.parametrize("window", [(1, 2, 2), (2, 2, 2), (4, 4, 2)])
def test_a_layer_mixes_its_window_and_nothing_else(window: tuple[int, int, int]) -> None:
    """The gradient is zero across windows, and not zero within."""
    attention = stirred(WindowAttention(16, 2, window))
    layers = torch.nn.ModuleList([torch.nn.Module()])
    layers[0].attention = attention
    t, h, w = 2, 1, 3
    seen = reached(layers, window, (t * 4 + h) * 4 + w)
    expected = torch.zeros(*GRID, dtype=torch.bool)
    begin = [n // size * size for n, size in zip((t, h, w), window, strict=True)]
    expected[tuple(slice(b, b + size) for b, size in zip(begin, window, strict=True))] = True
    assert torch.equal(seen, expected)


def test_window_attention_is_attention_with_a_bias_of_relative_places() -> None:
    """Against the formula, place by place, for windows of another shape than the grid divides into."""
    window, grid = (2, 2, 2), Grid(3, 2, 3)
    part = stirred(WindowAttention(8, 2, window))
    x = torch.randn(1, grid.cells, 8)
    windows = Windows(grid, window)
    made = windows.join(part(windows.cut(x), windows, 1))
    q, k, v = part.qkv(x)[0].view(grid.cells, 3, 2, 4).unbind(1)
    q, k = (y / y.square().mean(-1, keepdim=True).add(torch.finfo(torch.float32).eps).sqrt() for y in (q, k))
    q, k = q * part.q_scale, k * part.k_scale
    place = [(t, y, z) for t in range(3) for y in range(2) for z in range(3)]
    table = part.bias.view(2, 3, 3, 3)
    expected = torch.zeros(grid.cells, 2, 4)
    for i, a in enumerate(place):
        own = [j for j, b in enumerate(place) if all(m // 2 == n // 2 for m, n in zip(a, b, strict=True))]
        for head in range(2):
            bias = torch.stack(
                [table[head, a[0] - b[0] + 1, a[1] - b[1] + 1, a[2] - b[2] + 1] for b in (place[j] for j in own)]
            )
            weight = torch.softmax((q[i, head] @ k[own, head].T) / 2 + bias, dim=0)
            expected[i, head] = weight @ v[own, head]
    torch.testing.assert_close(made[0], part.out(expected.flatten(1)), atol=1e-5, rtol=1e-5)


def test_queries_and_keys_are_normalised() -> None:
    """Logits do not grow with the input: attention of a thousandfold input is the same attention."""
    part, windows = stirred(WindowAttention(16, 2, (2, 2, 2))), Windows(GRID, (2, 2, 2))
    torch.nn.init.zeros_(part.qkv.bias)
    x = windows.cut(torch.randn(1, GRID.cells, 16))
    torch.testing.assert_close(
        part(1000 * x, windows, 1) - part.out.bias, 1000 * (part(x, windows, 1) - part.out.bias), rtol=1e-3, atol=1e-2
    )


def test_places_of_an_image_leave_space_time_attention_as_their_own_values() -> None:
    """Its mask is the identity: the layer's attention gives out(v) of each place, whatever the other places are."""
    layer = walt().layers[1]
    h = torch.randn(3, 16, 16)
    values = layer.attention.qkv(h).chunk(3, dim=-1)[2]
    torch.testing.assert_close(layer.attention.alone(h), layer.attention.out(values))
    windows = Windows(Grid(1, 4, 4), (2, 2, 2))
    c, base = torch.randn(3, 16), torch.randn(3, 96)
    alone = layer(h, c, base, windows, 3, True, None, None)
    h2 = h.clone()
    h2[:, 1:] = torch.randn(3, 15, 16)
    torch.testing.assert_close(layer(h2, c, base, windows, 3, True, None, None)[:, 0], alone[:, 0])
    mixed = layer(h, c, base, windows, 3, False, None, None)
    assert not torch.allclose(mixed, alone, atol=1e-3)


def test_an_image_is_independent_of_its_batch_mates_and_teaches_no_time() -> None:
    network, image = walt(), tokens_of(Grid(1, 4, 4), 3)
    level = torch.tensor([100.0, 500.0, 900.0])
    together = network(image, level, Conditioning())
    first = Tokens(image.filled()[:1], image.positions[:1], image.clip[:1], image.grids[:1])
    torch.testing.assert_close(together[:1], network(first, level[:1], Conditioning()), atol=1e-5, rtol=1e-5)
    together.square().sum().backward()
    both = network.layers[1].attention
    assert both.bias.grad is None
    queries_and_keys = both.qkv.weight.grad[:32]
    assert queries_and_keys.abs().max() == 0
    assert both.qkv.weight.grad[32:].abs().max() > 0
    assert network.layers[0].attention.bias.grad.abs().max() > 0


def test_frames_meet_only_in_windows_of_space_and_time() -> None:
    """A change in one frame reaches another through the second layer; with windows of one frame it never does."""
    level = torch.tensor([300.0, 300.0])
    changed = tokens_of(GRID).filled().clone()
    changed[:, 16:32] += 1.0
    for both, meets in (((2, 2, 2), True), ((1, 2, 2), False)):
        network, tokens = walt(both=both), tokens_of(GRID)
        one, other = network(tokens, level, Conditioning()), network(tokens.with_values(changed), level, Conditioning())
        assert (not torch.allclose(one[:, :16], other[:, :16])) == meets
        torch.testing.assert_close(one[:, 32:], other[:, 32:])


def test_corrections_have_the_rank_that_they_say() -> None:
    """A_i - A_1 is W_b W_a, of rank r; with rank 0 every layer has a large layer of its own."""
    network = walt(rank=3)
    for layer in network.layers:
        own = layer.up.weight @ layer.down.weight
        assert torch.linalg.matrix_rank(own) == 3
        c, base = torch.randn(2, 16), torch.randn(2, 96)
        said = torch.cat(layer.modulation(c, base), dim=-1)[:, 0]
        torch.testing.assert_close(said - base, c @ own.T, atol=1e-5, rtol=1e-5)
    count = {r: sum(p.numel() for p in walt(rank=r).parameters()) for r in (0, 1, 2, 5)}
    assert count[2] - count[1] == 2 * 7 * 16
    assert count[5] - count[2] == 3 * 2 * 7 * 16
    assert count[0] - count[1] == (2 - 1) * (6 * 16 * 16 + 6 * 16) - 2 * 7 * 16


def test_the_prompt_is_seen_beside_the_window_and_only_where_it_is_asked_for() -> None:
    given = ConditioningFact(sequence=8, length=5)
    for way, layers in (("space", [True, False]), ("all", [True, True])):
        network = walt(given, prompt=way)
        assert [layer.prompt is not None for layer in network.layers] == layers
    network, tokens = walt(given), tokens_of(GRID)
    sequence, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, False, False, False]])
    level = torch.tensor([300.0, 300.0])
    one = network(tokens, level, Conditioning(sequence=sequence, mask=mask))
    padded = sequence.clone()
    padded[1, 2:] = 9.0
    torch.testing.assert_close(network(tokens, level, Conditioning(sequence=padded, mask=mask)), one)
    said = sequence.clone()
    said[1, 1] = 9.0
    other = network(tokens, level, Conditioning(sequence=said, mask=mask))
    torch.testing.assert_close(other[0], one[0])
    assert not torch.allclose(other[1], one[1])


def test_the_schedule_ends_in_noise_alone() -> None:
    """alpha_T = 0, the first signal kept, and the published rescaling of linear variances in between."""
    process = ZeroSnrProcess(1000, (1e-4, 0.02), recalls=True)
    a, s = process.coefficients(torch.tensor([0.0, 0.001, 0.5, 1.0], dtype=torch.float64))
    assert a[-1] == 0
    assert s[-1] == 1
    assert a[0] == 1
    torch.testing.assert_close(a**2 + s**2, torch.ones_like(a))
    linear = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).sqrt()
    assert float(a[1]) == pytest.approx(float(linear[0]), abs=1e-12)
    assert float(a[2]) == pytest.approx(float((linear[499] - linear[-1]) * linear[0] / (linear[0] - linear[-1])))
    assert linear[-1] > 0.006, "the plain schedule leaves signal at its end"


def test_the_schedule_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, rescale_betas_zero_snr=True).alphas_cumprod
    ours = ZeroSnrProcess(1000, (1e-4, 0.02), recalls=False).signal[1:] ** 2
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)


def test_sampling_starts_at_the_last_step() -> None:
    process = ZeroSnrProcess(1000, (1e-4, 0.02), recalls=False)
    steps = process.index(process.levels(50))
    assert steps.tolist() == list(range(1000, -1, -20))
    assert process.coordinate(process.levels(50))[0] == 999


class Recorder(Walt.__mro__[1]):  # a RecallingDenoiser
    """Says half of what it is shown first, and remembers all that it is shown."""

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        self.shown.append(tokens.filled())
        return self.scale * tokens.filled()[..., :6]


def test_the_estimate_is_shown_to_a_share_of_clips_without_gradient() -> None:
    objective, network = ZeroSnr(recall=0.9), Recorder()
    tokens = tokens_of(Grid(1, 2, 2), 400)
    draw = Draw(0, "test", 0, tuple(range(400)))
    objective.loss(network, Example(tokens, Conditioning(), Batch()), draw, "learner")
    first, second = network.shown
    assert first.shape[-1] == 12
    assert first[..., 6:].abs().max() == 0
    told = second[..., 6:].abs().sum((1, 2)) > 0
    assert 0.85 < told.float().mean() < 0.95
    assert not second.requires_grad
    x, t = first[..., :6], (draw.uniform("time") * 1000).floor().add(1) / 1000
    a, s = (y[:, None, None] for y in objective.own.coefficients(t.view(-1)))
    torch.testing.assert_close(second[told][..., 6:], (a * x - s * 0.5 * x)[told].detach(), atol=1e-5, rtol=1e-5)


def test_the_sampler_shows_the_last_estimate() -> None:
    from mutoscope.plugins.diffusion.ddim import Ddim

    objective, network = ZeroSnr(), Recorder()
    sampler = Ddim(FACT, objective.own, steps=3)
    with torch.no_grad():
        sampler.sample(network, Tokens.canvas(GRID, 1), Conditioning(), Draw(0, "s", 0, (0,)))
    assert network.shown[0][..., 6:].abs().max() == 0
    for i, before in enumerate(network.shown[:-1]):
        a, s = objective.own.coefficients(objective.own.levels(3)[i].float())
        x = before[..., :6]
        torch.testing.assert_close(network.shown[i + 1][..., 6:], a * x - s * 0.5 * x)


def test_without_recall_the_network_has_one_input() -> None:
    fact, given = TOKEN, GIVEN
    wide = Walt(fact, given, ZeroSnr(recall=0.5).own, **Walt.tiny)
    narrow = Walt(fact, given, ZeroSnr(recall=0.0).own, **Walt.tiny)
    assert wide.embed.in_features == 2 * fact.width == 2 * narrow.embed.in_features


@pytest.mark.parametrize("causal", [True, False])
def test_images_are_single_frames_beside_the_clips(causal: bool) -> None:
    """The loss is the two weighed; images of a causal autoencoder are its first frame, coded alone."""
    inner = ZeroSnr(recall=0.0)
    joint = JointImages(replace(LATENT, causal=causal), FACT, objective=inner, share=0.25)
    tokens, draw = tokens_of(GRID, 40), Draw(3, "t", 0, tuple(range(40)))
    cells = torch.randn(40, 2, *GRID)
    example = Example(tokens, Conditioning(cells=cells), Batch())
    images = joint.images(example, draw)
    assert images.tokens is not None
    assert images.tokens.grids == (Grid(1, 4, 4),) * 40
    frames = tokens.filled().view(40, 4, 16, 6)
    which = [(frames[b] == images.tokens.filled()[b]).flatten(1).all(1).nonzero().item() for b in range(40)]
    assert set(which) == ({0} if causal else {0, 1, 2, 3})
    assert images.conditioning.cells is not None
    for b, t in enumerate(which):
        assert torch.equal(images.conditioning.cells[b, :, 0], cells[b, :, int(t)])
    network = walt(ConditioningFact(cells=2), inner.process)
    with torch.no_grad():
        both = joint.loss(network, example, draw, "learner").total
        video = inner.loss(network, example, draw, "learner").total
        image = inner.loss(network, images, draw.at(1), "learner").total
    torch.testing.assert_close(both, 0.75 * video + 0.25 * image)


def test_the_autoencoder_is_causal() -> None:
    """Every latent frame stays what it is when later frames of the video change; its own change it."""
    part = CausalKl(ClipFact(3, 9, (8, 8)), channels=4, stride=(4, 4, 4), width=8, depth=1)
    stirred(part)
    video = torch.randn(1, 3, 9, 8, 8)
    latents = part.encode(video).values
    for t, begin in enumerate((0, 1, 5)):
        end = 1 + 4 * t
        later = video.clone()
        later[:, :, end:] = torch.randn(1, 3, 9 - end, 8, 8)
        torch.testing.assert_close(part.encode(later).values[:, :, : t + 1], latents[:, :, : t + 1])
        own = video.clone()
        own[:, :, begin:end] += 1.0
        assert not torch.allclose(part.encode(own).values[:, :, t], latents[:, :, t])
    torch.testing.assert_close(part.encode(video[:, :, :1]).values, latents[:, :, :1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_it_compiles() -> None:
    network = Bench(Walt).stirred()
    bench = Bench(Walt)
    tokens, told, level = bench.tokens(), bench.conditioning(), torch.tensor([100.0, 500.0, 900.0])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, level, told), network(tokens, level, told))
