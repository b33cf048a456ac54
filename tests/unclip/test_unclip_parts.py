"""unCLIP's parts against closed forms and libraries, and the behaviour that the paper describes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ClipFact, ConditioningFact, EarlierFact, LatentFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Latents, Tokens
from mutoscope.plugins.diffusion.ddim import Ddim
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.unets.glide import Glide, ReadingAttention
from mutoscope.plugins.diffusion.unets.unclip_upsampler import UnclipUpsampler
from mutoscope.plugins.towers.clip import ClipTower
from mutoscope.plugins.unclip.agreeing import Agreeing
from mutoscope.plugins.unclip.bipartite import Bipartite
from mutoscope.plugins.unclip.clip_codes import WIDEST, ClipCodes
from mutoscope.plugins.unclip.clip_image import ClipImage
from mutoscope.plugins.unclip.clip_text import ClipText
from mutoscope.plugins.unclip.degraded import Degraded, blurred
from mutoscope.plugins.unclip.image_embedding import ImageEmbedding
from mutoscope.plugins.unclip.manipulations import slerp, turned
from mutoscope.plugins.unclip.prior import UnclipPrior
from mutoscope.plugins.unclip.text_alone import TextAlone
from mutoscope.plugins.video_diffusion.on_crops import OnCrops
from mutoscope.plugins.world.dataset import Shapes

CLIP = ClipFact(3, 1, (16, 16))
ONE = Grid(1, 1, 1)


@pytest.fixture(scope="module")
def tower() -> ClipTower:
    torch.manual_seed(0)
    return ClipTower(shipped=False).eval()


@pytest.fixture(scope="module")
def pictures() -> Batch:
    return Shapes(frames=1, laws=("still",)).batch("train", range(64))


def draw(clips: int, step: int = 0) -> Draw:
    return Draw(3, "unclip", step, tuple(range(clips)))


# Embeddings as latents


def test_the_latent_of_a_clip_is_its_scaled_embedding(tower, pictures):
    part = ClipImage(CLIP, tower=tower, scale=17.2)
    latents = part.encode(pictures.video)
    assert latents.values.shape == (64, 64, 1, 1, 1)
    torch.testing.assert_close(latents.values.flatten(1).norm(dim=1), torch.full((64,), 17.2))
    spread = part.decode(latents)
    assert spread.shape == (64, 64, 1, 16, 16)
    torch.testing.assert_close(spread[:, :, 0, 3, 5], tower.features(pictures.video).pooled)
    assert not next(iter(part.facts())).decodes


def test_codes_are_principal_components_in_buckets(tower, pictures):
    part = ClipCodes(CLIP, tower=tower, components=12, buckets=256)
    part.begin([pictures])
    vectors = tower.features(pictures.video).pooled.detach().double().numpy()
    _, singular, basis = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    cosines = np.abs((part.basis.detach().double().numpy() * basis[:12]).sum(1))
    assert (cosines[:6] > 0.99).all()
    np.testing.assert_allclose(part.deviation.numpy(), singular[:12] / math.sqrt(63), rtol=1e-3)
    left = part(pictures.video, draw(64)).terms["residual"].item()
    assert left == pytest.approx((singular[12:] ** 2).sum() / 64, rel=0.02, abs=1e-7)
    ids = part.encode(pictures.video)
    assert ids.ids
    assert ids.values.shape == (64, 12, 1, 1)
    # A component comes back to within half a bucket where it is not beyond the widest.
    middle = ((ids.values.flatten(1).float() + 0.5) / 256 * 2 - 1) * WIDEST
    exact = (torch.from_numpy(vectors).float() - part.mean) @ part.basis.T / part.deviation
    inside = exact.abs() < WIDEST
    assert (middle - exact).abs()[inside].max() <= WIDEST / 256 + 1e-4
    spread = part.decode(ids)[:, :, 0, 0, 0]
    assert torch.nn.functional.cosine_similarity(spread, torch.from_numpy(vectors).float()).mean() > 0.98


# What the prior is told


def test_agreement_is_a_quantile_in_training_and_of_the_upper_half_in_sampling(tower, pictures):
    part = ClipText(CLIP, tower=tower, agreement=8, dropout=0.1)
    said = tower.read(pictures.prompt)
    cosines = (tower.features(pictures.video).pooled * said.pooled).sum(1)
    part.train()
    part.buckets(replace(pictures, opening=pictures.video), said, draw(64))
    seen = torch.stack([cosines.mean(), (cosines - 0.5).square().mean()])
    torch.testing.assert_close(part.moments, torch.tensor([0.5, 0.01]).lerp(seen, 0.01))
    part.eval()
    part.moments.copy_(torch.stack([cosines.mean(), cosines.var()]))
    buckets = part.buckets(replace(pictures, opening=pictures.video), said, draw(64))
    order = cosines.argsort()
    assert (buckets[order].diff() >= 0).all()
    assert buckets.float().mean().item() == pytest.approx(3.5, abs=1.5)
    drawn = torch.cat([part.buckets(pictures, said, draw(64, step)) for step in range(8)])
    assert set(drawn.tolist()) == {4, 5, 6, 7}
    told = part.embed(pictures, draw(64))
    assert told.sequence.shape[1] == tower.text[1] + 1 == next(iter(part.facts())).length
    assert told.null is not None


@pytest.fixture
def prior() -> UnclipPrior:
    torch.manual_seed(1)
    fact = TokenFact(6, ONE, 6)
    return UnclipPrior(
        fact, ConditioningFact(6, 5, 4), Ddpm(predict="clean").process, width=32, depth=2, heads=2
    ).eval()


def test_the_prior_is_causal_and_reads_at_the_query(prior):
    told = Conditioning(torch.randn(2, 6), torch.randn(2, 4, 5), torch.tensor([[True] * 4, [True, True, False, False]]))
    noisy, level = Tokens.canvas(ONE, 2).with_values(torch.randn(2, 1, 6)), torch.tensor([300.0, 300.0])
    rows = 4 + 4
    mask = prior.mask(told, rows)
    assert not mask[0, 0].triu(1).any()
    assert mask[0, 0, -1].all()
    assert mask[1, 0, -1].tolist() == [True, True, False, False, True, True, True, True]
    # The text's rows do not know of the noisy vector: their states are the same whatever it is.
    states = []
    for values in (noisy, noisy.with_values(torch.randn(2, 1, 6))):
        prior.blocks[-1].register_forward_hook(lambda _, __, out: states.append(out))
        made = prior(values, level, told)
    assert made.shape == (2, 1, 6)
    torch.testing.assert_close(states[0][:, :6], states[1][:, :6])
    assert (states[0][:, -1] - states[-1][:, -1]).abs().max() > 1e-4
    padded = replace(told, sequence=torch.where(told.mask[..., None], told.sequence, 9.0))
    torch.testing.assert_close(prior(noisy, level, told), prior(noisy, level, padded))
    other = prior(noisy, level, replace(told, pooled=told.pooled + 1))
    assert (other - prior(noisy, level, told)).abs().max() > 1e-4


def test_it_learns_the_embedding_and_not_the_noise(prior):
    """Under the paper's objective the target is x0: the loss of a network that answers x0 is zero."""
    tokens = Tokens.canvas(ONE, 5).with_values(torch.randn(5, 1, 6))

    class Knows(torch.nn.Module):
        def forward(self, noisy, level, told):
            return tokens.filled()

    objective = Ddpm(schedule="cosine", predict="clean")
    example = Example(tokens, Conditioning(), Batch(clips=(0, 1, 2, 3, 4)))
    assert objective.loss(Knows(), example, draw(5), "learner").total.item() == 0.0


