"""Learning to act inside a world model's dream, and acting in the world that it learned.

Ha & Schmidhuber 2018, sec. 2.3 and 4, arXiv:1803.10122: a linear controller looks at the latent frame and at the
memory's output, and CMA-ES finds its weights by the reward of whole rollouts. `learn_controller` plays them in the dream
of a trained model; `play` plays them in a world that answers actions with frames.

    model = mutoscope.load("runs/03-world-model").model
    learned = learn_controller(model, reward, starts, frames=16)
    video = play(model, learned.best, world, frames=16, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact
from mutoscope.core.model import Model
from mutoscope.core.process import FrameProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Grid, Latents, Tokens

Reward = Callable[[Tensor], Tensor]
"""Of each clip's frames, B C T H W in [-1, 1]: B numbers, more is better."""


class Playable(Protocol):
    """A world that answers actions. Frames are B C H W in [-1, 1]."""

    def begin(self, clips: int, seed: int) -> Tensor:
        """The first frame of so many games."""
        ...

    def step(self, actions: Tensor) -> Tensor:
        """The frame that B actions, whole numbers, lead to."""
        ...


@dataclass(frozen=True)
class Controllers:
    """Linear controllers, P of them. weights: P x actions x features. bias: P x actions."""

    weights: Tensor
    bias: Tensor

    @staticmethod
    def of(vectors: Sequence[np.ndarray], actions: int, features: int) -> Controllers:
        """From flat vectors of actions x (features + 1) numbers."""
        flat = torch.tensor(np.stack(vectors), dtype=torch.float32).view(-1, actions, features + 1)
        return Controllers(flat[..., :-1], flat[..., -1])

    def act(self, features: Tensor) -> Tensor:
        """The action of each game, (P B) whole numbers. features: (P B) x features, controller by controller."""
        each = features.view(len(self.weights), -1, features.shape[-1])
        scores = torch.einsum("paf,pbf->pba", self.weights.to(each), each) + self.bias.to(each)[:, None]
        return scores.argmax(-1).flatten()


@dataclass(frozen=True)
class Learned:
    """best: the controller that the search ends with. history: mean reward of each generation's best, in the dream."""

    best: Controllers
    history: tuple[float, ...]


def learn_controller(
    model: Model,
    reward: Reward,
    starts: Tensor,
    *,
    frames: int,
    population: int = 16,
    generations: int = 20,
    temperature: float = 1.0,
    spread: float = 0.5,
    seed: int = 0,
) -> Learned:
    """A controller for the reward, learned without the world.

    starts: first frames of games, B C H W; each controller of a generation plays all of them in the dream. frames: of a
    game. population, generations: of CMA-ES; spread: its first step. temperature: of the dream. Raises InputError
    without the `cma` package, and on a model that takes no actions or dreams no frames.
    """
    try:
        import cma
    except ImportError as missing:
        raise InputError('learning a controller needs cma: pip install "mutoscope[control]"') from missing
    actions, features = _sizes(model)
    first = _coded(model, starts[:, :, None])
    search = cma.CMAEvolutionStrategy(
        np.zeros(actions * (features + 1)), spread, {"popsize": population, "seed": seed + 1, "verbose": -9}
    )
    history = []
    for generation in range(generations):
        asked = search.ask()
        controllers = Controllers.of(asked, actions, features)
        video = dream(model, controllers, first, frames, temperature, seed=seed * 1000 + generation)
        scores = reward(video).view(len(asked), -1).mean(1).double().cpu().numpy()
        search.tell(asked, list(-scores))
        history.append(float(scores.max()))
    return Learned(Controllers.of([search.result.xfavorite], actions, features), tuple(history))


