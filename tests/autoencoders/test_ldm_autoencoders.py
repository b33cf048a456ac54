"""The autoencoders of latent diffusion, their adversarial objective, and the variational autoencoder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.checks import checks_of
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ClipFact, FieldFact
from mutoscope.core.randomness import Draw
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch, Conditioning, Example, Features, Latents, Reconstruction
from mutoscope.plugins.autoencoders.elbo import Elbo
from mutoscope.plugins.autoencoders.kl import Kl
from mutoscope.plugins.autoencoders.patch_discriminator import Patch
from mutoscope.plugins.autoencoders.perceptual_adversarial import PerceptualAdversarial
from mutoscope.plugins.autoencoders.vae import Vae
from mutoscope.plugins.autoencoders.vq import Vq
from mutoscope.plugins.towers.lpips import Lpips

CLIP = ClipFact(3, 2, (16, 16))
DRAW = Draw(0, "test", 0, (0, 1, 2))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Edges(Tower):
    """A tower of one layer, small enough to reason about."""

    name = "test_edges"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, padding=1)

    def features(self, video, level=None) -> Features:
        return Features(sequence=self.conv(video).flatten(2).transpose(1, 2))


def nested(said, facts):
    if said.type == "patch":
        return Patch(facts.get(FieldFact), width=8, depth=1)
    return Edges()


PARTS = (Kl, Vq, Vae, Elbo, Patch, PerceptualAdversarial, Lpips)
CHECKS = [(part, check) for part in PARTS for check in checks_of(part, nested)]


@pytest.mark.parametrize(("part", "check"), CHECKS, ids=[f"{p.name}-{c.name}" for p, c in CHECKS])
def test_contract(part, check) -> None:
    check.run()


def video(clips: int = 3) -> torch.Tensor:
    return torch.rand(clips, 3, 2, 16, 16) * 2 - 1


COUNTS = {
    "kl f8": (Kl, {}, 83_653_863),
    "vq f4": (Vq, {}, 55_322_782),
    "vq f4 without attention": (Vq, {"middle": False}, 53_219_486),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_released_ones(name) -> None:
    part, settings, expected = COUNTS[name]
    with torch.device("meta"):
        built = part(ClipFact(3, 1, (256, 256)), **settings)
    assert sum(p.numel() for p in built.parameters()) == expected


def test_the_variational_autoencoders_count_follows_from_its_layers() -> None:
    assert sum(p.numel() for p in Vae(ClipFact(1, 1, (28, 28))).parameters()) == 815_824


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_every_down_factor_has_its_shapes(factor) -> None:
    multipliers = (1,) * (factor.bit_length())
    for part in (Kl, Vq):
        built = part(CLIP, channels=5, width=8, multipliers=multipliers, depth=1).eval()
        z = built.encode(video())
        assert z.values.shape == (3, 5, 2, 16 // factor, 16 // factor)
        assert built.decode(z).shape == (3, 3, 2, 16, 16)


@pytest.mark.parametrize("part", [Kl, Vq])
def test_frames_are_coded_alone(part) -> None:
    built, x = part(CLIP, **part.tiny).eval(), video()
    whole = built.encode(x).values
    for t in range(2):
        torch.testing.assert_close(whole[:, :, t : t + 1], built.encode(x[:, :, t : t + 1]).values)


def test_latents_are_scaled_to_unit_deviation() -> None:
    for part in (Kl, Vq):
        built, x = part(CLIP, **part.tiny).eval(), video(32)
        batch = Batch(video=x, clips=tuple(range(32)))
        built.begin([batch])
        before = built.decode(built.encode(x))
        built.finish([batch])
        z = built.encode(x)
        assert z.values.std().item() == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(built.decode(z), before, atol=1e-5, rtol=1e-4)
    still = Vq(CLIP, **{**Vq.tiny, "rescale": False})
    still.finish([batch])
    assert still.scale == 1


def test_the_quantiser_belongs_to_the_decoder() -> None:
    """Latents are before the codebook; decoding rounds them, so that latents near a code decode alike."""
    built = Vq(CLIP, **Vq.tiny).eval()
    built.begin([Batch(video=video(8), clips=tuple(range(8)))])
    z = built.encode(video())
    assert not z.ids
    with torch.no_grad():
        spread = torch.cdist(built.codebook.vectors, built.codebook.vectors).fill_diagonal_(9).min()
        ids = built._nearest(z.values)
        exact = built.codebook.look_up(ids)
        assert torch.equal(built.decode(Latents(exact)), built.decode(Latents(exact + 0.1 * spread * torch.ones(()))))
        assert torch.equal(built.decode(z), built.decode(Latents(exact)))
    codes = Vq(CLIP, **Vq.tiny, latents="ids").eval()
    codes.load_state_dict(built.state_dict())
    assert next(iter(codes.facts())).codebook == 16
    x = video()
    assert codes.encode(x).ids
    assert torch.equal(codes.decode(codes.encode(x)), built.decode(built.encode(x)))


def test_the_encoder_gets_the_decoders_gradient() -> None:
    """Straight through: the gradient at the latents is that at the quantised ones."""
    built = Vq(CLIP, **Vq.tiny)
    z = torch.randn(2, 4, 2, 4, 4, requires_grad=True)
    quantised, _, _ = built.codebook(z)
    quantised.retain_grad()
    built._decoded(quantised).square().sum().backward()
    assert quantised.grad is not None
    assert torch.equal(z.grad, quantised.grad)  # type: ignore[arg-type]


def test_the_posteriors_divergence_is_in_nats_per_clip() -> None:
    built, x = Kl(CLIP, **Kl.tiny), video()
    mu, log_variance = built._posterior(x)
    q = torch.distributions.Normal(mu, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(built(x, DRAW).terms["kl"], expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        built.posterior.bias.add_(100.0)
    assert built._posterior(x)[1].max() == 20


# Against diffusers


def matched(ours: nn.Module, theirs: nn.Module) -> None:
    """Copies diffusers' AutoencoderKL into ours, block by block."""

    def same(mine: nn.Module, other: nn.Module) -> None:
        mine.load_state_dict(other.state_dict())

    def residual(mine, other) -> None:
        for a, b in (("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2")):
            same(getattr(mine, a), getattr(other, b))
        if other.conv_shortcut is not None:
            same(mine.skip, other.conv_shortcut)

    def attention(mine, other) -> None:
        same(mine.norm, other.group_norm)
        heads = (other.to_q, other.to_k, other.to_v)
        mine.qkv.weight.copy_(torch.cat([layer.weight for layer in heads])[..., None, None])
        mine.qkv.bias.copy_(torch.cat([layer.bias for layer in heads]))
        mine.out.weight.copy_(other.to_out[0].weight[..., None, None])
        mine.out.bias.copy_(other.to_out[0].bias)

    with torch.no_grad():
        for mine, other, blocks in (
            (ours.encoder, theirs.encoder, theirs.encoder.down_blocks),
            (ours.decoder, theirs.decoder, theirs.decoder.up_blocks),
        ):
            same(mine.embed, other.conv_in)
            same(mine.norm, other.conv_norm_out)
            same(mine.out, other.conv_out)
            residual(mine.middle[0], other.mid_block.resnets[0])
            attention(mine.middle[1], other.mid_block.attentions[0])
            residual(mine.middle[2], other.mid_block.resnets[1])
            layers = iter(mine.down if hasattr(mine, "down") else mine.up)
            for block in blocks:
                for resnet in block.resnets:
                    residual(next(layers), resnet)
                for change in (getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)) or ():
                    same(next(layers).conv, change.conv)
        same(ours.posterior, theirs.quant_conv)
        same(ours.prior, theirs.post_quant_conv)