def test_of_two_draws_the_one_that_agrees_is_kept(prior):
    process = Ddpm(predict="clean").process
    fact = TokenFact(6, ONE, 6)
    inner = Ddim(fact, process, steps=3)
    told = Conditioning(torch.randn(7, 6), torch.randn(7, 4, 5), torch.ones(7, 4, dtype=torch.bool))
    canvas, once = Tokens.canvas(ONE, 7), draw(7)
    with torch.no_grad():
        kept = Agreeing(fact, ConditioningFact(pooled=6), sampler=inner).sample(prior, canvas, told, once).filled()
        both = torch.stack([inner.sample(prior, canvas, told, once.at(i)).filled() for i in range(2)])
    cosines = torch.nn.functional.cosine_similarity(both[:, :, 0], told.pooled[None], dim=-1)
    with pytest.raises(ValueError, match="not of one space"):
        Agreeing(fact, ConditioningFact(pooled=5), sampler=inner)
    best = both[cosines.argmax(dim=0), torch.arange(7)]
    assert torch.equal(kept, best)
    assert len(set(cosines.argmax(dim=0).tolist())) == 2
    alone = TextAlone(fact, ConditioningFact(6)).sample(prior, canvas, told, once)
    assert torch.equal(alone.filled()[:, 0], told.pooled)


