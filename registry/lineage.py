"""The lineage: the 32 systems that the Sora report cites, and Sora; and which recipes ship for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mutoscope.core.errors import InputError
from mutoscope.registry import shipped
from mutoscope.registry.recipe import PARTS, load_recipe


class System(NamedTuple):
    """A system. number: as the Sora report cites it, 0 for Sora; year: of the paper."""

    number: int
    system: str
    year: int


SYSTEMS = (
    System(0, "Sora, Brooks, Peebles et al.", 2024),
    System(1, "LSTM composite, Srivastava et al.", 2015),
    System(2, "Recurrent environment simulators, Chiappa et al.", 2017),
    System(3, "World models, Ha & Schmidhuber", 2018),
    System(4, "Videos with scene dynamics, Vondrick et al.", 2016),
    System(5, "MoCoGAN, Tulyakov et al.", 2018),
    System(6, "DVD-GAN, Clark et al.", 2019),
    System(7, "Long videos of dynamic scenes, Brooks et al.", 2022),
    System(8, "VideoGPT, Yan et al.", 2021),
    System(9, "NUWA, Wu et al.", 2022),
    System(10, "Imagen Video, Ho et al.", 2022),
    System(11, "Align your latents, Blattmann et al.", 2023),
    System(12, "W.A.L.T, Gupta et al.", 2023),
    System(13, "Attention is all you need, Vaswani et al.", 2017),
    System(14, "GPT-3, Brown et al.", 2020),
    System(15, "ViT, Dosovitskiy et al.", 2021),
    System(16, "ViViT, Arnab et al.", 2021),
    System(17, "Masked autoencoders, He et al.", 2022),
    System(18, "NaViT, Dehghani et al.", 2023),
    System(19, "Latent diffusion, Rombach et al.", 2022),
    System(20, "Auto-encoding variational Bayes, Kingma & Welling", 2014),
    System(21, "Nonequilibrium thermodynamics, Sohl-Dickstein et al.", 2015),
    System(22, "DDPM, Ho et al.", 2020),
    System(23, "Improved DDPM, Nichol & Dhariwal", 2021),
    System(24, "Diffusion beats GANs, Dhariwal & Nichol", 2021),
    System(25, "EDM, Karras et al.", 2022),
    System(26, "DiT, Peebles & Xie", 2023),
    System(27, "Image GPT, Chen et al.", 2020),
    System(28, "DALL-E, Ramesh et al.", 2021),
    System(29, "Parti, Yu et al.", 2022),
    System(30, "Better captions (DALL-E 3), Betker et al.", 2023),
    System(31, "DALL-E 2 (unCLIP), Ramesh et al.", 2022),
    System(32, "SDEdit, Meng et al.", 2022),
)


def rows() -> list[dict[str, Any]]:
    """A row per system: `number`, `system`, `year`, `recipe` and `paper_recipes` as `describe` takes them, `parts`.

    `recipe` is None, and `parts` empty, where none ships. `parts` are read from the recipe: `denoiser dit`, each once.
    Needs neither torch nor plugins.
    """
    small, paper = _shipped("lineage"), _shipped("paper")
    found = []
    for system in SYSTEMS:
        recipe = next(iter(small.get(system.number, [])), None)
        papers = paper.get(system.number, [])
        found.append({**system._asdict(), "recipe": recipe, "paper_recipes": papers, "parts": _parts(recipe)})
    return found


def _shipped(folder: str) -> dict[int, list[str]]:
    """The recipes of a folder by the number that their names begin with."""
    found: dict[int, list[str]] = {}
    for stem in shipped.names((folder,)):
        number = stem.partition("-")[0]
        if number.isdecimal():
            found.setdefault(int(number), []).append(f"{folder}/{stem}")
    return found


def _parts(recipe: str | None) -> list[str]:
    """The parts that a recipe names; none of one that cannot be read."""
    if recipe is None:
        return []
    try:
        data = load_recipe(recipe).data
    except InputError:
        return []
    return list(dict.fromkeys(f"{role} {name}" for role, name in _named(data)))


def _named(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(role, name) of the parts at the top, in stages and in phases; of what is nested in them, (address, name)."""
    for role in PARTS:
        for value in _listed(data.get(role)):
            yield from _part(role, value)
    for stage in _listed(data.get("stages")):
        yield from _named(stage)
    for phase in _listed((data.get("training") or {}).get("phases")):
        yield from _part("objective", phase.get("objective"))
    for metric in _listed(data.get("metrics")):
        yield from _part("metric", metric)


def _part(role: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield role, value
    elif isinstance(value, Mapping):
        if isinstance(value.get("type"), str):
            yield role, value["type"]
        for key, inner in value.items():
            if isinstance(inner, Mapping):
                yield from _part(f"{role}.{key}", inner)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
