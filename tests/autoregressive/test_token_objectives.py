"""The objectives of ids against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.core.checks import checks_of
from mutoscope.core.denoiser import TokenDenoiser
from mutoscope.core.facts import TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Logits, Tokens
from mutoscope.plugins.autoregressive.masked_token import MaskedToken
from mutoscope.plugins.autoregressive.next_token import NextToken

CODES, GRID = 8, Grid(2, 3, 4)
TOKEN = TokenFact(width=1, grid=GRID, channels=1, codebook=CODES)
DRAW = Draw(1, "train", 0, tuple(range(400)))


class Said(TokenDenoiser):
    """Says what it is told to say, and remembers what it was shown."""

    name = "said_logits"

    def __init__(self, values: Tensor, prompt: Tensor | None = None) -> None:
        super().__init__()
        self.values, self.prompt = values, prompt
        self.shown: Tensor | None = None

    def forward(self, tokens: Tokens, conditioning: Conditioning, cache: object = None) -> Logits:
        self.shown = tokens.filled()
        return Logits(self.values, self.prompt)


def example(clips: int, told: Conditioning | None = None) -> Example:
    ids = torch.randint(0, CODES, (clips, GRID.cells), generator=torch.manual_seed(3))
    return Example(
        Tokens.canvas(GRID, clips).with_values(ids), told or Conditioning(), Batch(clips=tuple(range(clips)))
    )


def test_contracts() -> None:
    for part in (NextToken, MaskedToken):
        for check in checks_of(part):
            check.run()


def test_next_token_is_the_likelihood_of_the_ids() -> None:
    given = example(3)
    values = torch.randn(3, GRID.cells, CODES, generator=torch.manual_seed(0))
    assert given.tokens is not None
    ids = given.tokens.filled()
    losses = NextToken().loss(Said(values), given, DRAW.of(range(3)), "learner")
    expected = -values.log_softmax(-1).gather(-1, ids[..., None]).mean()
    assert torch.allclose(losses.total, expected)
    smooth = NextToken(smoothing=0.1).loss(Said(values), given, DRAW.of(range(3)), "learner").total
    assert torch.allclose(smooth, 0.9 * expected - 0.1 * values.log_softmax(-1).mean())


def test_the_prompt_has_its_share_without_padding() -> None:
    """DALL-E: one eighth of the loss is the text's, seven eighths the picture's."""
    prompt = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    given = example(2, Conditioning(prompt_ids=prompt, mask=mask))
    assert given.tokens is not None
    values, text = torch.randn(2, GRID.cells, CODES), torch.randn(2, 4, 10)
    total = NextToken(prompt_weight=0.125).loss(Said(values, text), given, DRAW.of(range(2)), "learner").total
    picture = F.cross_entropy(values.flatten(0, 1), given.tokens.filled().flatten())
    each = -text.log_softmax(-1).gather(-1, prompt[..., None])[..., 0]
    words = (each[0, :3].mean() + each[1, :2].mean()) / 2
    assert torch.allclose(total, 0.875 * picture + 0.125 * words)


def test_known_ids_are_not_learned() -> None:
    where = torch.zeros(2, GRID.cells, dtype=torch.bool)
    where[:, :12] = True
    given = example(2, Conditioning(known=Known(torch.zeros(2, GRID.cells, dtype=torch.long), where)))
    assert given.tokens is not None
    values = torch.zeros(2, GRID.cells, CODES, requires_grad=True)
    NextToken().loss(Said(values), given, DRAW.of(range(2)), "learner").total.backward()
    assert values.grad is not None
    assert not values.grad[:, :12].any()
    assert values.grad[:, 12:].any(-1).all()
    learner = Said(torch.zeros(2, GRID.cells, CODES))
    MaskedToken(TOKEN, hide="fixed", share=1.0).loss(learner, given, DRAW.of(range(2)), "learner")
    assert learner.shown is not None
    assert torch.equal(learner.shown == CODES, ~where)


def test_holes_follow_the_cosine() -> None:
    """ceil(cos(pi r / 2) N) of N ids for r even in [0, 1): a mean of 2/pi, and never none."""
    hidden = MaskedToken(TOKEN).hidden(GRID.cells, DRAW).sum(1)
    ratio = torch.cos(DRAW.uniform("ratio", 1) * math.pi / 2)[:, 0]
    assert torch.equal(hidden, torch.ceil(ratio * GRID.cells).long())
    assert hidden.min() >= 1
    assert float(hidden.float().mean()) / GRID.cells == pytest.approx(2 / math.pi + 0.5 / GRID.cells, abs=0.05)
    fixed = MaskedToken(TOKEN, hide="fixed", share=0.15).hidden(GRID.cells, DRAW).float().mean()
    assert float(fixed) == pytest.approx(0.15, abs=0.015)


def test_only_hidden_ids_are_learned_and_shown_as_holes() -> None:
    given, objective = example(4), MaskedToken(TOKEN, smoothing=0.0)
    assert given.tokens is not None
    values = torch.randn(4, GRID.cells, CODES, requires_grad=True)
    learner = Said(values)
    objective.loss(learner, given, DRAW.of(range(4)), "learner").total.backward()
    hidden = objective.hidden(GRID.cells, DRAW.of(range(4)))
    assert learner.shown is not None
    assert values.grad is not None
    assert torch.equal(learner.shown, given.tokens.filled().masked_fill(hidden, CODES))
    assert torch.equal(values.grad.any(-1), hidden)