# The decoder


def test_an_embedding_is_told_as_it_is_and_a_video_as_it_is_seen(tower, pictures):
    torch.manual_seed(2)
    part = ImageEmbedding(EarlierFact(3, 1, (16, 16)), tower=tower, tokens=4, width=8, dropout=0.1)
    seen = part.embed(replace(pictures, earlier=pictures.video), draw(64))
    vectors = tower.features(pictures.video).pooled
    drawn = part.embed(replace(pictures, earlier=vectors[:, :, None, None, None].expand(-1, -1, 1, 16, 16)), draw(64))
    torch.testing.assert_close(seen.pooled, drawn.pooled)
    torch.testing.assert_close(seen.pooled, vectors * 8.0)
    assert seen.sequence.shape == (64, 4, 8)
    assert seen.null is not None
    assert not seen.null.pooled.any()
    assert not any(p.requires_grad for p in part.tower.parameters())


def test_caption_and_embedding_are_dropped_apart(tower, pictures):
    """Each conditioner has its own rate and its own draw: both hidden in about 5% of clips, not in 10%."""
    from mutoscope.core.model import Model
    from mutoscope.plugins.conditioners.text import Text

    text = Text(CLIP, width=8, depth=1, heads=2, length=12, dropout=0.5)
    image = ImageEmbedding(EarlierFact(3, 1, (16, 16)), tower=tower, width=8, dropout=0.1)
    model = Model(CLIP, conditioners=[text, image])
    batch = replace(pictures, earlier=pictures.video)
    hidden = []
    for step in range(20):
        with torch.no_grad():
            told = model.embed(batch, draw(64, step), keep=True)
        null = told.null
        hidden.append(
            torch.stack([(told.pooled[:, part] == null.pooled[:, part]).all(1) for part in (slice(8), slice(8, None))])
        )
    text_off, image_off = torch.cat(hidden, dim=1).float()
    for found, wanted in ((text_off, 0.5), (image_off, 0.1), (text_off * image_off, 0.05)):
        assert found.mean().item() == pytest.approx(wanted, abs=3.3 * math.sqrt(wanted * (1 - wanted) / 1280))