def test_same_weights_same_outputs_as_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(128, 256, 256),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
    ).eval()
    ours = Kl(CLIP, channels=4, width=128, multipliers=(1, 2, 2), depth=2).eval()
    matched(ours, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x = video(2)
    with torch.no_grad():
        posterior = theirs.encode(x[:, :, 0]).latent_dist
        mu, log_variance = ours._posterior(x[:, :, :1])
        torch.testing.assert_close(mu[:, :, 0], posterior.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(log_variance[:, :, 0], posterior.logvar, atol=1e-5, rtol=1e-5)
        decoded = ours.decode(Latents(mu))[:, :, 0]
        torch.testing.assert_close(decoded, theirs.decode(posterior.mean).sample, atol=1e-5, rtol=1e-5)


# Perceptual and adversarial training


def trained(start: int = 0, **settings) -> PerceptualAdversarial:
    field = FieldFact(3, 2, (16, 16))
    return PerceptualAdversarial(
        CLIP, perceptual=Edges(), discriminator=Patch(field, width=8, depth=1), start=start, **settings
    )


def example() -> Example:
    return Example(None, Conditioning(), Batch(video=video(), clips=(0, 1, 2)))


def test_the_discriminator_takes_part_from_its_start_on() -> None:
    part = trained(start=5)
    assert part.turns(4) == ("learner",)
    assert part.turns(5) == ("learner", "discriminator")
    ours = Kl(CLIP, **Kl.tiny)
    early = part.loss(ours, example(), Draw(0, "t", 4, (0, 1, 2)), "learner")
    late = part.loss(ours, example(), Draw(0, "t", 5, (0, 1, 2)), "learner")
    assert "adversarial" not in early.parts
    assert "adversarial" in late.parts


def test_the_adaptive_weight_balances_gradients_at_the_last_layer() -> None:
    """The weighted adversarial gradient there is as long as the reconstruction's."""
    part, ours, given, draw = (
        trained(adversarial=1.0, kl=0.0),
        Kl(CLIP, **Kl.tiny),
        example(),
        Draw(0, "t", 0, (0, 1, 2)),
    )
    last = ours.decoder.out.weight
    assert [p for p in ours.parameters() if p.ndim >= 2][-1] is last
    made = ours(given.batch.video, draw).video
    x, values = given.batch.video, 3 * 2 * 256
    rebuilds = values * ((made - x).abs().mean() + part.distance(made, x))
    wants = -part.judged(made).mean()
    weight = part.adaptive(rebuilds, wants, ours)
    own = torch.autograd.grad(rebuilds, last, retain_graph=True)[0].norm()
    other = torch.autograd.grad(weight * wants, last)[0].norm()
    assert float(other / own) == pytest.approx(1, rel=0.05)


def test_each_turn_moves_its_own_player() -> None:
    part, ours, given, draw = trained(), Kl(CLIP, **Kl.tiny), example(), Draw(0, "t", 0, (0, 1, 2))
    part.loss(ours, given, draw, "discriminator").total.backward()
    assert all(p.grad is None for p in ours.parameters())
    assert all(p.grad is not None for p in part.discriminator.parameters())
    assert all(not p.requires_grad for p in part.perceptual.parameters())
    part.loss(ours, given, draw, "learner").total.backward()
    assert all(p.grad is not None for p in ours.parameters())


def test_sums_and_means_differ_by_the_number_of_values() -> None:
    ours, given, draw = Kl(CLIP, **Kl.tiny), example(), Draw(0, "t", 0, (0, 1, 2))
    torch.manual_seed(1)
    one = trained(start=9, kl=0.0).loss(ours, given, draw, "learner").total
    torch.manual_seed(1)
    other = trained(start=9, kl=0.0, reduce="mean").loss(ours, given, draw, "learner").total
    assert float(one / other) == pytest.approx(3 * 2 * 256, rel=1e-4)


def test_the_discriminator_is_hinged() -> None:
    """Beyond the margin it has nothing to gain; its loss at zero scores is 1."""
    part, ours, given = trained(), Kl(CLIP, **Kl.tiny), example()
    with torch.no_grad():
        for p in part.discriminator.parameters():
            p.zero_()
    loss = part.loss(ours, given, Draw(0, "t", 0, (0, 1, 2)), "discriminator").total
    assert float(loss) == pytest.approx(1.0)


def test_a_perceptual_distance_is_none_between_equals() -> None:
    part, x = trained(), video()
    assert part.distance(x, x) == 0
    assert part.distance(x, -x) > 0


def test_lpips_is_the_published_distance() -> None:
    """Against its formula written out: unit features, squared differences weighed per channel, means over places."""
    part, a, b = Lpips().eval(), video(2), video(2)
    with torch.no_grad():
        for weights in part.channels:
            weights.uniform_(0, 2)
        ours = (part.features(a).pooled - part.features(b).pooled).square().sum(1)  # type: ignore[operator]
        expected = torch.zeros(2)
        for t in range(2):
            x, y = ((v[:, :, t] - part.mean) / part.deviation for v in (a, b))
            for i, level in enumerate(part.levels):
                if i:
                    x, y = nn.functional.max_pool2d(x, 2), nn.functional.max_pool2d(y, 2)
                for conv in level:  # type: ignore[union-attr]
                    x, y = conv(x).relu(), conv(y).relu()
                gap = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)).square()
                expected += (gap * part.channels[i].view(-1, 1, 1)).sum(1).mean((1, 2)) / 2
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)
    assert sum(p.numel() for p in part.levels.parameters()) == 14_714_688  # VGG-16 without its head


