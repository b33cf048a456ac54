"""The `distil` objective: guidance folded into one network, then half the steps, and half again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import Additive
from mutoscope.core.guidance import nothing_told
from mutoscope.core.layers.means import clip_means
from mutoscope.core.objective import Objective
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Natural, NonNegative, Steps
from mutoscope.core.values import Conditioning, Example, Losses, Prediction, Tokens

Asked = Callable[[Tokens, Tensor, Conditioning], Prediction]
"""A network under the process: noisy tokens, times, conditioning."""


@final
class Distil(Objective):
    """Progressive distillation of a guided model. Ho et al. 2022, sec. 2.7, arXiv:2210.02303.

    After Meng et al. 2023, arXiv:2210.03142, and Salimans & Ho 2022, alg. 2, arXiv:2202.00512. The teacher is the
    learner as it was when a round began. Round 0: the learner alone gives what the teacher gives with guidance, at any
    time. Every further round: one step of the learner goes where two DDIM steps of the teacher go, with half as many
    steps. The phase comes after the one that trained the model, whose process it takes; its sampler has no guidance
    then and `steps: until`. Conditioners are left as they are. The error is of the velocity, which weighs that of the
    clean data by 1 + SNR.

    guidance: scale of round 0; 1 has nothing to fold, and `fold` may be 0. fold: training steps of round 0. start: steps
    of the sampler before the first halving. until: steps after the last; start / until is a power of two. each:
    training steps of a halving. What a phase has beyond these rounds is spent on the last.
    """

    name = "distil"
    paper = "Salimans & Ho 2022, arXiv:2202.00512"
    accepts = LevelDenoiser

    def __init__(
        self,
        process: Annotated[LevelProcess, Additive],
        *,
        guidance: NonNegative = 6.0,
        fold: Natural = 1000,
        start: Steps = 64,
        until: Steps = 8,
        each: Count = 1000,
    ) -> None:
        super().__init__()
        halvings = (start // until).bit_length() - 1
        if until << halvings != start:
            raise InputError(field="start", problem=f"must be {until} doubled some times", got=start)
        self.process, self.guidance, self.fold, self.each = process, guidance, fold, each
        self.students = [start >> k for k in range(1, halvings + 1)]
        self.teacher = Weights()

    def round_at(self, step: int) -> int:
        """0 while guidance is folded in; k from the k-th halving."""
        if step < self.fold or not self.students:
            return 0
        return min(1 + (step - self.fold) // self.each, len(self.students))

    def loss(self, learner: LevelDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        tokens, number = example.tokens, self.round_at(draw.step)
        assert tokens is not None
        told = example.conditioning.each(Tensor.detach)
        self.teacher.take(learner, number)
        eps, u = draw.like(tokens), draw.uniform("time").view(-1)
        if number:
            steps = self.students[number - 1]
            u = (u * steps).floor().add(1) / steps
        noisy = self.process.noised(tokens, eps, u, told.known)
        with torch.no_grad():
            ask = self._asking(self.teacher.of(learner))
            aim = self.halved(ask, noisy, u, steps, told) if number else self.guided(ask, noisy, u, told)
        said = self.process.predict(learner, noisy, u, told)
        gap = said.as_velocity().float() - aim.as_velocity().float()
        error = clip_means(gap.square().mean(dim=-1), tokens, told.known).mean()
        return Losses(error, {"error": error.detach(), "round": torch.tensor(float(number))})

    def guided(self, ask: Asked, noisy: Tokens, level: Tensor, told: Conditioning) -> Prediction:
        """What the teacher says with guidance."""
        own = ask(noisy, level, told)
        if self.guidance == 1.0:
            return own
        null = ask(noisy, level, nothing_told(told, self.guidance))
        clean = torch.lerp(null.as_clean().float(), own.as_clean().float(), self.guidance)
        return Prediction(clean, "clean", own.at, own.signal, own.noise)

    def halved(self, ask: Asked, noisy: Tokens, level: Tensor, steps: int, told: Conditioning) -> Prediction:
        """The clean data with which one step of 1 / steps goes where two of half that go. Its alg. 2."""
        middle, then = level - 0.5 / steps, (level - 1 / steps).clamp(min=0)
        x = noisy
        for now, next_ in ((level, middle), (middle, then)):
            said = ask(x, now, told)
            a, s = self.process.per_token(x, next_)
            x = x.with_values(a * said.as_clean() + s * said.as_noise())
        (a, s), (a_then, s_then) = self.process.per_token(noisy, level), self.process.per_token(noisy, then)
        ratio = s_then / s
        clean = (x.filled() - ratio * noisy.filled()) / (a_then - ratio * a)
        return Prediction(clean, "clean", noisy.filled(), a, s)

    def _asking(self, network: Callable[..., Tensor]) -> Asked:
        return lambda noisy, level, told: self.process.predict(network, noisy, level, told)  # type: ignore[arg-type]


class Weights(nn.Module):
    """A network's weights as they were: saved with the objective, so that a resumed round has the same teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.number = -1
        self.tensors: dict[str, Tensor] = {}

    def take(self, network: nn.Module, number: int) -> None:
        """Copies the weights, once in a round."""
        if number != self.number:
            named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            self.tensors = {name: tensor.detach().clone() for name, tensor in named.items()}
            self.number = number

    def of(self, network: nn.Module) -> Callable[..., Tensor]:
        """The network with these weights."""
        return lambda *given: functional_call(network, self.tensors, given)

    def _apply(self, fn: Any, recurse: bool = True) -> Weights:
        self.tensors = {name: fn(tensor) for name, tensor in self.tensors.items()}
        return super()._apply(fn, recurse)  # type: ignore[return-value]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.tensors:
            destination[f"{prefix}number"] = torch.tensor(self.number)
            destination.update({f"{prefix}tensors.{name}": tensor for name, tensor in self.tensors.items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        kept = {name: tensor for name, tensor in state_dict.items() if name.startswith(f"{prefix}tensors.")}
        self.tensors = {name.removeprefix(f"{prefix}tensors."): t.clone() for name, t in kept.items()}
        self.number = int(state_dict[f"{prefix}number"]) if kept else -1
        # What is not a parameter of this module would count as unexpected.
        others = {name: tensor for name, tensor in state_dict.items() if name not in kept and name != f"{prefix}number"}
        super()._load_from_state_dict(others, prefix, *rest)  # type: ignore[arg-type]
