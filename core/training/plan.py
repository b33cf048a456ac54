"""What a training run is: phases, one after another, each a learner, an objective and how to descend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from mutoscope.core.dataset import Dataset
from mutoscope.core.model import Cascade, Model
from mutoscope.core.objective import Objective
from mutoscope.core.settings import Count, Natural, NonNegative, Positive, Share, TrainingPrecision


@dataclass(frozen=True)
class Budget:
    """What a phase may spend instead of a number of steps; exactly one is given.

    flops: of forward and backward passes (2 x multiply-accumulates). samples: clips seen. tokens: latent tokens seen.
    """

    flops: Positive | None = None
    samples: Count | None = None
    tokens: Count | None = None


@dataclass(frozen=True)
class Descent:
    """How to descend; `training:` in a recipe, and any of it again in a phase or in a turn within it.

    steps: optimizer steps, or a budget in their place. batch: clips per step, over all processes and micro-batches.
    accumulate: micro-batches per step. lr: peak learning rate. schedule: its course after the warm-up. warmup: steps
    from 0 to lr. floor: what share of lr the schedule ends at. optimizer: `adamw`, or any name timm knows. betas:
    Adam's. clip: largest gradient norm, 0 for none. ema: decay of the averaged weights, 0 for none. ema_warmup: the
    average's decay is at most (1 + step) / (ema_warmup + step). precision: of matrix products in the forward pass,
    `auto` for bfloat16 where the machine has units for it, else float32; weights stay float32. compile: torch.compile
    the learner. checkpoint_every, log_every: in steps; 0 checkpoints only at the end. keep: checkpoints kept. shard:
    shard parameters over processes instead of replicating them. on_nan:
    when a loss or gradient is not finite, stop the run, skip the step, or roll back to the phase's last checkpoint and
    leave out the steps since it, as Chowdhery et al. 2022 (PaLM), sec. 5.1, did with spikes of the loss. cache: bytes
    that may hold what frozen parts made of the data. log: further places to log to.
    """

    steps: Natural | None = None
    budget: Budget | None = None
    batch: Count = 32
    accumulate: Count = 1
    lr: Positive = 1e-3
    schedule: Literal["constant", "cosine", "linear", "rsqrt"] = "cosine"
    warmup: Natural = 100
    floor: Share = 0.0
    optimizer: str = "adamw"
    weight_decay: NonNegative = 0.0
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.99)
    clip: NonNegative = 1.0
    ema: Annotated[float, Ge(0), Lt(1)] = 0.999
    ema_warmup: Positive = 10.0
    precision: TrainingPrecision = "float32"
    compile: bool = False
    checkpoint_every: Natural = 500
    log_every: Count = 10
    keep: Annotated[int, Ge(2), Le(1000)] = 2
    shard: bool = False
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    cache: Natural = 2 << 30
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    seed: Natural = 0


@dataclass(frozen=True)
class Phase:
    """One learner under one objective.

    name: its place and learner, `0-autoencoder`; in a cascade `STAGE.0-denoiser`. stage: the stage's name, `` without
    stages. learn: the learner's role. descent: as resolved for the learner's own turn, with `steps` set. turns: descents
    of other turns by name, where the recipe says more. address: hash of all that its result depends on; empty where
    the result is not to be kept for other runs.
    """

    name: str
    learn: str
    objective: Objective
    descent: Descent
    turns: Mapping[str, Descent] = field(default_factory=dict)
    stage: str = ""
    address: str = ""


@dataclass(frozen=True)
class Plan:
    """The whole of a training run. views: the frames and size at which a stage sees the data, by stage name."""

    dataset: Dataset
    phases: tuple[Phase, ...]
    seed: int
    views: Mapping[str, tuple[int, tuple[int, int]]] = field(default_factory=dict)


Trained = Model | Cascade
