"""What the generators must do for the mechanism to be the paper's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mutoscope.core.facts import ConditioningFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Grid, Known, Tokens
from mutoscope.plugins.adversarial.vgan import composed

CANVAS = Tokens.canvas(Grid(4, 8, 8), 3)
DRAW = Draw(0, "sample", 0, (0, 1, 2))


def video(learner, noise, told=None, canvas=CANVAS):
    return canvas.with_values(learner(noise, canvas, told or Conditioning())).as_grid()


# VGAN


def test_vgan_composes_foreground_and_background_by_its_mask(make):
    learner = make("denoiser", "vgan", code=8, width=4, doublings=2).eval()
    noise = learner.noise(CANVAS, DRAW)
    f, m, b = learner.parted(noise, Conditioning())
    assert m.shape == (3, 1, 4, 8, 8) and b.shape == (3, 3, 1, 8, 8)
    assert m.min() >= 0 and m.max() <= 1 and m.std() > 0
    torch.testing.assert_close(video(learner, noise), m * f + (1 - m) * b, atol=1e-6, rtol=0)
    none, whole = torch.zeros_like(m), torch.ones_like(m)
    assert composed(f, none, b).var(dim=2).max() == 0, "a background alone stands still"
    assert torch.equal(composed(f, whole, b), f)
    assert video(learner, noise).var(dim=2).max() > 0


def test_vgan_weighs_the_mean_of_its_mask(make):
    learner = make("denoiser", "vgan", code=8, width=4, doublings=2).eval()
    noise = learner.noise(CANVAS, DRAW)
    terms = learner.explained(noise, CANVAS, Conditioning())[1]
    torch.testing.assert_close(terms["mask"], learner.parted(noise, Conditioning())[1].mean())


def test_vgan_image_goes_on_from_the_image_it_is_shown(make):
    learner = make("denoiser", "vgan_image", width=4, doublings=2).eval()
    noise = learner.noise(CANVAS, DRAW)
    where = torch.zeros(3, 256, dtype=torch.bool)
    where[:2, :64] = True
    values = torch.randn(3, 256, 3)
    base = video(learner, noise, Conditioning(known=Known(values, where)))
    other = video(learner, noise, Conditioning(known=Known(values + 1.0, where)))
    assert not torch.allclose(base[:2], other[:2]), "the image makes no difference"
    torch.testing.assert_close(base[2], other[2], msg="a clip without an image depends on it")
    later = values.clone()
    later[:, 64:] += 1.0
    torch.testing.assert_close(base, video(learner, noise, Conditioning(known=Known(later, where))))
    terms = learner.explained(noise, CANVAS, Conditioning(known=Known(values, where)))[1]
    image = CANVAS.with_values(values).as_grid()[:, :, 0]
    expected = (base[:2, :, 0] - image[:2]).square().sum() / base[:, :, 0].numel()
    torch.testing.assert_close(terms["first"], expected)


# MoCoGAN


def test_mocogan_keeps_content_and_motion_apart(make):
    learner = make("denoiser", "mocogan", content=6, motion=4, width=4, doublings=2).eval()
    one, other = learner.noise(CANVAS, DRAW), learner.noise(CANVAS, DRAW.at(1))
    torch.testing.assert_close(learner.codes(one), learner.codes({**one, "content": other["content"]}))
    walked = learner.codes(one)
    assert walked.shape == (3, 4, 4)
    assert walked.std(dim=1).min() > 0, "every frame has its own motion code"
    assert not torch.allclose(walked[:, 0], learner.codes({**one, "start": other["start"]})[:, 0])


def test_mocogan_frames_with_one_motion_code_are_one_frame(make):
    """Frames depend on content and their own motion code alone: the same code at two times gives the same frame."""
    learner = make("denoiser", "mocogan", content=6, motion=4, width=4, doublings=2).eval()
    noise = learner.noise(CANVAS, DRAW)
    changed = {**noise, "motion": noise["motion"].clone()}
    changed["motion"][:, 2:] += 1.0
    a, b = video(learner, noise), video(learner, changed)
    torch.testing.assert_close(a[:, :, :2], b[:, :, :2], msg="later motion changes earlier frames")
    assert not torch.allclose(a[:, :, 2:], b[:, :, 2:])


def test_mocogan_category_takes_either_route(make):
    for route in ("content", "motion"):
        learner = make(
            "denoiser", "mocogan", content=6, motion=4, categories=4, category_to=route, width=4, doublings=2
        ).eval()
        noise = learner.noise(CANVAS, DRAW)
        other = {**noise, "category": (noise["category"] + 1) % 4}
        same_walk = torch.allclose(learner.codes(noise), learner.codes(other))
        assert same_walk == (route == "content")
        assert not torch.allclose(video(learner, noise), video(learner, other))


def test_mocogan_makes_clips_of_any_length(make):
    learner = make("denoiser", "mocogan", content=6, motion=4, width=4, doublings=2).eval()
    canvas = Tokens.canvas(Grid(9, 8, 8), 3)
    assert video(learner, learner.noise(canvas, DRAW), canvas=canvas).shape == (3, 3, 9, 8, 8)


def test_the_image_discriminator_sees_any_frame(make):
    critic = make("discriminator", "patch_frames", width=4, depth=1)
    numbered = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(200, 3, 4, 8, 8)
    shown = critic.view(numbered, Draw(0, "t", 0, tuple(range(200))))
    assert shown.shape == (200, 3, 1, 8, 8)
    counts = torch.bincount(shown[:, 0, 0, 0, 0].long(), minlength=4)
    assert counts.min() > 25, f"frames are seen {counts.tolist()} times"


# DVD-GAN


def test_dvdgan_makes_clips_of_any_length_and_moves_by_its_recurrence(make):
    learner = make("denoiser", "dvdgan", content=6, width=4, multipliers=(2, 1)).eval()
    stir(learner)
    noise = learner.noise(CANVAS, DRAW)
    longer = Tokens.canvas(Grid(7, 8, 8), 3)
    four, seven = video(learner, noise), video(learner, noise, canvas=longer)
    assert seven.shape == (3, 3, 7, 8, 8)
    torch.testing.assert_close(
        seven[:, :, :4], four, msg="a frame depends on later ones, though no convolution goes over time"
    )
    assert four.var(dim=2).max() > 0


def test_dvdgan_goes_on_from_known_frames_alone(make):
    learner = make("denoiser", "dvdgan", content=6, width=4, multipliers=(2, 1), frames=2).eval()
    stir(learner)
    noise = learner.noise(CANVAS, DRAW)
    values = torch.randn(3, 256, 3)
    where = (torch.arange(256) < 128).expand(3, -1)
    base = video(learner, noise, Conditioning(known=Known(values, where)))
    opening, later = values.clone(), values.clone()
    opening[:, :128] += 1.0
    later[:, 128:] += 1.0
    assert not torch.allclose(base, video(learner, noise, Conditioning(known=Known(opening, where))))
    torch.testing.assert_close(base, video(learner, noise, Conditioning(known=Known(later, where))))
    none = Conditioning(known=Known(values, torch.zeros_like(where)))
    torch.testing.assert_close(video(learner, noise), video(learner, noise, none))


def test_the_spatial_discriminator_cannot_tell_the_order_of_frames_and_the_temporal_one_can(make):
    grid = torch.randn(3, 3, 4, 8, 8)
    turned = grid[:, :, [2, 0, 3, 1]]
    spatial = make("discriminator", "dvd_spatial", width=4, multipliers=(1, 2), frames=4).eval()
    temporal = make("discriminator", "dvd_temporal", width=4, multipliers=(1, 2)).eval()
    torch.testing.assert_close(spatial(grid, Conditioning()), spatial(turned, Conditioning()))
    assert not torch.allclose(temporal(grid, Conditioning()), temporal(turned, Conditioning()), rtol=1e-3)


def test_the_temporal_discriminator_is_blind_to_what_pooling_hides(make):
    grid = torch.randn(3, 3, 4, 8, 8)
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1.0).expand_as(grid)
    spatial = make("discriminator", "dvd_spatial", width=4, multipliers=(1, 2), frames=4).eval()
    temporal = make("discriminator", "dvd_temporal", width=4, multipliers=(1, 2)).eval()
    torch.testing.assert_close(
        temporal(grid, Conditioning()), temporal(grid + board, Conditioning()), atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(spatial(grid, Conditioning()), spatial(grid + board, Conditioning()), rtol=1e-3)


def test_the_spatial_discriminator_is_shown_frames_that_are_not_neighbours(make):
    critic = make("discriminator", "dvd_spatial", width=4, multipliers=(1, 2), frames=2)
    numbered = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(100, 3, 4, 8, 8)
    shown = critic.view(numbered, Draw(0, "t", 0, tuple(range(100))))[:, 0, :, 0, 0]
    assert (shown[:, 1] > shown[:, 0]).all()
    assert ((shown[:, 1] - shown[:, 0]) > 1).any()


# LongVideoGAN


LONG = {
    "noise_channels": 2, "filters": 6, "footprints": (3, 65), "base": 12, "temporal": (12, 12, 8), "doublings": 2,
    "in_space": 1, "spatial": (8,), "padding": 8,
}  # fmt: skip


def test_longvideogan_filters_order_by_time_scale(make):
    learner = make("denoiser", "longvideogan", **LONG)
    torch.testing.assert_close(learner.filters.norm(dim=1), torch.ones(6))
    canvas = Tokens.canvas(Grid(400, 8, 8), 3)
    smooth = learner.smoothed(learner.noise(canvas, DRAW)["motion"])
    assert abs(smooth.std() - 1.0) < 0.2, "each is of unit size"

    def memory(x: torch.Tensor) -> float:
        """Frames until the autocorrelation is under a half."""
        x = x - x.mean(1, keepdim=True)
        power = x.square().mean()
        return next(k for k in range(1, 200) if (x[:, k:] * x[:, :-k]).mean() / power < 0.5)

    lengths = [memory(smooth[..., [i, 6 + i]]) for i in range(6)]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 5 * lengths[0]


def test_longvideogan_shifts_with_its_noise(make):
    learner = make("denoiser", "longvideogan", **LONG).eval()
    canvas = Tokens.canvas(Grid(16, 8, 8), 3)
    noise = learner.noise(canvas, DRAW)
    more = torch.cat([noise["motion"], DRAW.at(1).normal("more", learner.step, 2)], dim=1)
    now = video(learner, {"motion": more[:, : -learner.step]}, canvas=canvas)
    then = video(learner, {"motion": more[:, learner.step :]}, canvas=canvas)
    torch.testing.assert_close(now[:, :, learner.step :], then[:, :, : -learner.step], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(now, then, atol=1e-2)


def test_longvideogan_changes_over_time_and_its_ends_are_not_special(make):
    learner = make("denoiser", "longvideogan", **LONG).eval()
    short, long = Tokens.canvas(Grid(8, 8, 8), 3), Tokens.canvas(Grid(16, 8, 8), 3)
    noise = learner.noise(long, DRAW)
    first = {"motion": noise["motion"][:, : learner.noise(short, DRAW)["motion"].shape[1]]}
    a, b = video(learner, first, canvas=short), video(learner, noise, canvas=long)
    torch.testing.assert_close(a, b[:, :, :8], atol=1e-4, rtol=1e-4)
    assert b.std(dim=2).mean() > 0.01


def test_the_upsampler_sees_four_frames_on_either_side_and_no_more(make, facts):
    given = facts.with_([ConditioningFact(cells=3)])
    learner = make("denoiser", "longvideogan_upsampler", given, code=8, widths=(8, 8), doublings=1, context=4).eval()
    canvas = Tokens.canvas(Grid(16, 8, 8), 2)
    noise, low = learner.noise(canvas, DRAW.of([0, 1])), torch.randn(2, 3, 16, 8, 8)
    base = video(learner, noise, Conditioning(cells=low), canvas)

    def moved(frame: int) -> torch.Tensor:
        """Which frames change with one low-resolution frame."""
        other = low.clone()
        other[:, :, frame] += 1.0
        return (video(learner, noise, Conditioning(cells=other), canvas) - base).abs().amax((0, 1, 3, 4)) > 1e-6

    assert moved(8).nonzero().flatten().tolist() == list(range(4, 13))
    assert not torch.allclose(base, video(learner, {"content": -noise["content"]}, Conditioning(cells=low), canvas))


def test_the_upsampler_bends_between_filters(make, facts):
    """Its matrices are the strided filters of torch, over rows and columns of different number."""
    given = facts.with_([ConditioningFact(cells=3)])
    learner = make("denoiser", "longvideogan_upsampler", given, code=8, widths=(8, 8), doublings=1, context=4)
    x, taps = torch.randn(2, 1, 1, 5, 8), learner.taps
    both = taps[:, None] * taps
    finer = F.conv_transpose2d(x[:, 0], 4.0 * both[None, None], stride=2, padding=5)
    coarse = F.conv2d(F.leaky_relu(finer, 0.2) * 2**0.5, both[None, None], stride=2, padding=5)
    torch.testing.assert_close(learner._bent(x)[:, 0], coarse, atol=1e-5, rtol=1e-5)


def test_pairs_of_frames_are_judged_with_their_low_resolution_and_without(make, facts):
    given = facts.with_([ConditioningFact(cells=3)])
    critic = make("discriminator", "frame_pairs", given, widths=(4, 8), frames=2, blank=1.0)
    grid, told = torch.randn(3, 3, 4, 8, 8), Conditioning(cells=torch.randn(3, 3, 4, 8, 8))
    none = Conditioning(cells=torch.zeros(3, 3, 4, 8, 8))
    assert critic(grid, told).shape == (3, 2)
    torch.testing.assert_close(critic.train()(grid, told), critic(grid, none))
    assert not torch.allclose(critic.eval()(grid, told), critic(grid, none))


def stir(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))


def test_spectral_norms_are_held_at_one():
    from mutoscope.plugins.adversarial.spectral import HeldConv

    layer = HeldConv(6, 10)
    torch.testing.assert_close(torch.linalg.matrix_norm(layer.held().flatten(1), 2), torch.tensor(1.0))
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) * 5)
    for _ in range(200):
        layer.held()
    torch.testing.assert_close(
        torch.linalg.matrix_norm(layer.held().flatten(1), 2), torch.tensor(1.0), rtol=1e-3, atol=0
    )
