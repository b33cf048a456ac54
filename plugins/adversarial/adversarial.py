"""The `adversarial` objective: a generator of one step against discriminators."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor, nn

from mutoscope.core.component import Facts, Nested
from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import Continuous, FieldFact, Regular, TokenFact
from mutoscope.core.objective import Objective
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Natural, NonNegative, Share
from mutoscope.core.values import Conditioning, Example, Losses
from mutoscope.plugins.adversarial.augment import Change, augmented
from mutoscope.plugins.adversarial.grids import field_of, grid_of
from mutoscope.plugins.adversarial.losses import LOSSES, gradient_of, probed, split

CRITIC = "discriminator"
COLLAPSED = 0.02
"""Spread over noise, as a share of the data's, under which the generator is said to have collapsed."""
PACE = 500_000
"""Clips in which adaptive augmentation can go from never to always (Karras et al. 2020, sec. 3.1)."""


@final
class Adversarial(Objective):
    """A generator learns what discriminators take for data. Goodfellow et al. 2014, arXiv:1406.2661.

    Each step the discriminators take `critic_steps` turns and the generator one. Several discriminators judge the same
    clips, each its own view of them, and their losses add up. They see conditioning but do not teach it.

    discriminators: by name. loss: `non_saturating`, `softmax` (over real and fake), `hinge`, `wasserstein`,
    `least_squares`. r1: half of this times the squared gradient norm at data (Mescheder et al. 2018,
    arXiv:1801.04406); r1_every: of every so many steps, in a turn of its own and as much stronger (Karras et al. 2020,
    arXiv:1912.04958, app. B). penalty: of gradient norms other than 1 between data and samples (Gulrajani et al.
    2017, arXiv:1704.00028, eq. 3). augment: changes made to all that discriminators see, so that none of them leaks
    into samples. adaptive: the share of clips more often scored as data than not that augmentation is adjusted to,
    its chance starting at 0; 0 for always. augment_most: largest chance of a change. category: weight of naming the
    class, of data for discriminators with categories and of samples for the generator. information: weight of naming
    the class that a sample was drawn with, for both players (Chen et al. 2016, arXiv:1606.03657). terms: weights of
    what a generator says of itself. hold: steps at the start in which the generator waits.

    Logged by discriminator: `NAME.real`, `NAME.fake`, mean scores; `NAME.accuracy`, share of clips told right. By the
    generator: `spread`, root mean square difference of two samples that are told the same, over that of two clips of
    data; `collapsed`, 1 where it is under a fiftieth.
    """

    name = "adversarial"
    paper = "Goodfellow et al. 2014, arXiv:1406.2661"
    accepts = OneStepDenoiser
    tiny = {"discriminators": {"video": Nested("conv3d", {"width": 4, "depth": 2})}}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        *,
        discriminators: dict[str, Discriminator] = {"video": Nested("conv3d")},  # type: ignore[dict-item] # noqa: B006
        loss: Literal["non_saturating", "softmax", "hinge", "wasserstein", "least_squares"] = "non_saturating",
        critic_steps: Count = 1,
        r1: NonNegative = 0.0,
        r1_every: Count = 1,
        penalty: NonNegative = 0.0,
        augment: tuple[Change, ...] = (),
        adaptive: Share = 0.0,
        augment_most: Annotated[float, Gt(0), Le(1)] = 1.0,
        category: NonNegative = 0.0,
        information: NonNegative = 0.0,
        terms: dict[str, NonNegative] = {},  # noqa: B006
        hold: Natural = 0,
    ) -> None:
        super().__init__()
        if not discriminators:
            raise ValueError("discriminators: needs at least one")
        naming = [name for name, critic in discriminators.items() if critic.categories]
        if (category or information) and not naming:
            which = "category" if category else "information"
            raise ValueError(f"{which}: none of the discriminators names classes")
        self.discriminators = nn.ModuleDict(discriminators)
        self.patch = tokens.patch
        self.kind, self.even = LOSSES[loss], LOSSES[loss].even
        self.critic_steps, self.hold = critic_steps, hold
        self.r1, self.r1_every, self.penalty = r1, r1_every, penalty
        self.augment, self.adaptive, self.augment_most = tuple(augment), adaptive, augment_most
        self.category, self.information, self.terms = category, information, dict(terms)
        self.process = OneStepProcess()
        self.register_buffer("chance", torch.full((), 0.0 if adaptive else augment_most))

    @classmethod
    def lend(cls, facts: Facts) -> tuple[FieldFact, ...]:
        """The grids that discriminators judge."""
        tokens = facts.get(TokenFact)
        return () if tokens is None else (field_of(tokens),)

    def opponents(self) -> dict[str, nn.Module]:
        return {CRITIC: self.discriminators}

    def turns(self, step: int) -> tuple[str, ...]:
        turns = [CRITIC, *(f"{CRITIC}.{i}" for i in range(2, self.critic_steps + 1))]
        if self.r1 and self.r1_every > 1 and step % self.r1_every == 0:
            turns.append(f"{CRITIC}.r1")
        return (*turns, "learner") if step >= self.hold else tuple(turns)

    def loss(self, learner: OneStepDenoiser, example: Example, draw: Draw, turn: str) -> Losses:
        assert example.tokens is not None
        real = grid_of(example.tokens.filled(), example.tokens, self.patch)
        if turn == "learner":
            return self._generator(learner, example, real, draw)
        part = turn.partition(".")[2]
        if part == "r1":
            return self._smoothness(example, real, draw.at(0))
        return self._critics(learner, example, real, draw.at(int(part)) if part else draw)

    # The discriminators' turns

    def _critics(self, learner: OneStepDenoiser, example: Example, real: Tensor, draw: Draw) -> Losses:
        tokens, told = example.tokens, example.conditioning
        assert tokens is not None
        noise = learner.noise(tokens.with_values(None), draw)
        with torch.no_grad():
            fake = grid_of(learner(noise, tokens.with_values(None), told), tokens, self.patch)
        told = told.each(Tensor.detach)
        seen_real, seen_fake = self._augmented(real, draw.at(1)), self._augmented(fake, draw.at(2))
        total, parts, signs = real.new_zeros(()), {}, []
        for name, critic in self._named():
            shown_real, shown_fake = critic.view(seen_real, draw.at(3)), critic.view(seen_fake, draw.at(4))
            smooth = self.r1 > 0 and self.r1_every == 1
            if smooth:
                shown_real = probed(shown_real)
            r, named_real = split(critic(shown_real, told), critic)
            f, named_fake = split(critic(shown_fake, told), critic)
            loss = self.kind.critic(r.float(), f.float())
            if smooth:
                loss = loss + self._r1(r, shown_real)
            if self.penalty:
                loss = loss + self._penalty(critic, shown_real, shown_fake, told, draw)
            if self.category and named_real is not None and example.batch.label is not None:
                loss = loss + self.category * _naming(named_real, example.batch.label)
            if self.information and named_fake is not None and "category" in noise:
                loss = loss + self.information * _naming(named_fake, noise["category"])
            total = total + loss
            parts |= {f"{name}.real": r.mean().detach(), f"{name}.fake": f.mean().detach()}
            parts[f"{name}.accuracy"] = 0.5 * (_share(r > self.even) + _share(f <= self.even))
            signs.append(torch.sign(r.detach().mean(1) - self.even).mean())
        if self.augment and self.adaptive and self.training:
            self._adapt(torch.stack(signs).mean(), len(real))
        if self.augment:
            parts["augmentation"] = self.chance.clone()
        return Losses(total, parts)

    def _smoothness(self, example: Example, real: Tensor, draw: Draw) -> Losses:
        """R1 alone, as much stronger as it is rarer."""
        told, total = example.conditioning.each(Tensor.detach), real.new_zeros(())
        for _, critic in self._named():
            shown = probed(critic.view(self._augmented(real, draw), draw))
            total = total + self.r1_every * self._r1(split(critic(shown, told), critic)[0], shown)
        return Losses(total)

    def _r1(self, scores: Tensor, shown: Tensor) -> Tensor:
        return 0.5 * self.r1 * gradient_of(scores, shown).float().square().sum(1).mean()

    def _penalty(self, critic: Discriminator, real: Tensor, fake: Tensor, told: Conditioning, draw: Draw) -> Tensor:
        share = draw.uniform("between").view(-1, 1, 1, 1, 1).to(real)
        between = probed(torch.lerp(real, fake, share))
        norm = gradient_of(split(critic(between, told), critic)[0], between).float().norm(dim=1)
        return self.penalty * (norm - 1.0).square().mean()

    def _adapt(self, sign: Tensor, clips: int) -> None:
        """Moves the chance of augmentation by the share of data that is scored as data. Karras et al. 2020, eq. 1."""
        with torch.no_grad():
            moved = self.chance + torch.sign(sign - self.adaptive) * clips / PACE
            self.chance.copy_(moved.clamp(0.0, self.augment_most))

    # The generator's turn

    def _generator(self, learner: OneStepDenoiser, example: Example, real: Tensor, draw: Draw) -> Losses:
        tokens = example.tokens
        assert tokens is not None
        draw = draw.at(self.critic_steps + 1)
        told = _paired(example.conditioning, len(real))
        canvas = tokens.with_values(None)
        noise = learner.noise(canvas, draw)
        values, said = learner.explained(noise, canvas, told)
        fake = grid_of(values, tokens, self.patch)
        seen, told = self._augmented(fake, draw.at(2)), told.each(Tensor.detach)
        total, parts = real.new_zeros(()), {}
        for name, critic in self._named():
            f, named = split(critic(critic.view(seen, draw.at(4)), told), critic)
            loss = self.kind.generator(f.float())
            parts[f"{name}.fooling"] = loss.detach()
            target = noise.get("category", None if self.category == 0 else _first_label(example, len(real)))
            if (self.category or self.information) and named is not None and target is not None:
                loss = loss + max(self.category, self.information) * _naming(named, target)
            total = total + loss
        for name, term in said.items():
            total = total + self.terms.get(name, 0.0) * term.float()
            parts[name] = term.detach()
        if len(real) > 1:
            spread = _rms(fake[0] - fake[1]) / _rms(real - real.roll(1, 0)).clamp(min=1e-12)
            parts |= {"spread": spread, "collapsed": (spread < COLLAPSED).float()}
        return Losses(total, parts)

    def _augmented(self, grid: Tensor, draw: Draw) -> Tensor:
        return augmented(grid, self.augment, self.chance, draw) if self.augment else grid

    def _named(self) -> list[tuple[str, Any]]:
        return list(self.discriminators.items())


def _paired(told: Conditioning, clips: int) -> Conditioning:
    """The second clip is told what the first one is, so that they differ by their noise alone."""
    if clips < 2:
        return told
    return told.each(lambda x: torch.cat([x[:1], x[:1], x[2:]]))


def _first_label(example: Example, clips: int) -> Tensor | None:
    """The labels that the paired clips are told."""
    label = example.batch.label
    return label if label is None or clips < 2 else torch.cat([label[:1], label[:1], label[2:]])


def _naming(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of B x classes x places."""
    return F.cross_entropy(logits.float(), target[:, None].expand(-1, logits.shape[2]))


def _share(truths: Tensor) -> Tensor:
    return truths.float().mean()


@torch.no_grad()
def _rms(x: Tensor) -> Tensor:
    return x.float().square().mean().sqrt()
