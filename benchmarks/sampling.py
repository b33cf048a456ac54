"""Samples on request: clips of a run as video files, each with a line that says what it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutoscope.benchmarks.sources import Begins
from mutoscope.benchmarks.video_files import FORMATS, as_bytes, encode
from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request
from mutoscope.core.model import stages_of
from mutoscope.core.storage.atomic import make_folder, write_bytes, write_text
from mutoscope.core.storage.failpoints import reach
from mutoscope.core.storage.lock import RunLock
from mutoscope.core.training.progress import Progress
from mutoscope.core.windows import extent
from mutoscope.registry.addresses import digest
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.pretrained import Pretrained, open_model
from mutoscope.registry.runs import Loaded
from mutoscope.registry.samplers import named_sampler
from mutoscope.registry.tasks import prepare, readers

FPS = 8.0
"""Frames per second where the data does not say."""
AT_ONCE = 16
"""Clips sampled and written together."""
INDEX = "samples.jsonl"


@dataclass(frozen=True)
class Asked:
    """What is asked for; each of prompts, labels and actions is empty, one for all clips, or one for each.

    count: clips for each. frames, size (rows, columns): None as in the training data.
    """

    prompts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    actions: tuple[tuple[int, ...], ...] = ()
    count: int = 1
    frames: int | None = None
    size: tuple[int, int] | None = None
    seed: int = 0

    def request(self) -> Request:
        """The request, one entry per clip. Raises InputError where the numbers of entries do not agree."""
        given = {name: getattr(self, name) for name in ("prompts", "labels", "actions")}
        distinct = max(1, *map(len, given.values()))
        for name, values in given.items():
            if len(values) not in (0, 1, distinct):
                raise InputError(
                    field=name, problem=f"must be one for all, or one for each of {distinct}", got=len(values)
                )
        if len(set(map(len, self.actions))) > 1:
            raise InputError(field="actions", problem="must be of one length", got=list(map(len, self.actions)))
        spread = {
            name: tuple(
                v for v in (values if len(values) == distinct else values * distinct) for _ in range(self.count)
            )
            for name, values in given.items()
            if values
        }
        n = distinct * self.count
        return Request(
            **spread,
            count=n,
            frames=self.frames,
            size=self.size,
            seed=self.seed,
            clips=tuple(range(n)),
            at_once=AT_ONCE,
        )


def write_samples(
    folder: Path,
    asked: Asked,
    format: str,
    fps: float | None,
    out: Path | None,
    plugins: Sequence[Path],
    device: str | None,
    progress: Progress,
    begins: Begins = Begins(),  # noqa: B008
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Samples a run and writes the clips; gives a record for each, and notes on what was done beyond the request.

    folder: of a run or a pretrained one. out: by default its `samples/`. Raises RunInUse when another process works in
    the run, which would delete checkpoints, or in `out`; InputError on what the model cannot be asked for.
    """
    if format not in FORMATS:
        raise InputError(field="format", problem="no such format", got=format, allowed=FORMATS)
    begins.check()
    request = asked.request()
    with ExitStack() as locks:
        run = (folder / "recipe.yaml").is_file()
        if run:
            locks.enter_context(RunLock(folder))
        opened = open_model(folder, device, plugins)
        _check_read(opened, request)
        request, said = _begun(opened, request, begins, plugins)
        place = out or folder / "samples"
        make_folder(place)
        if out is not None or not run:
            locks.enter_context(RunLock(place))
        reach("sample.begin")
        records, notes = _written(opened, request, format, fps or _fps(opened), place, progress, begins.record())
        return records, (*(opened.notes if isinstance(opened, Loaded) else ()), *said, *notes)


def _written(
    opened: Loaded | Pretrained,
    request: Request,
    format: str,
    fps: float,
    place: Path,
    progress: Progress,
    task: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    records: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    n = len(request)
    progress.begin("sampling", n)
    for start in range(0, n, AT_ONCE):
        part = request.cut(slice(start, min(start + AT_ONCE, n)))
        answer = opened.answer(request=part)
        reach("sample.made")
        notes.update(dict.fromkeys(answer.notes))
        more = []
        for i, clip in enumerate(as_bytes(answer.video)):
            record = _record(opened, part, i, clip.shape, fps, format, answer.notes, task)
            write_bytes(place / record["file"], encode(clip, fps, format))
            more.append(record)
        reach("sample.written")
        _index(place / INDEX, more)
        records += [{**record, "path": str(place / record["file"])} for record in more]
        progress.advance(len(records))
    progress.end()
    return records, tuple(notes)


def _record(
    opened: Loaded | Pretrained,
    request: Request,
    i: int,
    shape: Sequence[int],
    fps: float,
    format: str,
    notes: Sequence[str],
    task: Mapping[str, Any],
) -> dict[str, Any]:
    """What a clip is. Its file's name is a function of that."""
    said = {
        "prompt": request.prompts[i] if request.prompts else None,
        "label": request.labels[i] if request.labels else None,
        "actions": list(request.actions[i]) if request.actions else None,
        "seed": request.seed,
        "clip": request.clips[i] if request.clips else i,
        "frames": shape[0],
        "size": [shape[1], shape[2]],
        "fps": fps,
        "step": opened.step if isinstance(opened, Loaded) else None,
        **task,
    }
    name = said["prompt"] or (f"class {said['label']}" if said["label"] is not None else "clip")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "clip"
    return {"file": f"{slug}-{digest(said)[:8]}.{format}", **said, "notes": list(notes)}


def _index(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to the index; those of files that were written again are replaced."""
    again = {record["file"] for record in records}
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            old = json.loads(line)["file"] not in again
        except (ValueError, KeyError, TypeError):
            old = False  # not a line of ours
        if old:
            kept.append(line)
    write_text(file, "".join(f"{line}\n" for line in [*kept, *map(json.dumps, records)]))


def _begun(
    opened: Loaded | Pretrained, request: Request, begins: Begins, plugins: Sequence[Path]
) -> tuple[Request, tuple[str, ...]]:
    """The request with what it begins from, the model with a sampler that does it, and what was done in words."""
    stages = stages_of(opened.model)
    clip = stages[-1][1].clip
    request = begins.asked(request, clip.frames, clip.size)
    extent(request, clip.frames)
    if request.expand and all(stage.lacks(("writer",)) for _, stage in stages):
        raise InputError(field="--expand", problem="needs a writer, and this model has none")
    if not begins.record():
        return request, ()
    catalog = Catalog.load(plugins)
    if begins.sampler is not None:
        for _, stage in stages_of(opened.model):
            stage.sampler = named_sampler(stage, catalog, {"type": begins.sampler, **begins.settings()})
        return request, prepare(opened.model, request, catalog, {})
    return request, prepare(opened.model, request, catalog, begins.settings())


def _check_read(opened: Loaded | Pretrained, request: Request) -> None:
    """Raises InputError where something is asked by what nothing in the model reads."""
    found = readers([stage for _, stage in stages_of(opened.model)])
    able = [field for field, names in found.items() if names]
    for field, given in (("prompt", request.prompts), ("label", request.labels), ("actions", request.actions)):
        if given is not None and field not in able:
            raise InputError(
                field=f"--{field}",
                problem="nothing in this model reads it",
                allowed=f"what it reads: {', '.join(able)}" if able else "nothing; it takes no conditions",
            )


def _fps(opened: Loaded | Pretrained) -> float:
    """The data's frames per second, where it has any."""
    return float(getattr(opened.assembled.dataset, "fps", FPS)) if isinstance(opened, Loaded) else FPS
