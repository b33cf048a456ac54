"""Masked autoencoding: published count, what is hidden and what is scored; masked diffusion training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mutoscope.core.checks import Straight
from mutoscope.core.component import Nested
from mutoscope.core.facts import ClipFact, ConditioningFact, FeatureFact, TokenFact
from mutoscope.core.packing import pack
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Tokens
from mutoscope.plugins.diffusion.dit import Dit
from mutoscope.plugins.diffusion.flow import Flow
from mutoscope.plugins.patches.mae import Mae
from mutoscope.plugins.patches.masked_level import MaskedLevel
from mutoscope.plugins.patches.vit import VitTower

CLIP = ClipFact(3, 2, (32, 32))


def test_the_published_code_has_as_many_weights() -> None:
    """B/16 of facebookresearch/mae, encoder and decoder, without its frozen positions."""
    clip = ClipFact(3, 1, (224, 224))
    with torch.device("meta"):
        tower = VitTower(clip, patch=16, width=768, depth=12, heads=12, classes=0, positions="fixed")
        decoder = Mae(clip, tower.facts()[0])
    assert sum(p.numel() for part in (tower, decoder) for p in part.parameters()) == 111_655_680


@pytest.fixture
def tower() -> VitTower:
    torch.manual_seed(0)
    made = VitTower(CLIP, patch=8, width=24, depth=2, heads=2, classes=0, positions="fixed").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def mae(tower: VitTower) -> Mae:
    torch.manual_seed(1)
    return Mae(CLIP, tower.facts()[0], width=16, depth=1, heads=2)


def draw(*clips: int, step: int = 0) -> Draw:
    return Draw(0, "train", step, clips)


def test_each_frame_hides_three_quarters_of_its_own(mae: Mae) -> None:
    hidden = mae.hidden(draw(3, 4), 2, 2, 16)
    assert hidden.shape == (2, 2, 16)
    assert (hidden.sum(-1) == 12).all()
    rows = {tuple(row.tolist()) for row in hidden.flatten(0, 1)}
    assert len(rows) == 4
    assert torch.equal(hidden[1:], mae.hidden(draw(4), 1, 2, 16))
    assert not torch.equal(hidden, mae.hidden(draw(3, 4, step=1), 2, 2, 16))


def test_a_tube_is_hidden_in_all_frames(tower: VitTower) -> None:
    hidden = Mae(CLIP, tower.facts()[0], width=16, depth=1, heads=2, tube=True).hidden(draw(3, 4), 2, 2, 16)
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert not torch.equal(hidden[0], hidden[1])


def test_the_encoder_sees_a_quarter_and_nothing_else(mae: Mae, tower: VitTower) -> None:
    """Length 1 + L / 4, and bit-equal whatever is painted over what is hidden."""
    frames = torch.randn(2, 3, 32, 32)
    hidden = mae.hidden(draw(0, 1), 2, 1, 16)[:, 0]
    latent = mae.latent(tower, frames, hidden)
    assert latent.shape == (2, 1 + 4, 24)
    painted = frames.clone()
    for f in range(2):
        for n in hidden[f].nonzero().flatten().tolist():
            y, x = divmod(n, 4)
            painted[f, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 9.0
    assert torch.equal(latent, mae.latent(tower, painted, hidden))
    painted[0, :, :] += 1  # what is seen does matter
    assert not torch.equal(latent, mae.latent(tower, painted, hidden))


def test_positions_are_added_before_masking(mae: Mae, tower: VitTower) -> None:
    """The same patch at two places is encoded differently."""
    frames = torch.ones(1, 3, 32, 32)
    first, last = torch.ones(1, 16, dtype=torch.bool), torch.ones(1, 16, dtype=torch.bool)
    first[0, :4], last[0, 12:] = False, False
    assert not torch.allclose(mae.latent(tower, frames, first), mae.latent(tower, frames, last), atol=1e-3)


def test_patches_come_back_to_their_own_places(mae: Mae, tower: VitTower) -> None:
    """Without decoder blocks a visible patch's prediction is a function of that patch alone."""
    mae.blocks = torch.nn.ModuleList()
    tower.network.blocks = torch.nn.Sequential()
    frames = torch.randn(1, 3, 32, 32)
    hidden = mae.hidden(draw(0), 1, 1, 16)[0]
    base = mae.predicted(tower, frames, hidden)
    n = int((~hidden[0]).nonzero()[1])
    y, x = divmod(n, 4)
    frames[0, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 3.0
    changed = (mae.predicted(tower, frames, hidden) != base).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [n]


def test_only_what_is_hidden_is_scored(mae: Mae) -> None:
    predicted = torch.randn(2, 16, 192, requires_grad=True)
    hidden = mae.hidden(draw(0, 1), 2, 1, 16)[:, 0]
    mae.error(predicted, torch.randn(2, 16, 192), hidden).backward()
    assert predicted.grad is not None
    assert (predicted.grad.abs().sum(-1) > 0).equal(hidden)


def test_predicting_nothing_costs_the_variance() -> None:
    """Normalised with the unbiased variance, zero has the error (n - 1) / n; 767/768 for patches of 16."""
    mae = Mae(ClipFact(3, 1, (64, 64)), FeatureFact(8, Grid(1, 4, 4), (1, 16, 16)), width=16, depth=1, heads=2)
    target = mae.target(torch.randn(3, 3, 64, 64, dtype=torch.float64) * 5)
    hidden = mae.hidden(draw(0, 1, 2), 3, 1, 16)[:, 0]
    error = mae.error(torch.zeros(3, 16, 768), target, hidden)
    assert error.item() == pytest.approx(767 / 768, abs=1e-5)


def test_the_target_is_in_the_order_rows_columns_colours() -> None:
    mae = Mae(CLIP, FeatureFact(8, Grid(2, 4, 4), (1, 8, 8)), width=16, depth=1, heads=2, normalised=False)
    frames = torch.arange(3 * 32 * 32, dtype=torch.float32).view(1, 3, 32, 32)
    patch = mae.target(frames)[0, 5].view(8, 8, 3)  # second row, second column of patches
    assert torch.equal(patch, frames[0, :, 8:16, 8:16].permute(1, 2, 0))


def test_pre_training_reaches_every_weight_and_learns(mae: Mae, tower: VitTower) -> None:
    video = torch.sin(torch.linspace(0, 12, 32))[:, None].expand(2, 3, 2, 32, 32).contiguous()
    example = Example(None, Conditioning(), Batch(video=video))
    tower.train()
    parameters = [*tower.parameters(), *mae.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    errors = []
    for step in range(40):
        losses = mae.loss(tower, example, draw(0, 1, step=step), "learner")
        losses.total.backward()
        if step == 0:
            assert all(p.grad is not None and p.grad.any() for p in parameters)
        optimizer.step()
        optimizer.zero_grad()
        errors.append(losses.total.item())
    assert sum(errors[-5:]) < 0.7 * sum(errors[:5])


# Masked diffusion training

GRID = Grid(2, 4, 4)


class Spy:
    """A denoiser that keeps what it is shown."""

    def __init__(self, denoiser: Dit) -> None:
        self.denoiser, self.shown = denoiser, []

    def __call__(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        self.shown.append(tokens.filled())
        return self.denoiser(tokens, level, conditioning)


def masked(**settings) -> tuple[MaskedLevel, Dit]:
    torch.manual_seed(0)
    fact = TokenFact(4, GRID, channels=4, packed=True)
    objective = MaskedLevel(fact, on=Flow(), **settings)
    dit = Dit(fact, ConditioningFact(), Straight(), width=16, depth=1, heads=2)
    torch.nn.init.normal_(dit.out.weight, std=0.2)
    return objective, dit


def example_of(tokens: Tokens, known: Known | None = None) -> Example:
    return Example(tokens, Conditioning(known=known), Batch())


def test_hidden_tokens_are_shown_as_the_mask() -> None:
    objective, dit = masked(ratio=0.5, clips=1.0)
    tokens = Tokens.canvas(GRID, 3).with_values(torch.randn(3, 32, 4))
    spy, own = Spy(dit), draw(0, 1, 2)
    objective.loss(spy, example_of(tokens), own, "learner").total.backward()
    hidden = objective.hidden(tokens, Conditioning(), own)
    assert (spy.shown[0] == objective.mask).all(-1).equal(hidden)
    assert hidden.float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert objective.mask.grad is not None
    assert objective.mask.grad.any()


def test_some_clips_are_whole_and_samplers_hide_nothing() -> None:
    objective, _ = masked(ratio=0.5, clips=0.5)
    tokens = Tokens.canvas(GRID, 64).with_values(torch.randn(64, 32, 4))
    hidden = objective.hidden(tokens, Conditioning(), draw(*range(64)))
    whole = (~hidden.any(1)).float().mean().item()
    assert whole == pytest.approx(0.5, abs=0.2)
    assert isinstance(objective.process, type(Flow().process))


def test_without_hidden_tokens_it_is_the_objective_itself() -> None:
    objective, dit = masked(clips=0.0)
    tokens = Tokens.canvas(GRID, 3).with_values(torch.randn(3, 32, 4))
    own = draw(0, 1, 2)
    plain = Flow().loss(dit, example_of(tokens), own, "learner").total
    assert torch.equal(objective.loss(dit, example_of(tokens), own, "learner").total, plain)


def test_tubes_packing_and_known_tokens() -> None:
    objective, dit = masked(ratio=0.5, clips=1.0, tube=True)
    tokens = Tokens.canvas(GRID, 3).with_values(torch.randn(3, 32, 4))
    frames = objective.hidden(tokens, Conditioning(), draw(0, 1, 2)).view(3, 2, 16)
    assert torch.equal(frames[:, 0], frames[:, 1])
    where = torch.zeros(3, 32, dtype=torch.bool)
    where[:, :16] = True
    told = Conditioning(known=Known(tokens.filled(), where))
    assert not (objective.hidden(tokens, told, draw(0, 1, 2)) & where).any()
    grids = (Grid(1, 4, 4), Grid(2, 2, 3), Grid(1, 1, 2))
    packed = pack(grids, 20).fill([torch.randn(grid.cells, 4) for grid in grids])
    objective, _ = masked(ratio=0.5, clips=1.0)
    hidden = objective.hidden(packed, Conditioning(), draw(0, 1, 2))
    assert not hidden[packed.clip == 0].any()
    for i, grid in enumerate(grids):
        alone = Tokens.canvas(grid, 1)
        widest = replace(alone, grids=(grid,))
        assert hidden[packed.clip == i + 1].sum() <= grid.cells
        assert objective.hidden(widest, Conditioning(), draw(i)).shape == (1, grid.cells)
    assert torch.isfinite(objective.loss(dit, example_of(packed), draw(0, 1, 2), "learner").total)


def test_the_inner_objective_is_a_part() -> None:
    assert MaskedLevel.__init__.__kwdefaults__["on"] == Nested("flow")
