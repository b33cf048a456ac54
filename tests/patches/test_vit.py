"""ViT: published counts, timm on the same weights, patches, positions; the tower classifies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.checks import Straight
from mutoscope.core.facts import ClipFact, ConditioningFact, LatentFact, TokenFact
from mutoscope.core.layers.tubelets import central_frame, inflated, resized_positions, uniform_frames
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Latents, Tokens
from mutoscope.plugins.patches.classify import Classify
from mutoscope.plugins.patches.vit import VitDenoiser, VitTower
from mutoscope.plugins.patchifiers.tubelet import Tubelet
from mutoscope.plugins.patchifiers.vit import Vit

SIZES = {"b-16": (768, 12, 12, 16), "l-16": (1024, 24, 16, 16), "l-32": (1024, 24, 16, 32), "h-14": (1280, 32, 16, 14)}
COUNTS = {"b-16": (85_798_656, 86_567_656), "l-16": (303_301_632, 304_326_632), "l-32": (None, 306_535_400)}
"""Without a head, and with one of 1000 classes; Dosovitskiy et al. 2021, table 1, as timm and torchvision count."""


def paper_vit(name: str, classes: int) -> VitTower:
    width, depth, heads, patch = SIZES[name]
    clip = ClipFact(3, 1, (224, 224), classes=1000)
    with torch.device("meta"):
        return VitTower(clip, patch=patch, width=width, depth=depth, heads=heads, classes=classes)


def weights(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    headless, headed = COUNTS[name]
    assert headless is None or weights(paper_vit(name, 0)) == headless
    assert weights(paper_vit(name, 1000)) == headed


def test_the_huge_one_rounds_to_what_is_published() -> None:
    assert round(weights(paper_vit("h-14", 1000)) / 1e6) in (632, 633)
    assert round(weights(paper_vit("h-14", 0)) / 1e6, -1) == 630


def small_clip(frames: int = 3, size: tuple[int, int] = (32, 32)) -> ClipFact:
    return ClipFact(3, frames, size, classes=5)


def small(**settings) -> VitTower:
    torch.manual_seed(0)
    made = VitTower(small_clip(), patch=8, width=24, depth=2, heads=2, **settings).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def test_timm_on_the_same_weights() -> None:
    """timm's own model by its registry, frame by frame, with the GELU of the released code."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5,
        act_layer="gelu_tanh",
    ).eval()  # fmt: skip
    ours = small()
    ours.load_state_dict(ours.adapted(theirs.state_dict()))
    video = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        made = ours.features(video)
        logits = torch.stack([theirs(video[:, :, t]) for t in range(3)], dim=1).mean(1)
        sequence = torch.cat([theirs.forward_features(video[:, :, t])[:, 1:] for t in range(3)], dim=1)
    torch.testing.assert_close(made.logits, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.sequence, sequence, atol=1e-5, rtol=0)


def test_timm_interpolates_positions_to_the_same() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    table = torch.randn(1, 16, 6)
    theirs = timm_layers.resample_abs_pos_embed(table, [6, 3], [4, 4], num_prefix_tokens=0)
    torch.testing.assert_close(resized_positions(table[0], (1, 4, 4), (1, 6, 3)), theirs[0], atol=1e-6, rtol=0)


def test_positions_of_the_class_token_stay_when_the_grid_changes() -> None:
    old, new = small(), VitTower(small_clip(size=(48, 32)), patch=8, width=24, depth=2, heads=2)
    adapted = new.adapted(old.state_dict())
    new.load_state_dict(adapted)
    assert torch.equal(new.network.pos_embed[:, :1], old.network.pos_embed[:, :1])
    assert new.network.pos_embed.shape[1] == 1 + 6 * 4
    larger = torch.randn(1, 3, 1, 48, 32)
    with torch.no_grad():  # the same as interpolating on the way
        torch.testing.assert_close(old.features(larger).logits, new.eval().features(larger).logits, atol=1e-5, rtol=0)


def test_a_head_for_other_classes_starts_at_zero() -> None:
    other = VitTower(ClipFact(3, 1, (32, 32), classes=7), patch=8, width=24, depth=2, heads=2)
    other.load_state_dict(other.adapted(small().state_dict()))
    assert not other.features(torch.randn(2, 3, 1, 32, 32)).logits.any()


def test_the_embedding_is_a_linear_layer_over_unfolded_patches() -> None:
    tower = small()
    frames = torch.randn(2, 3, 32, 32)
    proj = tower.network.patch_embed.proj
    unfolded = F.unfold(frames, 8, stride=8).transpose(1, 2)  # (c p q)
    linear = F.linear(unfolded, proj.weight.flatten(1), proj.bias)
    own = tower.embed(frames) - tower._positions(Grid(1, 4, 4), frames.device)
    torch.testing.assert_close(own, linear, atol=1e-5, rtol=0)


def test_one_pixel_is_in_one_token() -> None:
    tower, frames = small(), torch.randn(1, 3, 32, 32)
    base = tower.embed(frames)
    frames[0, 1, 9, 26] += 1
    changed = (tower.embed(frames) != base).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 3]