def test_a_patchs_score_sees_seventy_pixels() -> None:
    part = Patch(FieldFact(1, 1, (256, 256)), width=4, depth=3).eval()
    x = torch.randn(1, 1, 1, 256, 256, requires_grad=True)
    scores = part(x, Conditioning())
    assert scores.shape == (1, 30 * 30)
    scores[0, 15 * 30 + 15].backward()
    touched = x.grad[0, 0, 0].abs() > 0  # type: ignore[index]
    assert int(touched.any(0).sum()) == 70 == int(touched.any(1).sum())


# The variational bound


class Linear(Autoencoder):
    """x = w z + b + s noise with the exact posterior, over one frame of one pixel: the bound is the likelihood."""

    name = "test_linear"

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.w, self.b, self.s, self.shift = 1.5, 0.3, 0.4, shift

    def encode(self, video): ...
    def decode(self, latents): ...
    def latent_grid(self, frames, size): ...
    def video_size(self, grid): ...
    def facts(self): ...

    def forward(self, video, draw) -> Reconstruction:
        x = video.flatten(1).double()
        precision = 1 + self.w**2 / self.s**2
        mu = (self.w * (x - self.b) / self.s**2) / precision + self.shift
        kl = 0.5 * (mu**2 + 1 / precision - 1 + math.log(precision))
        # The likelihood's expectation under the posterior, in closed form.
        square = (x - self.b - self.w * mu) ** 2 + self.w**2 / precision
        nll = 0.5 * (math.log(2 * math.pi * self.s**2) + square / self.s**2)
        return Reconstruction(video, {"kl": kl.sum(1).mean(), "nll": nll.sum(1).mean()})