def test_glides_attention_reads_places_and_text_in_one_softmax():
    torch.manual_seed(3)
    part = ReadingAttention(16, 6, 2)
    torch.nn.init.normal_(part.out.weight)
    x, text = torch.randn(2, 16, 3, 4), torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    made = part(x, text, mask)
    # The same by hand, for the first head of one place.
    cells = part.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (y.unflatten(-1, (2, 8))[:, :, 0] for y in part.qkv(cells).chunk(3, dim=-1))
    k_text, v_text = (y.unflatten(-1, (2, 8))[:, :, 0] for y in part.kv(text).chunk(2, dim=-1))
    scores = torch.cat([q @ k_text.transpose(1, 2), q @ k.transpose(1, 2)], dim=2) / 8**0.5
    scores[0, :, 2:5] = -torch.inf
    head = scores.softmax(-1) @ torch.cat([v_text, v], dim=1)
    heads = torch.zeros(2, 12, 16)
    heads[..., :8] = head
    wanted = heads @ part.out.weight.T
    heads[..., :8] = 0
    part.out.weight.data[:, 8:] = 0
    torch.testing.assert_close(
        part(x, text, mask) - x - part.out.bias[:, None, None],
        wanted.transpose(1, 2).view(2, 16, 3, 4),
        atol=1e-4,
        rtol=1e-4,
    )
    assert made.shape == x.shape


