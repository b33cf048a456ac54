"""ViViT: published counts of the four models, who sees whom in each, and image weights as a start."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from mutoscope.core.checks import Straight, checks_of
from mutoscope.core.facts import ClipFact, ConditioningFact, TokenFact
from mutoscope.core.values import Conditioning, Grid, Tokens
from mutoscope.plugins.patches.factorised import Alternating, Halves, Plain
from mutoscope.plugins.patches.vit import VitTower
from mutoscope.plugins.patches.vivit import VivitDenoiser, VivitTower
from mutoscope.registry.counting import flops_of

COUNTS = {(1, 4): 88_954_000, (2, 4): 115_062_928, (3, 4): 117.3e6, (4, 4): 88.9e6, (2, 0): 86.7e6}
"""ViViT-B/16x2 on 32 frames with 400 classes, by model and blocks over time; Arnab et al. 2021, table 2."""
GFLOPS = {(1, 4): 455.2, (2, 4): 284.4, (3, 4): 372.3, (4, 4): 277.1, (2, 0): 283.9}
MODELS: tuple[Literal[1, 2, 3, 4], ...] = (1, 2, 3, 4)


def published(model: int, temporal: int) -> VivitTower:
    with torch.device("meta"):
        clip = ClipFact(3, 32, (224, 224), classes=400)
        return VivitTower(clip, model=model, tubelet=(2, 16, 16), width=768, depth=12, heads=12, temporal=temporal)


@pytest.mark.parametrize(("model", "temporal"), COUNTS)
def test_published_counts(model: int, temporal: int) -> None:
    count, expected = sum(p.numel() for p in published(model, temporal).parameters()), COUNTS[model, temporal]
    if isinstance(expected, int):
        assert count == expected
    else:
        assert abs(count - expected) < 0.06e6


CLIP = ClipFact(3, 4, (16, 16), classes=5)


def tower(model: int, **settings) -> VivitTower:
    torch.manual_seed(0)
    made = VivitTower(CLIP, model=model, tubelet=(2, 8, 8), width=24, depth=2, heads=2, temporal=1, **settings)
    return stirred(made)


def stirred(part):
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return part.eval()


@pytest.mark.parametrize("model", MODELS)
def test_the_tower_classifies(model: int) -> None:
    made = tower(model).features(torch.randn(2, 3, 4, 16, 16))
    assert made.logits.shape == (2, 5)
    assert made.sequence.shape == (2, 8, 24)
    assert made.pooled.shape == (2, 24)


# Who sees whom


def touched(f, x: Tensor, at: tuple[int, int]) -> Tensor:
    """Which tokens (t, s) of the output change when one of the input does."""
    base, changed = f(x), x.clone()
    changed[0, at[0], at[1]] += torch.linspace(-1, 2, x.shape[-1])  # a norm would not see a constant
    return ((f(changed) - base).abs() > 1e-6).any(-1)[0]


def test_one_layer_of_model_4_looks_over_space_and_over_time() -> None:
    """The spatial half does not see other frames, the temporal half not other places."""
    torch.manual_seed(0)
    block = stirred(Halves(16, 4, 32, Plain))
    h = torch.randn(1, 3, 5, 16)
    space = touched(lambda x: block.mixed(x)[..., :8], h, (1, 2))
    time = touched(lambda x: block.mixed(x)[..., 8:], h, (1, 2))
    expected_space, expected_time = torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    expected_space[1], expected_time[:, 2] = True, True
    assert torch.equal(space, expected_space)
    assert torch.equal(time, expected_time)


def test_the_reach_of_one_block() -> None:
    """Joint and alternating blocks reach every token; halves reach a cross of frame and place."""
    x = torch.randn(1, 3, 5, 16)
    torch.manual_seed(0)
    assert touched(stirred(Alternating(16, 4, 32, Plain)), x, (1, 2)).all()
    cross = torch.zeros(3, 5, dtype=torch.bool)
    cross[1], cross[:, 2] = True, True
    assert torch.equal(touched(stirred(Halves(16, 4, 32, Plain)), x, (1, 2)), cross)


@pytest.mark.parametrize("model", MODELS)
def test_the_denoisers_see_the_whole_clip(model: Literal[1, 2, 3, 4]) -> None:
    part = denoiser(model)
    x = torch.randn(1, 2, 4, 6)

    def f(x: Tensor) -> Tensor:
        tokens = Tokens.canvas(Grid(2, 2, 2), 1).with_values(x.flatten(1, 2))
        return part(tokens, torch.tensor([300.0]), Conditioning(pooled=torch.ones(1, 4))).view(x.shape)

    assert touched(f, x, (0, 1)).all()


def test_model_2_keeps_times_apart_in_its_first_encoder() -> None:
    part = denoiser(2, temporal=0)
    x = torch.randn(1, 2, 4, 6)

    def f(x: Tensor) -> Tensor:
        tokens = Tokens.canvas(Grid(2, 2, 2), 1).with_values(x.flatten(1, 2))
        return part(tokens, torch.tensor([300.0]), Conditioning(pooled=torch.ones(1, 4))).view(x.shape)

    seen = touched(f, x, (0, 1))
    assert seen[0].all()
    assert not seen[1].any()


def denoiser(model: Literal[1, 2, 3, 4], **settings) -> VivitDenoiser:
    torch.manual_seed(0)
    fact = TokenFact(6, Grid(2, 2, 2), channels=6)
    given = ConditioningFact(pooled=4)
    return stirred(
        VivitDenoiser(fact, given, Straight(), model=model, width=16, depth=2, heads=2, **{"temporal": 1, **settings})
    )


@pytest.mark.parametrize("model", MODELS)
def test_the_denoisers_hold_the_contract(model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VivitDenoiser, "tiny", {**VivitDenoiser.tiny, "model": model})
    monkeypatch.setattr(VivitTower, "tiny", {**VivitTower.tiny, "model": model})
    for check in (*checks_of(VivitDenoiser), *checks_of(VivitTower)):
        check.run()


# From images


def image_vit() -> VitTower:
    torch.manual_seed(3)
    return stirred(VitTower(ClipFact(3, 1, (16, 16), classes=5), patch=8, width=24, depth=2, heads=2))


@pytest.mark.parametrize("inflate", ["central", "inflated"])
@pytest.mark.parametrize("model", MODELS)
def test_a_still_video_has_the_tokens_of_the_image(model: int, inflate: str) -> None:
    """By central frame and by inflation the embedded tubelets of a still video are timm's patches, exactly."""
    image, video = image_vit(), tower(model, inflate=inflate)
    video.load_state_dict(video.adapted(image.state_dict()))
    picture = torch.randn(1, 3, 1, 16, 16)
    still = picture.expand(-1, -1, 4, -1, -1)
    embedded = image.embed(picture[:, :, 0]) - image._positions(Grid(1, 2, 2), picture.device)
    for tokens in video.tokens(still)[0]:
        torch.testing.assert_close(tokens, embedded[0], atol=1e-5, rtol=0)


