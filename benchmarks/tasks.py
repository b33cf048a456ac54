"""Sora's tasks, each with its check on the embedded world and a control that must fail it.

    python -m mutoscope.benchmarks.tasks [RUN] [--clips N] [--out DIR] [--note TEXT]

RUN is a run of clips of the embedded world, by default one of `lineage/00-sora`, which is trained first. Clips of the
test split of the size that the run saw most are the material; what is made of them is held against the rest of them.
Given frames are compared after the autoencoder's round trip, so that the checks are of what is made and not of the
codec. Writes `tasks.json` and `tasks.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutoscope.benchmarks.evaluation import reconstruct
from mutoscope.benchmarks.statistics import clip_interval
from mutoscope.core.errors import InputError
from mutoscope.core.generation import generate
from mutoscope.core.metric import Material, Metric
from mutoscope.core.model import Model
from mutoscope.core.request import Request
from mutoscope.core.storage.atomic import write_json, write_text
from mutoscope.core.training.progress import progress
from mutoscope.core.training.provenance import environment
from mutoscope.core.values import Batch
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import Loaded, load, train_recipe
from mutoscope.registry.samplers import named_sampler
from mutoscope.registry.tasks import prepare

RECIPE = "lineage/00-sora"
SEAM = 2.0
"""A change between frames may be so many times as large as in real clips."""
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
UNSEEN = ((13, 16, 16), (9, 24, 24), (9, 8, 24))
"""Frames, rows and columns that the recipe's data does not have."""


@dataclass(frozen=True)
class Row:
    """One check. value: of what is made, with its interval over clips; control: of what must fail. bar: what is asked.

    passed: the value's interval is on the right side of the bar. fails: the control's mean is on the wrong one.
    """

    task: str
    check: str
    bar: str
    value: float
    low: float
    high: float
    control: str
    control_value: float
    n: int
    passed: bool
    fails: bool

    @property
    def verdict(self) -> str:
        return "holds" if self.passed and self.fails else "FAILED" if self.fails else "undecided: the control passes"


class Bench:
    """A model, real clips of one size, and what is measured of videos."""

    def __init__(self, run: Loaded, catalog: Catalog, clips: int, seed: int = 0) -> None:
        model = run.model
        if not isinstance(model, Model):
            raise InputError("the tasks are tried on a model of one stage")
        self.model, self.catalog, self.seed = model, catalog, seed
        dataset = run.assembled.dataset
        size = (model.clip.frames, *model.clip.size)
        every = range(dataset.length("test"))
        sizes = dataset.sizes("test", every) or [size] * len(every)
        longest = max(size[0] for size in sizes)
        self.size = next(s for s in sizes if s[0] == longest)
        chosen = [i for i, s in zip(every, sizes, strict=True) if s == self.size][:clips]
        batch = dataset.batch("test", chosen)
        video = batch.video if isinstance(batch.video, Tensor) else torch.stack(list(batch.video or ()))
        self.real: Batch = replace(batch, video=video)
        self.coded = reconstruct(model, video)
        self.n, self.frames = len(video), video.shape[2]
        self.usual = changes(self.coded).mean(dim=1)
        """Mean change between frames of each real clip."""
        self.caption: Metric = catalog.find("metric", "caption")()  # type: ignore[assignment, misc]
        self.blank = Request(count=self.n, seed=seed, frames=self.frames, size=self.size[1:])

    def make(self, request: Request, sampler: dict[str, Any] | None = None, **settings: Any) -> Tensor:
        """What the model makes of a request, by its own sampler or another one."""
        own = self.model.sampler
        try:
            if sampler is not None:
                self.model.sampler = named_sampler(self.model, self.catalog, sampler)
            prepare(self.model, request, self.catalog, settings)
            return generate(self.model, request).video
        finally:
            self.model.sampler = own

    def right(self, video: Tensor, names: Sequence[str], state: Sequence[Any] | None = None) -> np.ndarray:
        """For each clip whether the oracle reads all of these attributes as the scene has them."""
        prompt = self.real.prompt
        real = replace(self.real, state=tuple(state or self.real.state or ()), prompt=prompt)
        scores = {s.name: s.clips for s in self.caption.score(Material(video, real, video, "test"))}
        return np.stack([scores[f"caption.{name}"] for name in names]).min(axis=0)

    def given(self, video: Tensor, frames: Sequence[int], source: Tensor | None = None) -> Tensor:
        """The video with given frames as the autoencoder gives them back."""
        shown = video.clone()
        shown[:, :, list(frames)] = (self.coded if source is None else source)[:, :, list(frames)]
        return shown

    def seam(self, video: Tensor, places: Sequence[int]) -> np.ndarray:
        """The largest change from frames t to t + 1, of the places t, over the usual change of a real clip."""
        return (changes(video)[:, list(places)].amax(dim=1) / self.usual).double().numpy()

    def error(self, video: Tensor, frames: Sequence[int]) -> np.ndarray:
        """Root mean square error of frames against the real clip."""
        gap = (video - self.coded)[:, :, list(frames)]
        return gap.square().mean(dim=(1, 2, 3, 4)).sqrt().double().numpy()