def test_with_the_exact_posterior_the_bound_is_the_likelihood() -> None:
    x = torch.randn(64, 1, 1, 1, 1)
    given = Example(None, Conditioning(), Batch(video=x, clips=tuple(range(64))))
    draw = Draw(0, "t", 0, tuple(range(64)))
    variance = 1.5**2 + 0.4**2
    truth = 0.5 * (math.log(2 * math.pi * variance) + (x - 0.3) ** 2 / variance).mean()
    loss = Elbo().loss(Linear(), given, draw, "learner")
    assert float(loss.parts["bound"]) == pytest.approx(float(truth), abs=1e-5)
    off = Elbo().loss(Linear(0.2), given, draw, "learner")
    precision = 1 + 1.5**2 / 0.4**2
    assert float(off.parts["bound"] - loss.parts["bound"]) == pytest.approx(0.5 * 0.2**2 * precision, abs=1e-5)


def test_both_estimators_of_the_divergence_agree_in_the_mean() -> None:
    clip = ClipFact(1, 1, (4, 4))
    torch.manual_seed(0)
    analytic = Vae(clip, latents=3, width=8)
    sampled = Vae(clip, latents=3, width=8, estimator="sampled")
    sampled.load_state_dict(analytic.state_dict())
    x = torch.rand(1, 1, 1, 4, 4).expand(40_000, -1, -1, -1, -1) * 2 - 1
    draw = Draw(0, "t", 0, tuple(range(40_000)))
    with torch.no_grad():
        one, other = analytic(x, draw).terms["kl"], sampled(x, draw).terms["kl"]
    assert float(one) == pytest.approx(float(other), abs=0.02)


def test_the_gradient_goes_through_the_sample() -> None:
    """d/d mu of E[z^2] is 2 mu."""
    part = Vae(ClipFact(1, 1, (2, 2)), latents=1, width=2)
    mu = torch.full((50_000, 1), 0.7, requires_grad=True)
    z = mu + 0.5 * Draw(0, "t", 0, tuple(range(50_000))).normal("posterior", 1)
    z.square().mean().backward()
    assert float(mu.grad.sum()) == pytest.approx(1.4, abs=0.02)  # type: ignore[union-attr]
    x = torch.rand(2, 1, 1, 2, 2)
    part(x, Draw(0, "t", 0, (0, 1))).terms["nll"].backward()
    assert part.posterior.weight.grad is not None
    assert part.posterior.weight.grad[0].abs().sum() > 0


def test_likelihoods_are_those_of_torch() -> None:
    clip = ClipFact(3, 2, (4, 4))
    x = (torch.rand(3, 3, 2, 4, 4) > 0.5).float() * 2 - 1
    for decoder in ("bernoulli", "gaussian"):
        part = Vae(clip, latents=3, width=8, decoder=decoder)
        made = part(x, DRAW)
        mu, log_variance = part._posterior(x)
        z = mu + (0.5 * log_variance).exp() * DRAW.normal("posterior", *mu.shape[1:])
        logits, spread = part._decoded(z)
        if decoder == "bernoulli":
            p = torch.distributions.Bernoulli(logits=logits)
        else:
            assert spread is not None
            p = torch.distributions.Normal(logits.sigmoid(), (0.5 * spread).exp())
        expected = -p.log_prob((x + 1) / 2).flatten(1).sum(1).mean()
        torch.testing.assert_close(made.terms["nll"], expected, rtol=1e-4, atol=1e-3)


def test_a_discriminator_is_an_opponent() -> None:
    part = trained()
    assert isinstance(part.opponents()["discriminator"], Discriminator)