def test_model_2_of_a_still_video_has_the_features_of_the_image() -> None:
    """Model 2's first encoder is timm's ViT on the same weights, time by time."""
    image, video = image_vit(), tower(2)
    video.load_state_dict(video.adapted(image.state_dict()))
    picture = torch.randn(2, 3, 1, 16, 16)
    with torch.no_grad():
        made = video.features(picture.expand(-1, -1, 4, -1, -1)).sequence
        theirs = image.features(picture).sequence
    torch.testing.assert_close(made, torch.cat([theirs, theirs], dim=1), atol=1e-5, rtol=0)


def test_model_3_starts_as_the_model_of_each_frame() -> None:
    """With attention over time closed, as it is at first, no frame sees another."""
    torch.manual_seed(0)
    part = VivitTower(CLIP, model=3, tubelet=(1, 8, 8), width=24, depth=2, heads=2)
    video = torch.randn(1, 3, 4, 16, 16)
    whole = part.encoded(part.tokens(video))[0].view(1, 4, 4, 24)
    moved = video.clone()
    moved[:, :, 2] += 1
    changed = part.encoded(part.tokens(moved))[0].view(1, 4, 4, 24)
    same = (whole == changed).all(-1).all(-1)[0]
    assert same.tolist() == [True, True, False, True]


def test_positions_are_repeated_over_time() -> None:
    image, video = image_vit(), tower(1)
    adapted = video.adapted(image.state_dict())["positions"]
    table = image.network.pos_embed[0]
    assert torch.equal(adapted, torch.cat([table[:1], table[1:], table[1:]]))


def test_uniform_sampling_embeds_single_frames() -> None:
    part = tower(1, sampling="uniform")
    video = torch.randn(1, 3, 4, 16, 16)
    base = part.tokens(video)
    assert base.shape == (1, 2, 4, 24)
    assert part.sampled == [1, 3]
    for frame in (0, 2):
        video[:, :, frame] += 1
    assert torch.equal(part.tokens(video), base)


@pytest.mark.parametrize("model", MODELS)
def test_an_image_denoiser_becomes_a_video_denoiser(model: Literal[1, 2, 3, 4]) -> None:
    """Of tubelets of one frame on images, to tubelets of two: a still clip is embedded as the image is."""
    given = ConditioningFact(pooled=4)
    settings = {"model": model, "width": 16, "depth": 1, "heads": 2, "temporal": 1}
    torch.manual_seed(0)
    image = stirred(VivitDenoiser(TokenFact(8, Grid(1, 2, 2), 2, (1, 2, 2)), given, Straight(), **settings))
    video = VivitDenoiser(TokenFact(16, Grid(3, 2, 2), 2, (2, 2, 2)), given, Straight(), **settings)
    video.load_state_dict(video.adapted(image.state_dict()))
    picture = torch.randn(1, 4, 2, 1, 4)  # tokens (c, t, pq)
    still = picture.expand(-1, -1, -1, 2, -1)
    torch.testing.assert_close(video.embed(still.flatten(2)), image.embed(picture.flatten(2)), atol=1e-5, rtol=0)
    assert torch.equal(video.positions, image.positions.repeat(3, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "temporal"), GFLOPS)
def test_published_cost(model: int, temporal: int) -> None:
    """Table 2 counts multiply-accumulates; a token of rounding and of normalisation aside."""
    part = published(model, temporal).eval()
    gmac = flops_of(lambda: part.features(torch.empty(1, 3, 32, 224, 224, device="meta"))) / 2e9
    assert gmac == pytest.approx(GFLOPS[model, temporal], rel=0.05)