def changes(video: Tensor) -> Tensor:
    """Mean absolute change between neighbouring frames, B x (T - 1)."""
    return video.diff(dim=2).abs().mean(dim=(1, 3, 4))


def above(task: str, check: str, values: np.ndarray, control: str, other: np.ndarray) -> Row:
    """What is made is to be better than the control, by interval."""
    cell, bar = clip_interval(values), clip_interval(other)
    said = f"above the control's {bar.high:.2f}"
    return Row(
        task, check, said, cell.value, cell.low, cell.high, control, bar.value, len(values), cell.low > bar.high, True
    )


def below(task: str, check: str, values: np.ndarray, control: str, other: np.ndarray, most: float) -> Row:
    """What is made is to stay below a bar, which the control is not."""
    cell, fails = clip_interval(values), float(other.mean()) > most
    said = f"at most {most:g}"
    return Row(
        task,
        check,
        said,
        cell.value,
        cell.low,
        cell.high,
        control,
        float(other.mean()),
        len(values),
        cell.high <= most,
        fails,
    )


# The tasks


def generation(b: Bench) -> list[Row]:
    """Text to video, images, and sizes, aspects and durations that were not trained on: the same canvas each time."""
    names, rows = ("colour", "shape"), []
    asked = replace(b.blank, prompts=b.real.prompt)
    shapes = [("text to video", b.size), ("image", (1, *b.size[1:])), *(("a size not trained on", s) for s in UNSEEN)]
    for task, (frames, *size) in shapes:
        video = b.make(replace(asked, frames=frames, size=(size[0], size[1])))
        told = f"colour and shape as asked, {frames} x {size[0]} x {size[1]}"
        rows.append(above(task, told, b.right(video, names), "captions shuffled", b.right(video.roll(1, 0), names)))
        if task == "text to video":
            ways = ("direction",)
            rows.append(
                above(
                    task,
                    "direction as asked",
                    b.right(video, ways),
                    "captions shuffled",
                    b.right(video.roll(1, 0), ways),
                )
            )
    return rows


def animating(b: Bench) -> list[Row]:
    assert isinstance(b.real.video, Tensor)
    made = b.make(b.blank.animating(b.real.video[:, :, 0], b.frames))
    wrong, names = made.roll(1, 0), ("colour", "shape")
    kept, lost = b.right(made[:, :, 1:], names), b.right(wrong[:, :, 1:], names)
    seam = b.seam(b.given(made, [0]), [0]), b.seam(b.given(wrong, [0]), [0])
    return [
        above(
            "animate an image", "colour and shape of the image, told by the image alone", kept, "another image", lost
        ),
        below(
            "animate an image", "change from the image to the first frame made", seam[0], "another image", seam[1], SEAM
        ),
    ]


def extending(b: Bench) -> list[Row]:
    """Forward and backward: a uniform motion has but one way to go on, so that the real clip says what is right."""
    assert isinstance(b.real.video, Tensor)
    rows = []
    known = b.frames - 4
    known -= (known - 1) % 2
    for task, told in (("extend a video", range(known)), ("extend it backward", range(b.frames - 4, b.frames))):
        part, rest = b.real.video[:, :, list(told)], [t for t in range(b.frames) if t not in told]
        more = {"after" if told[0] == 0 else "before": len(rest)}
        made = b.given(b.make(b.blank.extending(part, **more)), told)
        still = b.given(b.coded[:, :, [told[-1] if told[0] == 0 else told[0]]].expand_as(b.coded), told)
        ratio = b.error(made, rest) / b.error(still, rest)
        other = b.error(b.given(made.roll(1, 0), told), rest) / b.error(still, rest)
        place = [told[-1]] if told[0] == 0 else [told[0] - 1]
        seam, cut = b.seam(made, place), b.seam(b.given(made.roll(1, 0), told), place)
        rows += [
            below(task, "error over that of standing still", ratio, "made from another video", other, 1.0),
            below(task, "change where it begins", seam, "made from another video", cut, SEAM),
        ]
    return rows


