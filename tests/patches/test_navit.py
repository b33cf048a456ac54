"""NaViT: positions that factorise, and a tower that classifies packed clips as if they were alone."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.checks import checks_of
from mutoscope.core.facts import ClipFact
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Tokens
from mutoscope.plugins.patches.classify import Classify
from mutoscope.plugins.patches.navit import Factorised, NavitDenoiser, NavitTower

REACH = Grid(4, 8, 8)
KINDS = ("learned", "sinusoid", "fourier")
COMBINE = ("sum", "stack", "product")
CLIP = ClipFact(3, 4, (16, 16), mixed=True, classes=4)


def at(table: torch.Tensor, grid: Grid, cell: tuple[int, int, int]) -> torch.Tensor:
    t, y, x = cell
    return table[0, (t * grid.rows + y) * grid.columns + x]


def positions(kind: str, coordinates: str, combine: str = "sum") -> Factorised:
    torch.manual_seed(0)
    return Factorised(24, REACH, kind, coordinates, combine)  # type: ignore[arg-type]


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_cell_is_at_one_whatever_the_size(kind: str, combine: str) -> None:
    """Fractional positions are the same at 0 and at 1 for every size and aspect; absolute ones are not at 1."""
    for coordinates in ("fractional", "absolute"):
        part = positions(kind, coordinates, combine)
        wide, tall = Grid(1, 3, 7), Grid(1, 6, 2)
        one, other = part(Tokens.canvas(wide, 1)), part(Tokens.canvas(tall, 1))
        torch.testing.assert_close(at(one, wide, (0, 0, 0)), at(other, tall, (0, 0, 0)), atol=1e-5, rtol=0)
        same = torch.allclose(at(one, wide, (0, 2, 6)), at(other, tall, (0, 5, 1)), atol=1e-5)
        assert same == (coordinates == "fractional")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coordinates", ["fractional", "absolute"])
def test_rows_and_columns_are_told_apart(kind: str, coordinates: str) -> None:
    """The sum factorises: a step along a row is the same in every row; and y is not x."""
    part, grid = positions(kind, coordinates), Grid(2, 4, 6)
    if kind == "sinusoid":
        part = positions(kind, coordinates, "stack")  # fixed codes of two axes are one function: their sum is symmetric
    table = part(Tokens.canvas(grid, 1))
    step = at(table, grid, (0, 0, 3)) - at(table, grid, (0, 0, 1))
    torch.testing.assert_close(at(table, grid, (1, 2, 3)) - at(table, grid, (1, 2, 1)), step, atol=1e-5, rtol=0)
    assert not torch.allclose(at(table, grid, (0, 1, 2)), at(table, grid, (0, 2, 1)), atol=1e-4)
    assert not torch.allclose(at(table, grid, (0, 1, 2)), at(table, grid, (1, 1, 2)), atol=1e-4)


def test_learned_fractions_interpolate_the_table() -> None:
    part = positions("learned", "fractional")
    grid = Grid(1, 1, 15)  # fourteenths of a table of eight: every second one is an entry
    table = part(Tokens.canvas(grid, 1))
    origin = part.tables[0][0] + part.tables[1][0]
    torch.testing.assert_close(at(table, grid, (0, 0, 4)), origin + part.tables[2][2], atol=1e-5, rtol=0)
    middle = (part.tables[2][2] + part.tables[2][3]) / 2
    torch.testing.assert_close(at(table, grid, (0, 0, 5)), origin + middle, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("combine", COMBINE)
def test_every_code_holds_the_contract(kind: str, combine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NavitDenoiser, "tiny", {**NavitDenoiser.tiny, "kind": kind, "combine": combine})
    for check in checks_of(NavitDenoiser):
        check.run()


def tower(**settings) -> NavitTower:
    torch.manual_seed(0)
    made = NavitTower(CLIP, width=24, depth=2, heads=2, **settings).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def mixed() -> list[torch.Tensor]:
    torch.manual_seed(4)
    return [torch.randn(3, *shape) for shape in ((4, 16, 16), (1, 8, 12), (2, 12, 4), (1, 16, 8), (3, 4, 4))]


def test_packed_clips_are_classified_as_alone() -> None:
    """Logits and gradients agree to 1e-5, and the order of the clips changes nothing."""
    part, clips = tower(), mixed()
    together = part.features(clips).logits
    (together.square().sum()).backward()
    gradients = {name: p.grad.clone() for name, p in part.named_parameters()}
    part.zero_grad()
    alone = torch.cat([part.features(clip[None]).logits for clip in clips])
    alone.square().sum().backward()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    for name, parameter in part.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=2e-5, rtol=1e-4)
    turned = part.features(clips[::-1]).logits.flip(0)
    torch.testing.assert_close(together, turned, atol=1e-5, rtol=1e-5)


def test_tokens_are_dropped_in_training_only() -> None:
    part = tower(drop=0.5)
    video = torch.randn(4, 3, 4, 16, 16)
    assert part.tokens(video).regular
    part.train()
    torch.manual_seed(0)
    dropped = part.tokens(video)
    assert (dropped.clip > 0).sum() == 4 * 32
    part.features(video).logits.sum().backward()


def test_the_tower_learns_from_mixed_sizes() -> None:
    """Four colours, clips of five sizes."""
    torch.manual_seed(0)
    part, objective = NavitTower(CLIP, width=24, depth=1, heads=2, drop=0.3), Classify(CLIP)
    optimizer = torch.optim.AdamW(part.parameters(), lr=5e-3)
    tint = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])

    def losses(step: int):
        torch.manual_seed(step)
        label = torch.randint(0, 4, (10,))
        clips = tuple(c + 2 * tint[k][:, None, None, None] for c, k in zip(mixed() * 2, label, strict=True))
        return objective.loss(part, Example(None, Conditioning(), Batch(video=clips, label=label)), None, "learner")

    for step in range(30):
        losses(step).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    part.eval()
    assert losses(99).parts["accuracy"] > 0.9