def test_patches_with_their_positions_are_a_set() -> None:
    tower = small()
    patches = tower.embed(torch.randn(1, 3, 32, 32))
    order = torch.randperm(16)
    one, other = tower.encode(patches), tower.encode(patches[:, order])
    torch.testing.assert_close(one[:, 1:][:, order], other[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(one[:, 0], other[:, 0], atol=1e-5, rtol=0)


# The patchifiers


def test_patches_are_in_the_order_of_a_convolution_kernel() -> None:
    part = Vit(LatentFact(3, (1, 1, 1), Grid(2, 8, 8)), patch=4)
    values = torch.randn(2, 3, 2, 8, 8)
    cut = part.patchify(Latents(values))
    unfolded = torch.cat([F.unfold(values[:, :, t], 4, stride=4).transpose(1, 2) for t in range(2)], dim=1)
    assert torch.equal(cut.filled(), unfolded)
    assert torch.equal(part.unpatchify(cut).values, values)


def test_central_frame_and_inflation() -> None:
    """A still video has the image's tokens either way; of a moving one the central kernel sees one frame."""
    part = Tubelet(LatentFact(3, (1, 1, 1), Grid(4, 8, 8)), size=(2, 4, 4))
    conv = torch.randn(6, 3, 4, 4)
    still = torch.randn(1, 3, 1, 8, 8).expand(-1, -1, 4, -1, -1).contiguous()
    image = F.conv2d(still[:, :, 0], conv, stride=4).flatten(2).transpose(1, 2)
    tokens = part.patchify(Latents(still)).filled().unflatten(1, (2, 4))
    for way in ("central", "inflated"):
        made = F.linear(tokens, part.carried(conv, way))
        torch.testing.assert_close(made[:, 0], image, atol=1e-5, rtol=0)
        torch.testing.assert_close(made[:, 1], image, atol=1e-5, rtol=0)
    moving = torch.randn(1, 3, 4, 8, 8)
    of_frame = F.conv2d(moving[:, :, 1], conv, stride=4).flatten(2).transpose(1, 2)
    made = F.linear(part.patchify(Latents(moving)).filled(), part.carried(conv, "central"))
    torch.testing.assert_close(made[:, :4], of_frame, atol=1e-5, rtol=0)  # frame t // 2 of each tubelet
    kernel = part.carried(conv, "inflated").view(6, 3, 2, 4, 4)
    assert torch.equal(kernel[:, :, 0], conv / 2)
    assert torch.equal(central_frame(conv, 5)[..., 2], conv)
    assert torch.allclose(inflated(conv, 5).sum(-1), conv, atol=1e-6)


def test_uniform_sampling_keeps_off_the_ends() -> None:
    """round(k F / (n + 1)), k = 1 ... n."""
    assert uniform_frames(32, 4).tolist() == [6, 13, 19, 26]
    assert uniform_frames(9, 2).tolist() == [3, 6]
    assert uniform_frames(2, 2).tolist() == [1, 1]


# The objective, and the denoiser


def test_a_tower_learns_to_classify() -> None:
    clip = ClipFact(3, 1, (16, 16), classes=4)
    torch.manual_seed(0)
    tower, objective = VitTower(clip, patch=4, width=32, depth=1, heads=2), Classify(clip)
    centres = torch.randn(4, 3, 1, 16, 16)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=3e-3)

    def losses(step: int):
        torch.manual_seed(step)
        label = torch.randint(0, 4, (16,))
        video = centres[label] + 0.5 * torch.randn(16, 3, 1, 16, 16)
        return objective.loss(tower, Example(None, Conditioning(), Batch(video=video, label=label)), None, "learner")

    assert losses(0).total.item() == pytest.approx(torch.log(torch.tensor(4.0)).item(), abs=1e-6)
    for step in range(30):
        losses(step).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses(99).parts["accuracy"] > 0.9


def test_the_denoiser_takes_other_grids_and_times() -> None:
    torch.manual_seed(0)
    fact = TokenFact(8, Grid(2, 4, 4), channels=2, patch=(1, 2, 2))
    part = VitDenoiser(fact, ConditioningFact(pooled=6, sequence=5, length=4), Straight(), width=24, depth=2, heads=2)
    torch.nn.init.normal_(part.out.weight)

    def out(grid: Grid) -> Tensor:
        tokens = Tokens.canvas(grid, 1)
        tokens = tokens.with_values(torch.ones(1, grid.cells, 8))
        told = Conditioning(torch.ones(1, 6), torch.ones(1, 4, 5), torch.ones(1, 4, dtype=torch.bool))
        return part(tokens, torch.tensor([500.0]), told)

    assert out(Grid(3, 6, 4)).shape == (1, 72, 8)
    frames = out(Grid(2, 4, 4)).view(2, 16, 8)
    assert not torch.allclose(frames[0], frames[1], atol=1e-3)
