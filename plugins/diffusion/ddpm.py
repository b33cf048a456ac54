"""The `ddpm` objective: denoising diffusion in so many steps."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Positive, Steps
from mutoscope.core.values import Example, Kind, Losses
from mutoscope.plugins.diffusion.errors import clip_means

Schedule = Literal["linear", "cosine", "root"]
ENDS = {"linear": (1e-4, 0.02), "root": (0.0015, 0.0195)}
"""First and last beta of a thousand steps: Ho et al. 2020, sec. 4; Rombach et al. 2022, released configurations."""


def betas(schedule: Schedule, steps: int, ends: tuple[float, float] | None = None) -> np.ndarray:
    """The variances beta_1 ... beta_T that a schedule adds, float64.

    linear: between the ends, which are those of a thousand steps and scale with 1000/T. root: linear in sqrt(beta),
    unscaled. cosine: from abar(t) = cos^2((t/T + .008)/1.008 pi/2), at most .999 (Nichol & Dhariwal 2021, eq. 17).
    """
    if schedule == "cosine":
        f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - f[1:] / f[:-1], 0.999)
    first, last = ends or ENDS[schedule]
    if schedule == "root":
        return np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2
    return np.linspace(first, last, steps, dtype=np.float64) * (1000 / steps)


@final
class DdpmProcess(LevelProcess):
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps at steps t = 0 (data) to T. Ho et al. 2020, eq. 4.

    A level is t/T; one in between counts as the nearest step. Tables are computed in float64 and read in the level's
    dtype. The network is told t - 1, as released code counts. abar: abar_0 = 1 ... abar_T, float64.
    """

    def __init__(self, beta: np.ndarray, kind: Kind = "noise") -> None:
        self.kind, self.steps = kind, len(beta)
        self.abar = np.concatenate([[1.0], np.cumprod(1.0 - beta)])
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def index(self, level: Tensor) -> Tensor:
        """The step t of each level, integers 0 ... T."""
        return (level * self.steps).round().long().clamp(0, self.steps)

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        place = (level.device, level.dtype)
        if place not in self._tables:
            exact = torch.from_numpy(np.sqrt(np.stack([self.abar, 1.0 - self.abar])))
            self._tables[place] = exact.to(level.dtype).to(level.device)
        signal, noise = self._tables[place][:, self.index(level)]
        return signal, noise

    def coordinate(self, level: Tensor) -> Tensor:
        return (self.index(level) - 1).clamp(min=0).to(level.dtype)

    def levels(self, steps: int) -> Tensor:
        """Evenly spaced steps, first and last included (Nichol & Dhariwal 2021, sec. 4), then 0.

        Raises InputError on more than T.
        """
        if steps > self.steps:
            raise InputError(
                field="sampler.steps", problem="more than the process has", got=steps, allowed=f"at most {self.steps}"
            )
        chosen = np.rint(np.linspace(1, self.steps, steps)) if steps > 1 else np.array([self.steps])
        return torch.from_numpy(np.append(chosen[::-1], 0.0) / self.steps)


@final
class Ddpm(Objective):
    """Denoising diffusion: the network learns the noise in x_t for a step t drawn evenly.

    Ho et al. 2020, alg. 1 and eq. 14: the squared error of what is predicted, mean over each clip's tokens, then over
    clips.

    steps: T. schedule: of the variances; `root` is linear in their roots, as latent diffusion has it. ends: the first
    and last variance, where the schedule has ends; by default those of its paper. predict: what the network gives;
    `velocity` is a eps - s x0 (Salimans & Ho 2022).
    """

    name = "ddpm"
    paper = "Ho et al. 2020, arXiv:2006.11239"
    accepts = LevelDenoiser

    def __init__(
        self,
        *,
        steps: Steps = 1000,
        schedule: Schedule = "linear",
        ends: tuple[Positive, Positive] | None = None,
        predict: Literal["noise", "clean", "velocity"] = "noise",
    ) -> None:
        super().__init__()
        if ends is not None and schedule == "cosine":
            raise InputError(field="ends", problem="the cosine schedule has none", got=list(ends))
        beta = betas(schedule, steps, ends)
        if beta.max() >= 1.0:
            raise InputError(
                field="ends", problem=f"a variance of {beta.max():.4g} is no share of the whole over {steps} steps"
            )
        self.process = DdpmProcess(beta, predict)

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, told, process = example.tokens, example.conditioning, self.process
        assert tokens is not None
        eps = draw.like(tokens)
        level = (draw.uniform("time") * process.steps).floor().add(1) / process.steps
        noisy = process.noised(tokens, eps, level, told.known)
        field = process.predict(learner, noisy, level, told).field.float()
        target = self.target(tokens.filled(), eps, *process.per_token(tokens, level))
        error = clip_means((field - target).square().mean(dim=-1), tokens, told.known).mean()
        return Losses(error, {"error": error.detach()})

    def target(self, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """What the network should say, B N D."""
        match self.process.kind:
            case "clean":
                return x0
            case "velocity":
                return a * eps - s * x0
            case _:
                return eps