def connecting(b: Bench) -> list[Row]:
    assert isinstance(b.real.video, Tensor)
    rows = []
    head, tail = range(3), range(b.frames - 2, b.frames)
    between = list(range(3, b.frames - 2))
    ends = (*head, *tail)
    places = range(2, b.frames - 2)
    half = len(between) // 2
    for name, source in (("of one clip", 0), ("of two clips", 1)):
        other = b.coded.roll(source, 0)
        whole = torch.cat([b.coded[:, :, :3], b.coded[:, :, 3:-2], other[:, :, -2:]], dim=2)
        video = b.real.video
        made = b.make(b.blank.connecting(video[:, :, :3], video.roll(source, 0)[:, :, -2:], len(between)))
        made = b.given(made, ends, whole)
        cut = b.given(torch.cat([b.coded[:, :, 2:3].expand(-1, -1, 3 + half, -1, -1),
                                 other[:, :, -2:-1].expand(-1, -1, b.frames - 3 - half, -1, -1)], 2), ends, whole)  # fmt: skip
        task = f"connect two videos {name}"
        rows.append(below(task, "largest change", b.seam(made, places), "a hard cut", b.seam(cut, places), SEAM))
        if source == 0:
            share = torch.linspace(0, 1, len(between) + 2)[1:-1].view(1, 1, -1, 1, 1)
            fade = b.coded.clone()
            fade[:, :, between] = torch.lerp(b.coded[:, :, 2:3], b.coded[:, :, -2:-1], share)
            gap = b.error(made, between) / b.error(fade, between)
            rows.append(
                below(
                    task,
                    "error over that of a cross-fade",
                    gap,
                    "a hard cut",
                    b.error(cut, between) / b.error(fade, between),
                    1.0,
                )
            )
            for repeats in (1, 5):
                said = {"type": "repaint", "steps": 20, "repeats": repeats, "jump": 4}
                asked = b.blank.connecting(video[:, :, :3], video[:, :, -2:], len(between))
                told = b.given(b.make(asked, said), ends, whole)
                rows.append(
                    below(f"the same by replacement, {repeats} times", "largest change",
                          b.seam(told, places), "a hard cut", b.seam(cut, places), SEAM)
                )  # fmt: skip
    return rows


def looping(b: Bench) -> list[Row]:
    asked = replace(b.blank, prompts=b.real.prompt, window=b.frames, overlap=3, loop=True, frames=b.frames + 3)
    loop = b.make(asked)
    plain = b.make(replace(asked, loop=False, window=None, overlap=None, frames=b.frames + 4))
    seams = [
        changes(torch.cat([v[:, :, -1:], v[:, :, :1]], dim=2))[:, 0] / changes(v).median(dim=1).values
        for v in (loop, plain)
    ]
    values, other = (s.double().numpy() for s in seams)
    return [
        below(
            "loop",
            "change from the last frame to the first, over the median",
            values,
            "the same prompts, unlooped",
            other,
            SEAM,
        )
    ]