def test_the_decoder_is_zero_at_first_and_the_upsampler_has_no_attention():
    tokens, given = TokenFact(3, Grid(1, 8, 8), 3), ConditioningFact(pooled=4, sequence=6, length=5)
    process = Ddpm().process
    net = Glide(tokens, given, process, width=16, multipliers=(1, 2), depth=1, attend=(2,), head_width=8)
    noisy = Tokens.canvas(Grid(1, 8, 8), 2).with_values(torch.randn(2, 64, 3))
    told = Conditioning(torch.randn(2, 4), torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
    assert not net(noisy, torch.tensor([10.0, 500.0]), told).any()
    up = UnclipUpsampler(tokens, ConditioningFact(cells=3), process, width=16, multipliers=(1, 2), depth=1)
    names = {type(m).__name__ for m in up.modules()}
    assert not any("Attention" in name for name in names)
    large = Tokens.canvas(Grid(1, 12, 20), 1).with_values(torch.randn(1, 240, 3))
    assert up(large, torch.tensor([5.0]), Conditioning(cells=torch.randn(1, 3, 1, 12, 20))).shape == (1, 240, 3)


# Upsamplers


def test_degradation_is_torchvisions_blur_in_training_and_nothing_in_sampling(pictures):
    functional = pytest.importorskip("torchvision.transforms.functional")
    latents = LatentFact(3, (1, 1, 1), Grid(1, 32, 32))
    part = Degraded(EarlierFact(3, 1, (16, 16)), latents, blur=(0.6, 0.6))
    batch = replace(pictures, earlier=pictures.video)
    wanted = functional.gaussian_blur(pictures.video[:, :, 0], [3, 3], [0.6, 0.6])[:, :, None]
    torch.testing.assert_close(part.spoilt(pictures.video, draw(64)), wanted, atol=1e-5, rtol=1e-5)
    part.train()
    spoilt = part.embed(batch, draw(64)).cells
    part.eval()
    clean = part.embed(batch, draw(64)).cells
    assert spoilt.shape == clean.shape == (64, 3, 1, 32, 32)
    torch.testing.assert_close(part(wanted), spoilt, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part(pictures.video), clean)
    each = blurred(pictures.video[:2], torch.tensor([0.2, 1.0]))
    assert torch.equal(blurred(pictures.video[1:2], torch.tensor([1.0]))[0], each[1])


def test_noise_of_the_second_upsampler_has_drawn_strengths(pictures):
    part = Degraded(EarlierFact(3, 1, (16, 16)), LatentFact(3, (1, 1, 1), Grid(1, 16, 16)), blur=(0, 0), noise=(0, 0.2))
    left = (part.spoilt(pictures.video, draw(64)) - pictures.video).flatten(1).std(dim=1)
    assert left.min() < 0.05 < 0.15 < left.max() < 0.22
    with pytest.raises(ValueError, match="noise"):
        Degraded(EarlierFact(3, 1, (16, 16)), LatentFact(3, (1, 1, 1), ONE), noise=(0.2, 0.1))


def test_crops_are_quarters_of_the_picture_and_of_what_stands_beside_it():
    """Every crop is the slice that its start says, of tokens, known ones and cells; the whole is the objective as it is."""
    seen: list[Example] = []

    class Listens(Ddpm.__mro__[1]):  # an objective that keeps what it is given
        name = ""
        process = Ddpm().process

        def loss(self, learner, example, draw, turn):
            seen.append(example)
            return Ddpm().loss(learner, example, draw, turn)

    grid = Grid(1, 8, 8)
    numbers = torch.arange(64.0).view(1, 64, 1).expand(40, 64, 3).clone()
    cells = torch.arange(256.0).view(1, 1, 1, 16, 16).expand(40, 1, 1, 16, 16)
    example = Example(
        Tokens.canvas(grid, 40).with_values(numbers), Conditioning(cells=cells), Batch(clips=tuple(range(40)))
    )
    known = Known(-numbers, numbers[..., 0] % 3 == 0)
    fact = TokenFact(3, grid, 3)

    class Zero(torch.nn.Module):
        def forward(self, noisy, level, told):
            return torch.zeros_like(noisy.filled())

    part = OnCrops(fact, size=(4, 4), objective=Listens())
    part.loss(Zero(), replace(example, conditioning=Conditioning(cells=cells, known=known)), draw(40), "learner")
    cut = seen[0]
    assert cut.tokens.grids[0] == Grid(1, 4, 4)
    assert cut.conditioning.cells.shape == (40, 1, 1, 8, 8)
    first = cut.tokens.filled()[:, 0, 0].long()
    y, x = first // 8, first % 8
    assert set(y.tolist()) == set(x.tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(cut.conditioning.cells[:, 0, 0, 0, 0].long(), 2 * y * 16 + 2 * x)
    picture = numbers[0, :, 0].view(8, 8)
    for i in range(40):
        want = picture[y[i] : y[i] + 4, x[i] : x[i] + 4]
        assert torch.equal(cut.tokens.as_grid()[i, 0, 0], want)
    shown = cut.conditioning.known
    assert torch.equal(shown.values, -cut.tokens.filled())
    assert torch.equal(shown.where, cut.tokens.filled()[..., 0] % 3 == 0)
    whole = OnCrops(fact, size=(8, 8), objective=Ddpm()).loss(Zero(), example, draw(40), "learner").total
    torch.testing.assert_close(whole, Ddpm().loss(Zero(), example, draw(40), "learner").total)


# Pictures as pairs


class Gaussian(LevelDenoiser):
    """The exact noise of data that is normal with a deviation of its own: eps = s x / (a^2 d^2 + s^2)."""

    name = ""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation, self.process = deviation, Ddpm().process

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        a, s = self.process.per_token(tokens, (level + 1) / 1000)
        return s * tokens.filled() / ((a * self.deviation) ** 2 + s * s)


LATENTS = LatentFact(2, (1, 1, 1), Grid(1, 4, 4))


def test_ddim_inversion_gives_the_source_back_and_eta_varies_it():
    """Error of the first order in the steps; x_T has unit variance; eta 1 forgets most of the source."""
    process, fact = Ddpm().process, TokenFact(2, Grid(1, 8, 8), 2)
    net, told = Gaussian(0.5), Conditioning()
    x0 = 0.5 * draw(16).normal("data", 64, 2)
    source = Tokens.canvas(Grid(1, 8, 8), 16).with_values(x0)
    errors = []
    for steps in (25, 100, 400):
        sampler = Bipartite(LATENTS, fact, process, steps=steps, eta=0.0)
        x_t = sampler.inverted(net, source, told)
        assert x_t.std().item() == pytest.approx(1.0, abs=0.12)
        errors.append((sampler.sample(net, source, told, draw(16)).filled() - x0).abs().max().item())
    assert errors[2] < errors[1] < errors[0] < 0.4
    assert errors[2] < 0.03
    varied = Bipartite(LATENTS, fact, process, steps=100, eta=1.0)
    one, other = (varied.sample(net, source, told, draw(16, step)).filled() for step in (0, 1))
    assert (one - other).abs().mean() > 0.2
    assert one.std().item() == pytest.approx(0.5, abs=0.05)
    fresh = varied.sample(net, source.with_values(None), told, draw(16)).filled()
    assert fresh.std().item() == pytest.approx(0.5, abs=0.05)
    assert varied.calls(source) == 200 == 2 * varied.calls(source.with_values(None))


def test_a_canvas_is_sampled_as_ddim_does():
    process, fact = Ddpm().process, TokenFact(2, Grid(1, 4, 4), 2)
    canvas, net = Tokens.canvas(Grid(1, 4, 4), 3), Gaussian(0.7)
    ours = Bipartite(LATENTS, fact, process, steps=20, eta=0.0).sample(net, canvas, Conditioning(), draw(3)).filled()
    theirs = Ddim(fact, process, steps=20).sample(net, canvas, Conditioning(), draw(3)).filled()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_clean_data_has_a_bound_in_pixels():
    """A network of noise that errs a little, under a schedule that ends in hardly any signal, says wild things of the
    clean data at first; bounded, they stay pictures."""

    class Erring(Gaussian):
        def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
            return super().forward(tokens, level, conditioning) + 0.2

    process, fact = Ddpm(schedule="cosine").process, TokenFact(2, Grid(1, 4, 4), 2)
    canvas, latents = Tokens.canvas(Grid(1, 4, 4), 3), replace(LATENTS, pixels=(0.5, 2.0))

    def most(clip_clean: float) -> float:
        sampler = Bipartite(latents, fact, process, steps=20, clip_clean=clip_clean)
        made = sampler.sample(Erring(0.5), canvas, Conditioning(), draw(3)).filled()
        return (made / 2.0 + 0.5).abs().max().item()

    assert most(0.0) > 3.0
    assert most(1.0) <= 1.0 + 1e-5


def test_slerp_keeps_length_and_ends_at_its_ends():
    torch.manual_seed(4)
    one, other = (torch.nn.functional.normalize(torch.randn(5, 64), dim=1) for _ in range(2))
    torch.testing.assert_close(slerp(one, other, 0.0), one, atol=1e-6, rtol=0)
    torch.testing.assert_close(slerp(one, other, 1.0), other, atol=1e-6, rtol=0)
    for share in (0.1, 0.5, 0.9):
        part = slerp(one, other, share)
        torch.testing.assert_close(part.norm(dim=1), torch.ones(5))
        whole, done = ((one * x).sum(1).acos() for x in (other, part))
        torch.testing.assert_close(done, share * whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slerp(one, one, 0.3), one)
    moved = turned(one, to=other, away=one, share=0.3)
    assert ((moved * other).sum(1) > (one * other).sum(1)).all()


def test_latents_that_are_not_video_need_a_further_stage(catalog):
    from mutoscope.core.errors import InputError
    from mutoscope.registry.assembly import assemble
    from mutoscope.registry.recipe import Recipe

    prior = {
        "autoencoder": {"type": "clip_image", "tower": {"type": "clip", "shipped": False}},
        "patchifier": {"type": "spacetime", "size": [1, 1, 1]},
        "conditioner": {"type": "clip_text", "tower": {"type": "clip", "shipped": False}},
        "denoiser": {"type": "unclip_prior", "width": 16, "depth": 1, "heads": 2},
        "objective": {"type": "ddpm", "predict": "clean"},
    }
    data = {"type": "shapes", "frames": 1, "clips": 4}
    alone = {"data": data, **prior, "sampler": "ancestral", "training": {"steps": 1}}
    with pytest.raises(InputError, match="a further stage must make video"):
        assemble(Recipe.of(alone), catalog, "meta")


def test_latents_of_one_clip_do_not_depend_on_others(tower, pictures):
    part = ClipImage(CLIP, tower=tower)
    whole: Latents = part.encode(pictures.video)
    torch.testing.assert_close(whole.values[:2], part.encode(pictures.video[:2]).values, atol=1e-5, rtol=1e-5)
