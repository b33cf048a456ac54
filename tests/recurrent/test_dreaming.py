"""A controller that is learned in a dream acts well in the world that the dream is of. Ha & Schmidhuber 2018, sec. 4."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.model import Model
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Example, Latents
from mutoscope.plugins.autoencoders.identity import Identity
from mutoscope.plugins.patchifiers.spacetime import Spacetime
from mutoscope.plugins.recurrent.action_code import ActionCode
from mutoscope.plugins.recurrent.dreaming import Controllers, learn_controller, play
from mutoscope.plugins.recurrent.mixture import MixtureObjective
from mutoscope.plugins.recurrent.rollout import Rollout
from mutoscope.plugins.recurrent.world_model import WorldModel

CLIP = ClipFact(1, 9, (1, 1), actions=2)
STEP = 0.2


class Line:
    """One pixel whose brightness is a place: action 1 raises it, action 0 lowers it, within [-1, 1]."""

    def begin(self, clips: int, seed: int) -> Tensor:
        self.place = Draw(seed, "line", 0, tuple(range(clips))).uniform("start") * 1.6 - 0.8
        return self.place.view(-1, 1, 1, 1)

    def step(self, actions: Tensor) -> Tensor:
        self.place = (self.place + STEP * (2 * actions - 1)).clamp(-1, 1)
        return self.place.view(-1, 1, 1, 1)


def near_the_middle(video: Tensor) -> Tensor:
    """Reward: how near to zero the place stays in the last frames."""
    return -video[:, 0, -4:, 0, 0].abs().mean(1)


@pytest.fixture(scope="module")
def model() -> Model:
    """A world model that has seen random play for a few seconds."""
    torch.manual_seed(0)
    identity = Identity(CLIP)
    latent = next(iter(identity.facts()))
    patchifier = Spacetime(latent, size=(1, 1, 1))
    token = next(iter(patchifier.facts()))
    conditioner = ActionCode(CLIP, latent)
    objective = MixtureObjective(components=2)
    denoiser = WorldModel(token, next(iter(conditioner.facts())), objective.process, width=24)
    built = Model(
        CLIP, autoencoder=identity, patchifier=patchifier, conditioners=[conditioner], objective=objective,
        denoiser=denoiser, sampler=Rollout(objective.process),
    )  # fmt: skip
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    clips = tuple(range(48))
    for step in range(250):
        draw, world = Draw(0, "play", step, clips), Line()
        actions = (draw.uniform("actions", 9) * 2).long()
        frames = [world.begin(48, step), *(world.step(actions[:, t]) for t in range(1, 9))]
        tokens = patchifier.patchify(Latents(torch.stack(frames, dim=2)))
        told = conditioner.embed(Batch(actions=actions, clips=clips), draw)
        loss = objective.loss(denoiser, Example(tokens, told, Batch(clips=clips)), draw, "learner").total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
    return built.eval()


def test_what_is_learned_in_the_dream_works_in_the_world(model):
    pytest.importorskip("cma")
    starts = Line().begin(12, 77)
    learned = learn_controller(
        model, near_the_middle, starts, frames=9, population=10, generations=8, temperature=0.3, seed=3
    )
    assert learned.history[-1] > learned.history[0] - 0.05
    features = learned.best.weights.shape[-1]
    idle = Controllers(torch.zeros(1, 2, features), torch.zeros(1, 2))
    real = near_the_middle(play(model, learned.best, Line(), frames=9, games=64, seed=5)).mean()
    mindless = near_the_middle(play(model, idle, Line(), frames=9, games=64, seed=5)).mean()
    assert real > -0.25, f"mean distance {-real:.2f} from the middle"
    assert real > mindless + 0.3, f"{real:.2f} against {mindless:.2f} without a mind"
    again = learn_controller(
        model, near_the_middle, starts, frames=9, population=10, generations=8, temperature=0.3, seed=3
    )
    assert torch.equal(again.best.weights, learned.best.weights)


def test_a_model_without_actions_does_not_dream(model):
    deaf = Model(
        ClipFact(1, 9, (1, 1)), autoencoder=model.autoencoder, patchifier=model.patchifier,
        objective=model.objective, denoiser=model.denoiser, sampler=model.sampler,
    )  # fmt: skip
    with pytest.raises(InputError, match="needs actions one by one"):
        learn_controller(deaf, near_the_middle, Line().begin(2, 0), frames=9)