def filling(b: Bench) -> list[Row]:
    assert isinstance(b.real.video, Tensor)
    video, rows = b.real.video, []
    some = torch.ones(b.n, b.frames, *b.size[1:], dtype=torch.bool)
    box = some.clone()
    missing = [3, 4, 5, 6]
    some[:, missing] = False
    box[:, :, b.size[1] // 2 :] = False
    for task, stays in (("fill in frames", some), ("fill in regions", box)):
        hidden = (~stays)[:, None].expand_as(b.coded)

        def gap(made: Tensor, hidden: Tensor = hidden) -> np.ndarray:
            square = torch.where(hidden, (made - b.coded).square(), 0.0).sum(dim=(1, 2, 3, 4))
            return (square / hidden.sum(dim=(1, 2, 3, 4))).sqrt().double().numpy()

        made = b.make(b.blank.filling(video, stays))
        away = torch.where(
            hidden, (b.coded * ~hidden).sum((2, 3, 4), keepdim=True) / (~hidden).sum((2, 3, 4), keepdim=True), b.coded
        )
        rows.append(
            below(
                task,
                "error over that of the mean colour",
                gap(made) / gap(away),
                "made from another video",
                gap(made.roll(1, 0)) / gap(away),
                1.0,
            )
        )
    return rows


def editing(b: Bench) -> list[Row]:
    """Another colour, the same motion: the strength at which both hold, if there is one."""
    assert isinstance(b.real.video, Tensor)
    assert b.real.prompt is not None
    assert b.real.state is not None
    prompts, states = [], []
    for text, scene in zip(b.real.prompt, b.real.state, strict=True):
        thing = scene.things[0]
        new = COLOURS[(COLOURS.index(thing.colour) + 2) % len(COLOURS)]
        prompts.append(text.replace(thing.colour, new))
        states.append(replace(scene, things=(replace(thing, colour=new), *scene.things[1:])))
    asked = replace(b.blank, prompts=tuple(prompts))
    alone = b.make(asked)
    apart = path_gap(alone, b.coded)
    rows = []
    before = b.right(b.coded, ("colour",), states)
    for strength in STRENGTHS:
        made = b.make(replace(asked, frames=None, size=None).editing(b.real.video), strength=strength, steps=40)
        colour = b.right(made, ("colour",), states)
        gap = path_gap(made, b.coded) / apart.mean()
        name = f"edit a video, strength {strength:g}"
        rows.append(above(name, "the colour asked for", colour, "the video as it was", before))
        rows.append(
            below(
                name,
                "path away from the video's, over that of a sample alone",
                gap,
                "a sample alone",
                apart / apart.mean(),
                0.5,
            )
        )
    return rows


def path_gap(video: Tensor, other: Tensor) -> np.ndarray:
    """Root mean square distance of where things are, in pixels: centres of what differs from the usual colour."""
    gap = (centres(video) - centres(other)).square().sum(-1).mean(-1).sqrt()
    return gap.double().numpy()


def centres(video: Tensor) -> Tensor:
    """B T 2: the centre (y, x) of what is not of the frame's median colour."""
    usual = video.flatten(3).median(dim=-1).values[..., None, None]
    weight = (video - usual).abs().sum(dim=1).square()
    weight = weight / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    y, x = (torch.arange(n, dtype=torch.float32) for n in video.shape[-2:])
    return torch.stack([(weight.sum(3) * y).sum(-1), (weight.sum(2) * x).sum(-1)], dim=-1)


def lasting(b: Bench) -> list[Row]:
    """Four windows, each going on from the last; against windows that know nothing of each other."""
    step = b.frames - 3
    frames = b.frames + 3 * step
    long = b.make(replace(b.blank, prompts=b.real.prompt, frames=frames, window=b.frames, overlap=3))
    alone = torch.cat([b.make(replace(b.blank, prompts=b.real.prompt, seed=b.seed + i)) for i in range(4)], dim=2)
    seams = [b.frames - 1 + i * step for i in range(3)]
    cuts = [(i + 1) * b.frames - 1 for i in range(3)]
    late = b.right(long[:, :, -b.frames :], ("colour", "shape"))
    shuffled = b.right(long[:, :, -b.frames :].roll(1, 0), ("colour", "shape"))
    return [
        below(
            f"{frames} frames by windows of {b.frames}",
            "largest change at a seam",
            b.seam(long, seams),
            "windows apart",
            b.seam(alone, cuts),
            SEAM,
        ),
        above(
            f"{frames} frames by windows of {b.frames}",
            "colour and shape in the last window",
            late,
            "captions shuffled",
            shuffled,
        ),
    ]


TASKS: tuple[Callable[[Bench], list[Row]], ...] = (
    generation, animating, extending, connecting, looping, filling, editing, lasting,
)  # fmt: skip


def measured(run: Loaded, catalog: Catalog, clips: int, note: str = "") -> dict[str, Any]:
    """All checks of a run, JSON-able. note: what else is to be known of it."""
    bench, rows, shown = Bench(run, catalog, clips), [], progress()
    shown.begin("tasks", len(TASKS))
    for i, task in enumerate(TASKS):
        rows += task(bench)
        shown.advance(i + 1)
    shown.end()
    parameters = sum(p.numel() for p in bench.model.parameters())
    return {
        "command": f"python -m mutoscope.benchmarks.tasks --clips {clips}",
        "recipe": run.assembled.recipe.name,
        "step": run.step,
        "note": note,
        "parameters": parameters,
        "clips": bench.n,
        "size": list(bench.size),
        "environment": {k: v for k, v in environment(str(bench.model.device)).items() if k != "argv"},
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }


def table(found: dict[str, Any]) -> str:
    """The same in words, as Markdown."""
    lines = [
        "# Sora's tasks on the embedded world",
        "",
        f"`{found['command']}`: {found['recipe']}, {found['parameters']:,} parameters, step {found['step']}, "
        f"{found['clips']} test clips of {' x '.join(map(str, found['size']))}. Intervals are 95% over clips of one run; "
        "one seed. A check holds where the interval meets the bar and the control does not.",
        "",
        *([found["note"], ""] if found.get("note") else []),
        "| task | check | bar | made | control | control's | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        made = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(
            f"| {row['task']} | {row['check']} | {row['bar']} | {made} | {row['control']} | {row['control_value']:.2f} | {row['verdict']} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run's folder; by default one is trained")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--note", default="", help="what else is to be known of the run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    catalog = Catalog.load()
    folder = given.run or train_recipe(load_recipe(RECIPE), catalog, progress=progress())[0]
    found = measured(load(folder, catalog=catalog), catalog, given.clips, given.note)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "tasks.json", found)
    write_text(given.out / "tasks.md", table(found))
    print(table(found))


if __name__ == "__main__":
    main()
