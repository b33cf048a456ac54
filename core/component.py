"""The base of every part: it has a name, a role, a constructor that is its schema, and facts to publish."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

NAME = re.compile(r"[a-z][a-z0-9_]*")


class Component:
    """A part that a recipe can name.

    Every component is abstract (a role, or a capability under a role) or final (it has a `name`). A final one is
    never subclassed: wrap it instead.

    The constructor is the contract. Positional parameters are annotated with fact types, optionally with needs
    (`Annotated[TokenFact, Continuous]`), and assembly fills them by type. Keyword-only parameters are what a recipe
    may set: their types, bounds and defaults are the schema. A keyword annotated with a role is a nested part, whose
    default is a `Nested`.
    """

    role: ClassVar[str] = ""
    """The role's word, set by the role's abstract class: `denoiser`, `sampler`, ..."""
    name: ClassVar[str] = ""
    """The recipe's word for this part; empty on abstract classes."""
    paper: ClassVar[str] = ""
    """Where the part comes from: `Peebles & Xie 2023, arXiv:2212.09748`; empty for parts of our own."""
    entries: ClassVar[tuple[str, ...]] = ("forward",)
    """Methods through which the part's weights are used, for sharding and compilation."""
    tiny: ClassVar[dict[str, Any]] = {}
    """Settings that make the part small, for the contract checks; the defaults where it is empty."""
    mixes_batch: ClassVar[bool] = False
    """Whether a clip's output in training depends on its batch mates (batch statistics)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if any(base.__module__.startswith("torch.distributed.") for base in cls.__bases__):
            return  # the class that `fully_shard` swaps in at run time
        for base in cls.__mro__[1:]:
            if isinstance(base.__dict__.get("name"), str) and base.__dict__["name"] and issubclass(base, Component):
                raise TypeError(f"{cls.__name__} extends {base.__name__}, which is final: wrap it, never extend it")
        own = cls.__dict__.get("name")
        if isinstance(own, str) and own and not NAME.fullmatch(own):
            raise TypeError(f"{cls.__name__}.name = {own!r}: a name is lower-case letters, digits and underscores")

    def facts(self) -> Iterable[Any]:
        """What this part publishes to those that come after it: instances of the classes of `core.facts`."""
        return ()

    def adapted(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Stored tensors, by name, as this part's own, where it can start from another network: an image model's
        weights for a video model, positions of another grid. By default as they are."""
        return stored

    @classmethod
    def lend(cls, facts: Facts) -> Iterable[Any]:
        """Further facts for the parts nested in this one, derived from those published so far."""
        return ()

    @classmethod
    def material(cls, folder: Path) -> dict[str, Any]:
        """What the part cannot be tried without in the contract checks: writes it into an empty folder, and gives the
        settings that point to it, beside those of `tiny`. Nothing by default."""
        return {}

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]

    @classmethod
    def capabilities(cls) -> tuple[str, ...]:
        """Names of the abstract classes between the role and this part: `("LevelDenoiser",)`."""
        return tuple(
            base.__name__
            for base in cls.__mro__[1:]
            if issubclass(base, Component) and not base.name and base.role and base.__dict__.get("role") is None
        )


@dataclass(frozen=True)
class Nested:
    """Default of a nested part: a recipe word and its settings, built by assembly.

    `discriminator: Discriminator = Nested("patch3d", {"width": 32})`.
    """

    type: str
    settings: dict[str, Any] = field(default_factory=dict)


class Facts:
    """What has been published so far, found by type; the latest of a type wins."""

    def __init__(self, published: Iterable[Any] = ()) -> None:
        self.published = tuple(published)

    def with_(self, more: Iterable[Any]) -> Facts:
        """A new bag with `more` published last."""
        return Facts((*self.published, *more))

    def get(self, kind: type) -> Any | None:
        """The latest published instance of `kind`, or None."""
        return next((fact for fact in reversed(self.published) if isinstance(fact, kind)), None)
