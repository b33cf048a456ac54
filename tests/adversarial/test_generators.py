"""What the generators must do for the mechanism to be the paper's."""

from __future__ import annotations

import torch

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
