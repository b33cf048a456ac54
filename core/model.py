"""The model: the assembled siblings that generate. Knows what they are to each other, not what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from mutoscope.core.autoencoder import Autoencoder
from mutoscope.core.component import Component
from mutoscope.core.conditioner import Conditioner
from mutoscope.core.denoiser import Denoiser
from mutoscope.core.facts import ClipFact
from mutoscope.core.objective import Objective
from mutoscope.core.patchifier import Patchifier
from mutoscope.core.randomness import Draw
from mutoscope.core.sampler import Sampler
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch, Conditioning
from mutoscope.core.writer import Writer

ROLES = ("autoencoder", "patchifier", "conditioner", "objective", "denoiser", "tower", "sampler", "writer")
"""The roles of a model, in the order in which their facts are published."""

GENERATING = ("autoencoder", "patchifier", "objective", "denoiser", "sampler")
"""The roles without which nothing is generated."""


class Model(nn.Module):
    """One stage: video in, tokens, conditioning, and video out.

    A part may be missing where the recipe has no use for it (a recipe that trains a tower alone); `generate` refuses
    such a model. Parameters live under `ROLE.` (`conditioner.0.`, `conditioner.1.` for the conditioners), in
    checkpoints and in exported folders alike. clip: what the training data was; defaults of a request come from it.
    """

    autoencoder: Autoencoder
    patchifier: Patchifier
    objective: Objective
    denoiser: Denoiser
    sampler: Sampler
    tower: Tower
    writer: Writer
    recipe: Mapping[str, Any] | None = None
    """The resolved recipe it was assembled from, as plain data; None for one that was put together by hand."""

    def __init__(
        self,
        clip: ClipFact,
        *,
        autoencoder: Autoencoder | None = None,
        patchifier: Patchifier | None = None,
        conditioners: Sequence[Conditioner] = (),
        objective: Objective | None = None,
        denoiser: Denoiser | None = None,
        sampler: Sampler | None = None,
        tower: Tower | None = None,
        writer: Writer | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        given = locals()
        for role in ROLES:
            part = nn.ModuleList(conditioners) if role == "conditioner" else given[role]
            self.add_module(role, part)

    def lacks(self, roles: Sequence[str] = GENERATING) -> list[str]:
        """Those of the roles that this model has no part for."""
        return [role for role in roles if getattr(self, role) is None]

    @property
    def conditioners(self) -> list[Conditioner]:
        return [cast(Conditioner, c) for c in cast(nn.ModuleList, self.conditioner)]

    @property
    def device(self) -> torch.device:
        tensor = next(iter(self.parameters()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def part(self, role: str) -> nn.Module:
        """The sibling of a role; `conditioner` is the list of them. Raises KeyError on another word."""
        if role not in ROLES:
            raise KeyError(role)
        return getattr(self, role)

    def parts(self) -> Iterator[tuple[str, Component]]:
        """(address, part) of every sibling there is: `denoiser`, `conditioner.0`, ..."""
        for role in ROLES:
            if role == "conditioner":
                single = len(self.conditioners) == 1
                yield from (
                    ("conditioner" if single else f"conditioner.{i}", c) for i, c in enumerate(self.conditioners)
                )
            elif getattr(self, role) is not None:
                yield role, cast(Component, self.part(role))

    def embed(self, batch: Batch, draw: Draw, keep: bool = False) -> Conditioning:
        """What all conditioners say of a batch, merged.

        keep: apply each conditioner's own dropout, drawn per clip; only training asks for it.
        """
        told = Conditioning()
        for i, conditioner in enumerate(self.conditioners):
            said = conditioner.embed(batch, draw)
            if keep and conditioner.dropout > 0:
                said = said.keep(draw.uniform(f"dropout.{i}").view(-1) >= conditioner.dropout)
            told = told.merge(said)
        return told


class Cascade(nn.Module):
    """Stages by name, each a model; a later one is given the earlier one's video as `Batch.earlier`."""

    recipe: Mapping[str, Any] | None = None
    """As a model's."""

    def __init__(self, stages: dict[str, Model]) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)

    def items(self) -> list[tuple[str, Model]]:
        return [(name, cast(Model, stage)) for name, stage in self.stages.items()]


def stages_of(model: Model | Cascade) -> list[tuple[str, Model]]:
    """(name, model) of every stage; a model alone is one stage named ``."""
    return model.items() if isinstance(model, Cascade) else [("", model)]
