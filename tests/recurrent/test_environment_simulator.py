"""Actions move what is remembered, in three ways of going on. Chiappa et al. 2017."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Tokens
from mutoscope.plugins.recurrent.environment_simulator import EnvironmentSimulator
from mutoscope.plugins.recurrent.likelihoods import Gaussian
from mutoscope.plugins.recurrent.rollout import Rollout
from mutoscope.plugins.recurrent.sequence import Sequence

GRID = Grid(6, 4, 16)
FACT = TokenFact(1, GRID, 1)
CLIPS = 32


def simulator(**settings) -> EnvironmentSimulator:
    return EnvironmentSimulator(
        FACT, ConditioningFact(per_frame=2), Gaussian(),
        channels=(8, 12), kernels=(4, 4), pads=((1, 1), (1, 1)), width=48, fusion=64, **settings,
    )  # fmt: skip


def world(step: int, actions: torch.Tensor | None = None, clips: int = CLIPS):
    """A bar two columns wide that action 0 moves left and action 1 right: tokens B N 1 and actions B T."""
    draw = Draw(1, "world", step, tuple(range(clips)))
    if actions is None:
        actions = (draw.uniform("actions", GRID.frames) * 2).long()
    moves = actions * 2 - 1
    moves[:, 0] = 0
    place = 5 + (draw.uniform("start")[:, None] * 5).floor() + moves.cumsum(1)
    near = (torch.arange(16) - place[..., None] - 0.5).abs() <= 1
    video = near.float()[:, :, None].expand(-1, -1, 4, -1) * 2 - 1
    return video.reshape(clips, -1, 1), actions


def told(actions: torch.Tensor, known: Known | None = None) -> Conditioning:
    return Conditioning(per_frame=nn.functional.one_hot(actions, 2).float(), known=known)


def centres(tokens: Tokens) -> torch.Tensor:
    """Where the bar is, B T columns."""
    bright = (tokens.filled().view(-1, GRID.frames, 4, 16).mean(2) + 1).clamp(min=0)
    return (bright * torch.arange(16)).sum(-1) / bright.sum(-1).clamp(min=1e-3)


def fit(objective: Sequence, steps: int, **settings) -> EnvironmentSimulator:
    torch.manual_seed(0)
    learner = simulator(**settings).train()
    optimizer = torch.optim.Adam(learner.parameters(), lr=4e-3)
    canvas = Tokens.canvas(GRID, CLIPS)
    for step in range(steps):
        values, actions = world(step)
        example = Example(canvas.with_values(values), told(actions), Batch(clips=tuple(range(CLIPS))))
        losses = objective.loss(learner, example, Draw(0, "train", step, tuple(range(CLIPS))), "learner")
        optimizer.zero_grad()
        losses.total.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 50.0)
        optimizer.step()
    return learner.eval()


@pytest.fixture(scope="module")
def dependent() -> EnvironmentSimulator:
    """Trained on its own frames, but for the first."""
    return fit(Sequence(warmup=1, predicted=1.0, ramp=60), 220)


def rolled(learner, actions: torch.Tensor, values: torch.Tensor, blind: bool = False, shown: int = 1) -> Tokens:
    where = (torch.arange(GRID.cells) < shown * 64).expand(len(values), -1)
    canvas = Tokens.canvas(GRID, len(values))
    draw = Draw(0, "sample", 0, tuple(range(len(values))))
    with torch.no_grad():
        return Rollout(Gaussian(), temperature=0, blind=blind).sample(
            learner, canvas, told(actions, Known(values, where)), draw
        )


def test_flipped_actions_flip_the_motion(dependent):
    values, _ = world(9999)
    right = torch.ones(CLIPS, GRID.frames, dtype=torch.long)
    moved = centres(rolled(dependent, right, values))
    back = centres(rolled(dependent, 1 - right, values))
    by_right, by_left = moved[:, -1] - moved[:, 0], back[:, -1] - back[:, 0]
    assert (by_right > 0.5).float().mean() > 0.9, by_right
    assert (by_left < -0.5).float().mean() > 0.9, by_left


def test_the_past_reaches_the_next_state_through_the_action_alone():
    learner = simulator()
    h = torch.randn(3, 48)
    none = Conditioning(per_frame=torch.zeros(3, GRID.frames, 2))
    assert learner.fusion(h, 2, none).abs().max() == 0
    frame = torch.randn(3, 64, 1)
    state = learner.begin(Tokens.canvas(GRID, 3), none)
    one = learner.eval()(frame, state._replace(h=h), 2, none)[0]
    other = learner(frame, state._replace(h=-h), 2, none)[0]
    assert torch.equal(one, other), "h enters by another way than v"
    v = learner.fusion(h, 2, told(torch.ones(3, GRID.frames, dtype=torch.long)))
    torch.testing.assert_close(v, learner.by_output(h) * learner.by_action.weight[:, 1])


def test_going_on_blindly_does_not_look_at_later_frames():
    learner = simulator(blind=True).eval()
    values, actions = world(1)
    changed = values.clone()
    changed[:, 2 * 64 :] = 0.0
    a, b = (rolled(learner, actions, v, blind=True, shown=2).filled() for v in (values, changed))
    assert torch.equal(a, b)
    assert learner.alone is not None
    own = rolled(learner, actions, values, blind=False, shown=2).filled()
    assert not torch.allclose(own[:, 3 * 64 :], a[:, 3 * 64 :]), "looking makes no difference"


def test_gradients_flow_through_predicted_frames_and_not_into_the_warmup():
    """With the network's own frames as inputs, the encoder learns from frames after the first predicted one."""
    canvas = Tokens.canvas(GRID, 4)
    values, actions = world(0, clips=4)
    example = Example(canvas.with_values(values), told(actions), Batch(clips=(0, 1, 2, 3)))
    draw = Draw(0, "train", 0, (0, 1, 2, 3))
    learner = simulator().eval()

    def of_frames(**settings) -> torch.Tensor:
        """The gradient of the loss in every true frame that was shown."""
        shown = values.clone().requires_grad_(True)
        objective = Sequence(warmup=2, **settings)
        total = objective.loss(
            learner, Example(canvas.with_values(shown), told(actions), example.batch), draw, "learner"
        )
        (gradient,) = torch.autograd.grad(total.total, shown)
        return gradient

    target_alone = Sequence(warmup=2, predicted=1.0).loss(learner, example, draw, "learner").total
    assert torch.isfinite(target_alone)
    learner.zero_grad()
    Sequence(warmup=2, predicted=1.0, through=0).loss(learner, example, draw, "learner").total.backward()
    through_predictions = learner.encoder[0].weight.grad.clone()
    learner.zero_grad()
    Sequence(warmup=2, blind=True, predicted=1.0, through=0).loss(learner, example, draw, "learner").total.backward()
    blind = learner.encoder[0].weight.grad
    assert through_predictions.abs().sum() > 0
    assert not torch.allclose(
        through_predictions, blind if blind is not None else torch.zeros_like(through_predictions)
    )
    assert of_frames(through=0)[:, :64].abs().max() == 0, "gradients reach the warm-up"
    assert of_frames()[:, :64].abs().max() > 0


def test_the_schedule_goes_from_true_to_own_frames():
    objective = Sequence(predicted=0.5, ramp=100)
    assert [objective.alone(step, 10) for step in (0, 50, 100, 1000)] == [0, 2, 5, 5]
    assert Sequence(predicted=1.0).alone(0, 10) == 10


def test_atari_code_is_the_papers_shape():
    with torch.device("meta"):
        learner = EnvironmentSimulator(TokenFact(3, Grid(25, 210, 160), 3), ConditioningFact(per_frame=18), Gaussian())
    assert learner.coded == (32, 11, 8)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(learner.encoder) == 139_424
    assert count(learner.decoder) + count(learner.start) == 3_025_795