@torch.no_grad()
def dream(
    model: Model, controllers: Controllers, first: Tensor, frames: int, temperature: float, seed: int = 0
) -> Tensor:
    """Games of every controller from every first frame, in the dream: (P B) C T H W.

    first: tokens of the first frames, B n D.
    """
    frame = first.repeat(len(controllers.weights), 1, 1)
    process: Any = model.objective.process
    draw = Draw(seed, "dream", 0, tuple(range(len(frame))), frame.device)
    seen = [frame]

    def answer(raw: Tensor, actions: Tensor, t: int) -> Tensor:
        seen.append(process.sample(raw, draw.at(t), temperature))
        return seen[-1]

    _played(model, controllers, frame, frames, answer)
    return _shown(model, torch.stack(seen, dim=1))


@torch.no_grad()
def play(
    model: Model, controllers: Controllers, world: Playable, frames: int, games: int = 16, seed: int = 0
) -> Tensor:
    """Games of one controller in the world, the model only looking on: games C T H W."""
    if len(controllers.weights) != 1:
        raise ValueError("controllers: one plays in the world")
    shown = [world.begin(games, seed)]

    def answer(raw: Tensor, actions: Tensor, t: int) -> Tensor:
        shown.append(world.step(actions))
        return _coded(model, shown[-1][:, :, None])

    _played(model, controllers, _coded(model, shown[0][:, :, None]), frames, answer)
    return torch.stack(shown, dim=2)


def _played(
    model: Model, controllers: Controllers, frame: Tensor, frames: int, answer: Callable[[Tensor, Tensor, int], Tensor]
) -> None:
    """The loop of acting: look, act, be answered. answer: of raw output, actions and time, the next frame's tokens."""
    model.eval()
    denoiser: Any = model.denoiser
    games, actions = len(frame), controllers.weights.shape[1]
    grid = model.patchifier.token_grid(model.autoencoder.latent_grid(frames, model.clip.size))
    canvas = Tokens.canvas(grid, games, frame.device)
    taken = torch.zeros(games, frames, actions, device=frame.device)
    told = Conditioning(per_frame=taken)
    _, state = denoiser(None, denoiser.begin(canvas, told), 0, told)
    for t in range(1, frames):
        chosen = controllers.act(torch.cat([frame.flatten(1), state.h], dim=1))
        taken[:, t] = torch.nn.functional.one_hot(chosen, actions).float()
        raw, state = denoiser(frame, state, t, told)
        frame = answer(raw, chosen, t)


def _sizes(model: Model) -> tuple[int, int]:
    """Numbers of actions, and of what a controller looks at. Raises InputError on a model that does not dream."""
    told = sum(
        fact.per_frame for part in model.conditioners for fact in part.facts() if isinstance(fact, ConditioningFact)
    )
    if not isinstance(model.denoiser, FrameDenoiser) or not isinstance(model.objective.process, FrameProcess):
        raise InputError(
            field="denoiser", problem="a dream needs one that predicts frame by frame, such as world_model"
        )
    if not model.clip.actions or told != model.clip.actions:
        raise InputError(field="conditioner", problem="a dream needs actions one by one, as `action_code` gives them")
    width = model.denoiser.begin(Tokens.canvas(Grid(1, 1, 1), 1, model.device), Conditioning()).h.shape[1]
    frame = _coded(model, torch.zeros(1, model.clip.channels, 1, *model.clip.size, device=model.device))
    return model.clip.actions, frame[0].numel() + width


@torch.no_grad()
def _coded(model: Model, video: Tensor) -> Tensor:
    """Tokens of one frame, B n D."""
    return model.patchifier.patchify(Latents(model.autoencoder.encode(video.to(model.device)).values)).filled()


def _shown(model: Model, frames: Tensor) -> Tensor:
    """B T n D tokens of frames to B C T H W."""
    grid = model.patchifier.token_grid(model.autoencoder.latent_grid(frames.shape[1], model.clip.size))
    tokens = Tokens.canvas(grid, len(frames), frames.device).with_values(frames.flatten(1, 2))
    return model.autoencoder.decode(model.patchifier.unpatchify(tokens))
