"""The discrete autoencoders against closed forms and their papers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.checks import checks_of
from mutoscope.core.errors import ShapeError
from mutoscope.core.facts import ClipFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Latents
from mutoscope.plugins.autoencoders.codebooks import Codebook, nearest, passed_on
from mutoscope.plugins.autoencoders.dvae import Dvae, LogitLaplace, logit_laplace_nats
from mutoscope.plugins.autoencoders.fsq import Fsq
from mutoscope.plugins.autoencoders.lfq import Lfq, assignment_entropy
from mutoscope.plugins.autoencoders.palette import Palette, k_means
from mutoscope.plugins.autoencoders.videogpt_vq import Axial, VideogptVq
from mutoscope.plugins.autoencoders.vit_vqgan import VitVqgan
from mutoscope.plugins.autoencoders.vqgan import Vqgan

DISCRETE = (Fsq, Lfq, Palette, VideogptVq, Vqgan, VitVqgan, Dvae)
CLIP = ClipFact(3, 5, (16, 16))
DRAW = Draw(1, "train", 0, (0, 1, 2))


def video(seed: int = 0, clips: int = 3) -> Tensor:
    return Draw(seed, "video", 0, tuple(range(clips))).uniform("video", 3, 5, 16, 16) * 2 - 1


@pytest.mark.parametrize("part", DISCRETE, ids=lambda p: p.name)
def test_contract(part: type) -> None:
    for check in checks_of(part):
        check.run()


@pytest.mark.parametrize("part", DISCRETE, ids=lambda p: p.name)
def test_ids_are_within_the_codebook_and_decode_to_what_they_encode(part: type) -> None:
    torch.manual_seed(0)
    coder = part(CLIP, **part.tiny).eval()
    fact = next(iter(coder.facts()))
    coded = coder.encode(video())
    assert coded.ids
    assert isinstance(coded.values, Tensor)
    assert coded.values.dtype == torch.long
    assert 0 <= int(coded.values.min()) <= int(coded.values.max()) < fact.codebook
    every = torch.arange(fact.codebook).repeat(3 * fact.grid.cells)[: 3 * fact.grid.cells].view(3, *fact.grid)
    assert torch.isfinite(coder.decode(Latents(every, ids=True))).all(), "an id cannot be decoded"
    codes = coder.codes()
    assert codes is None or codes.shape == (fact.codebook, fact.channels)


@pytest.mark.parametrize("part", [Vqgan, VitVqgan, Dvae, Palette], ids=lambda p: p.name)
def test_shuffled_frames_give_shuffled_ids(part: type) -> None:
    torch.manual_seed(0)
    coder, order = part(CLIP, **part.tiny).eval(), torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(coder.encode(video()[:, :, order]).values, coder.encode(video()).values[:, order])


@pytest.mark.parametrize("part", [Fsq, Lfq], ids=lambda p: p.name)
def test_no_code_depends_on_a_later_frame(part: type) -> None:
    torch.manual_seed(0)
    coder = part(CLIP, **part.tiny).eval()
    changed = video().clone()
    changed[:, :, 3:] = -changed[:, :, 3:]
    one, other = coder.encode(video()).values, coder.encode(changed).values
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.equal(one[:, 2:], other[:, 2:])


@pytest.mark.parametrize("part", [VideogptVq, Vqgan, VitVqgan, Dvae, Fsq, Lfq], ids=lambda p: p.name)
def test_a_size_it_cannot_code_is_refused(part: type) -> None:
    coder = part(CLIP, **part.tiny)
    with pytest.raises(ShapeError):
        coder.encode(torch.zeros(1, 3, 5, 15, 16))


# Finite scalars


def test_fsq_rounds_to_exactly_its_levels() -> None:
    coder = Fsq(CLIP, levels=(8, 5, 4, 2), width=8, depth=1)
    z = torch.linspace(-6, 6, 4001).view(1, 1, -1, 1, 1).expand(1, 4, -1, 1, 1)
    made = coder.rounded(z)
    for channel, levels in enumerate((8, 5, 4, 2)):
        values = made[0, channel].flatten().unique()
        assert len(values) == levels
        steps = (torch.arange(levels) - levels // 2) / (levels // 2)
        assert torch.allclose(values, steps, atol=1e-6)


def test_fsq_numbers_its_codes_without_gaps() -> None:
    coder = Fsq(CLIP, levels=(5, 4, 3), width=8, depth=1)
    ids = torch.arange(60).view(1, 60, 1, 1)
    assert torch.equal(coder.ids(coder.values(ids)), ids)
    assert len({tuple(v) for v in coder.values(ids)[0, :, :, 0, 0].T.tolist()}) == 60


def test_fsq_passes_the_gradient_of_its_bound() -> None:
    coder, z = Fsq(CLIP, levels=(5,), width=8, depth=1), torch.tensor([0.3]).view(1, 1, 1, 1, 1).requires_grad_(True)
    coder.rounded(z).sum().backward()
    half = 2 * (1 + 1e-3)
    assert z.grad is not None
    assert float(z.grad.detach()) == pytest.approx((1 - math.tanh(0.3) ** 2) * half / 2, rel=1e-4)


# Lookup-free


def test_lfq_entropies_against_all_corners() -> None:
    """E[H(q)] - H(E[q]) with q = softmax(-|z - c|^2) over the 16 corners, written out."""
    z = torch.randn(50, 4, generator=torch.manual_seed(0))
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    q = (-(z[:, None] - corners).square().sum(-1)).softmax(-1)
    certain = -(q * q.log()).sum(-1).mean()
    spread = -(q.mean(0) * q.mean(0).log()).sum()
    assert torch.allclose(assignment_entropy(z, 1.0), certain - spread, atol=1e-5)
    wide = torch.randn(40, 12, generator=torch.manual_seed(1))
    assert torch.isfinite(assignment_entropy(wide, 1.0)), "more bits than one group"


def test_lfq_ids_are_the_signs() -> None:
    torch.manual_seed(0)
    coder = Lfq(CLIP, bits=5, width=8, depth=1)
    ids = coder.encode(video()).values
    z = coder.cells.encode(video())
    assert torch.equal(ids, sum((z[:, b] > 0).long() << b for b in range(5)))


# Codebooks


def test_the_codebook_follows_moving_averages() -> None:
    """Two steps of the averages by hand, and restarts of codes whose count is below one."""
    book = Codebook(3, 2, decay=0.9)
    book.vectors.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 99.0]]))
    book.sums.copy_(book.vectors)
    book.counts.copy_(torch.tensor([20.0, 20.0, 1.0]))
    z = torch.tensor([[1.0, 1.0], [9.0, 1.0], [11.0, 1.0], [1.0, -1.0]])
    grid = z.T.reshape(1, 2, 4, 1, 1).requires_grad_(True)
    quantised, ids, commitment = book.train()(grid, DRAW.of([0]))
    assert ids.flatten().tolist() == [0, 1, 1, 0]
    assert float(commitment.detach()) == pytest.approx((2 + 2 + 2 + 2) / 8)
    quantised.sum().backward()
    assert grid.grad is not None
    assert torch.equal(grid.grad, torch.ones_like(grid)), "the gradient does not pass straight through"
    assert torch.allclose(book.counts, torch.tensor([18.2, 18.2, 0.9]))
    assert torch.allclose(book.vectors[0], torch.tensor([0.2, 0.0]) / 18.2, atol=1e-3)
    assert torch.allclose(book.vectors[1], torch.tensor([9.0 + 2.0, 0.2]) / 18.2, atol=1e-3)
    assert any(torch.equal(book.vectors[2], row) for row in z), "an unused code did not restart at an input"
    before = book.vectors.clone()
    book.eval()(grid, DRAW.of([0]))
    assert torch.equal(book.vectors, before), "the codebook moves outside of training"


def test_the_codebooks_are_no_parameters_where_averages_move_them() -> None:
    coder = VideogptVq(CLIP, **VideogptVq.tiny)
    assert not any(p.shape == coder.codebook.vectors.shape for p in coder.parameters())
    assert "codebook.vectors" in coder.state_dict()


def test_begin_sets_codes_to_encodings() -> None:
    for part in (VideogptVq, Vqgan, VitVqgan):
        torch.manual_seed(0)
        coder = part(CLIP, **part.tiny).eval()
        coder.begin([Batch(video=video(), clips=(0, 1, 2))])
        used = coder.encode(video()).values.unique()
        assert len(used) > 8, f"{part.name} uses {len(used)} of 16 codes at its start"


def test_nearest_and_straight_through() -> None:
    z, vectors = torch.randn(30, 5), torch.randn(7, 5)
    assert torch.equal(nearest(z, vectors), torch.cdist(z, vectors).argmin(1))
    x = torch.randn(3, requires_grad=True)
    passed_on(x, x.detach().round()).square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * x.detach().round())


def test_axial_attention_sums_its_axes() -> None:
    """A place sees its own column, row and moment, and nothing else in one layer."""
    torch.manual_seed(0)
    layer, x = Axial(4), torch.randn(1, 4, 3, 4, 5, requires_grad=True)
    layer(x)[0, :, 1, 2, 3].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0) > 0
    t, h, w = torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(5), indexing="ij")
    assert torch.equal(seen, ((t == 1).int() + (h == 2).int() + (w == 3).int()) >= 2)


def test_without_axial_attention_blocks_keep_their_convolutions() -> None:
    torch.manual_seed(0)
    without = VideogptVq(CLIP, **{**VideogptVq.tiny, "attention": False})
    assert not any(isinstance(module, Axial) for module in without.modules())
    own = {name: p.shape for name, p in VideogptVq(CLIP, **VideogptVq.tiny).named_parameters()}
    assert {name: p.shape for name, p in without.named_parameters()}.items() < own.items()


def test_vit_vqgans_codes_are_on_the_sphere() -> None:
    torch.manual_seed(0)
    coder = VitVqgan(CLIP, **VitVqgan.tiny).eval()
    z = coder._encoded(video())
    assert torch.allclose(z.norm(dim=1), torch.ones_like(z[:, 0]), atol=1e-5)
    assert torch.allclose(coder.codes().norm(dim=1), torch.ones(16), atol=1e-5)
    before = coder.encode(video()).values
    coder.codebook.vectors.data *= torch.rand(16, 1) * 5 + 0.1
    assert torch.equal(before, coder.encode(video()).values), "the length of a code matters"


# Colours


def test_k_means_finds_separated_colours() -> None:
    centres = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    points = (centres[:, None] + 0.05 * torch.randn(4, 200, 3, generator=torch.manual_seed(0))).flatten(0, 1)
    found = k_means(points[torch.randperm(800, generator=torch.manual_seed(1))], 4)
    order = torch.cdist(centres, found).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert torch.allclose(found[order], points.view(4, 200, 3).mean(1), atol=1e-4)


def test_k_means_against_another_library() -> None:
    cluster = pytest.importorskip("scipy.cluster.vq")
    points = torch.rand(500, 3, generator=torch.manual_seed(0))
    ours = k_means(points, 8, rounds=60)
    theirs, _ = cluster.kmeans2(points.numpy(), ours.numpy(), iter=20, minit="matrix")
    assert torch.allclose(ours, torch.from_numpy(theirs), atol=1e-3), "Lloyd's algorithm has not settled"


def test_the_palette_gives_back_the_colours_of_its_data() -> None:
    colours = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 0.5, 1.0], [0.0, 0.0, 0.0], [0.9, 0.9, -0.9]])
    pick = torch.randint(0, 4, (2, 5, 16, 16), generator=torch.manual_seed(0))
    clips = colours[pick].movedim(-1, 1)
    coder = Palette(CLIP, colours=4)
    coder.begin([Batch(video=clips, clips=(0, 1))])
    assert torch.allclose(coder.decode(coder.encode(clips)), clips, atol=1e-5)


# DALL-E


def test_logit_laplace_is_a_density() -> None:
    """f integrates to one over (0, 1) for any location and scale."""
    x = torch.linspace(1e-6, 1 - 1e-6, 400_001, dtype=torch.float64)
    as_video = ((x - 0.1) / 0.8) * 2 - 1
    for mu, log_b in ((0.0, 0.0), (1.0, -1.0), (-2.0, 0.5)):
        nats = logit_laplace_nats(as_video, torch.tensor(mu), torch.tensor(log_b))
        assert float(torch.trapezoid((-nats).exp().double(), x)) == pytest.approx(1.0, abs=2e-3)


def test_the_relaxation_hardens_by_a_cosine() -> None:
    coder = Dvae(CLIP, **{**Dvae.tiny, "anneal": 100})
    assert coder.temperature_at(0) == 1.0
    assert coder.temperature_at(50) == pytest.approx((1 + 1 / 16) / 2)
    assert coder.temperature_at(100) == coder.temperature_at(10_000) == 1 / 16
    torch.manual_seed(0)
    logits = torch.randn(2000, 16)
    noise = -(-torch.rand(2000, 16).log()).log()
    sure = [((logits + noise) / t).softmax(-1).amax(-1).mean() for t in (1.0, 1 / 16)]
    assert sure[0] < 0.7 < 0.95 < sure[1]


def test_the_objective_of_the_dvae_weighs_its_divergence() -> None:
    """The divergence of codes, mean over a clip's values: beta/192 of its mean per code at the paper's sizes."""
    torch.manual_seed(0)
    coder = Dvae(CLIP, **{**Dvae.tiny, "groups": 4})
    given = Example(None, Conditioning(), Batch(video=video(), clips=(0, 1, 2)))
    late = Draw(1, "train", 9000, (0, 1, 2))
    parts = LogitLaplace(kl=6.6).loss(coder, given, late, "learner")
    made = coder(video(), late)
    assert torch.allclose(parts.total, made.terms["likelihood"] + 6.6 * made.terms["kl"] / (3 * 5 * 16 * 16))
    q = coder.logits(video()).softmax(1)
    per_code = (q * (q.log() + math.log(16))).sum(1).mean()
    assert torch.allclose(parts.total - made.terms["likelihood"], 6.6 / 192 * per_code, rtol=1e-4)
    early = LogitLaplace(kl=6.6).loss(coder, given, DRAW, "learner")
    assert torch.allclose(early.total, coder(video(), DRAW).terms["likelihood"])


def test_the_decoder_of_the_dvae_says_location_and_scale() -> None:
    coder = Dvae(CLIP, **Dvae.tiny)
    assert coder.decoder[-1].out_channels == 6  # type: ignore[union-attr]
    ids = coder.encode(video()).values
    soft = F.one_hot(ids, 16).float().movedim(-1, 1)
    mu, _ = coder._decoded(soft)
    expected = ((mu.sigmoid() - 0.1) / 0.8).clamp(0, 1) * 2 - 1
    assert torch.allclose(coder.decode(Latents(ids, ids=True)), expected, atol=1e-6)


def test_the_dvae_begins_without_preference_and_with_the_mean_colour() -> None:
    torch.manual_seed(0)
    coder = Dvae(CLIP, **Dvae.tiny)
    # Bright, flat pictures, of which one code would otherwise be the choice everywhere.
    clips = video() * 0.1 + torch.tensor([0.6, 0.2, -0.4])[:, None, None, None]
    coder.begin([Batch(video=clips, clips=(0, 1, 2))])
    logits = coder.logits(clips).movedim(1, -1).flatten(0, -2)
    assert torch.allclose(logits.mean(0), torch.zeros(16), atol=1e-3)
    assert torch.allclose(logits.std(0), torch.ones(16), atol=1e-3)
    assert float(coder.codes().std()) == pytest.approx(1.0, abs=0.2), "a choice is not as strong as its layer expects"
    shown = coder.decode(coder.encode(clips)).mean((0, 2, 3, 4))
    assert torch.allclose(shown, clips.mean((0, 2, 3, 4)), atol=0.15)


def test_a_squared_error_gives_way_to_the_likelihood() -> None:
    torch.manual_seed(0)
    coder = Dvae(CLIP, **Dvae.tiny, floor=-1.0)
    given = Example(None, Conditioning(), Batch(video=video(), clips=(0, 1, 2)))
    for step, likely in ((0, 0.0), (50, 0.5), (100, 1.0), (900, 1.0)):
        draw = Draw(1, "train", step, (0, 1, 2))
        made = coder(video(), draw)
        square = 4 * (made.video - video()).square().mean()
        expected = likely * made.terms["likelihood"] + (1 - likely) * square
        assert torch.allclose(LogitLaplace(kl=0.0, square=100).loss(coder, given, draw, "learner").total, expected)


def test_the_scale_has_a_floor() -> None:
    coder = Dvae(CLIP, **Dvae.tiny, floor=-1.0)
    with torch.no_grad():
        coder.decoder[-1].bias[3:] = -5.0  # type: ignore[union-attr, index]
        _, log_b = coder._decoded(torch.full((1, 16, 5, 4, 4), 1 / 16))
    assert float(log_b.min()) == -1.0
