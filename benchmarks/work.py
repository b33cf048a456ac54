"""The work on one run of a study: trained, sampled and scored, each once; what is done stays done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mutoscope.benchmarks import outside
from mutoscope.benchmarks.evaluation import TOGETHER, Looked, Truth, as_bytes, reconstruct, sample, score
from mutoscope.benchmarks.kept import Kept, samples_address, score_address
from mutoscope.benchmarks.matching import Arm
from mutoscope.benchmarks.reporting.video import encode_webm
from mutoscope.benchmarks.study import UNSAFE, Study, marks
from mutoscope.core.errors import InputError, Interrupted, MutoscopeError, RunInUse
from mutoscope.core.metric import Metric
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.storage.atomic import write_bytes, write_json
from mutoscope.core.storage.checkpoint import STATE, newest
from mutoscope.core.training.distribution import join
from mutoscope.core.training.progress import Progress
from mutoscope.core.training.provenance import reset_peak_memory
from mutoscope.core.training.signals import Stop
from mutoscope.registry.addresses import digest
from mutoscope.registry.assembly import Assembled, assemble
from mutoscope.registry.runs import load, read_json, train_recipe, with_addresses


@dataclass(frozen=True)
class Work:
    """What the work on a study is done with. stop: whether a signal has asked for an end. truths: real clips by the
    data that they are of. clock: seconds by kind of work."""

    study: Study
    folder: Path
    store: Path
    progress: Progress
    stop: Stop
    device: str | None
    truths: dict[str, Truth] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clocked(self, what: str) -> Iterator[None]:
        """Adds the seconds of the block to those of a kind of work."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.clock[what] = self.clock.get(what, 0.0) + time.monotonic() - started

    def check(self) -> None:
        """A safe point. Raises Interrupted when a signal has asked for an end."""
        if self.stop():
            raise Interrupted("interrupted; the same command continues")

    @property
    def kept(self) -> Kept:
        return Kept(self.store.parent)

    @property
    def device_type(self) -> str:
        return join(self.device).device.type

    def truth(self, assembled: Assembled) -> Truth:
        """The real clips of the protocol, drawn once for all runs on the same data."""
        data = assembled.dataset.fingerprint()
        if data not in self.truths:
            self.truths[data] = Truth.of(assembled.dataset, self.study.protocol)
        return self.truths[data]

    def sample(self, name: str, model: Model | Cascade, truth: Truth) -> Tensor:
        """Samples with a bar and a safe point after every batch."""
        self.progress.begin(f"{name}: sampling", self.study.protocol.clips)

        def told(done: int) -> None:
            self.progress.advance(done)
            self.check()

        with self.clocked("sampling"):
            video = sample(model, truth.real, self.study.protocol, told)
        self.progress.end()
        return video


def run_name(arm: str, seed: int) -> str:
    """The folder name of an arm at a seed."""
    return f"{UNSAFE.sub('-', arm).strip('-.')}-{seed}"


def run_path(arm: Arm, seed: int, folder: Path) -> str:
    """Where an arm's run is, relative to the study's folder."""
    if arm.videos:
        return os.path.relpath(arm.videos, folder.resolve())
    if arm.finished:
        return os.path.relpath(arm.finished[seed].resolve(), folder.resolve())
    return f"runs/{run_name(arm.name, seed)}"


def do_run(work: Work, arm: Arm, seed: int) -> dict[str, Any]:
    """Trains and scores one arm at one seed; what goes wrong is the arm's result. Raises Interrupted and RunInUse."""
    told: dict[str, Any] = {
        "arm": arm.name, "seed": seed, "run": run_path(arm, seed, work.folder), "status": "failed"
    }  # fmt: skip
    recipe, place, name = work.study.recipe(arm, seed), work.folder / told["run"], run_name(arm.name, seed)
    error_file = work.folder / "scores" / f"{name}.error.json"
    started, work = time.monotonic(), replace(work, clock={})
    try:
        if arm.videos:
            scored = scored_videos(work, arm, name)
            told |= {"status": "done", "spent": {}, **scored}
        else:
            if arm.finished:
                assembled, spent = loaded(work, place)
            else:
                reset_peak_memory(work.device)
                with work.clocked("training"):
                    _, assembled, position = train_recipe(
                        recipe, work.study.catalog, place, work.device, work.progress, work.store
                    )
                spent = position.spent
            told |= {"status": "done", "spent": spent, **scored_run(work, assembled, name)}
            if work.study.protocol.shares and not arm.finished:
                told["on the way"] = scored_on_the_way(work, assembled, place, name)
        error_file.unlink(missing_ok=True)
    except (Interrupted, RunInUse):
        raise
    except Exception as error:
        # One arm's fault, a plugin's for instance, is that arm's result; the others still have theirs.
        expected = isinstance(error, MutoscopeError)
        said = " ".join(str(error).split()) or "no message"
        told["error"] = said if expected else f"{type(error).__name__}: {said}"
        write_json(error_file, {"error": told["error"]})
        work.progress.end()
        work.progress.note(f"{arm.name}, seed {seed}: failed: {told['error']}")
    told["clock"] = {**work.clock, "run": time.monotonic() - started}
    return told


def loaded(work: Work, run: Path) -> tuple[Assembled, dict[str, Any]]:
    """A finished run, and what it spent."""
    opened = load(run, work.device, catalog=work.study.catalog)
    found = newest(run / "checkpoints")
    assert found is not None
    return with_addresses(opened.assembled, work.study.catalog, work.device_type), read_json(found / STATE)["spent"]


# Scores


@dataclass
class Source:
    """Some video that is scored: its address, and how it is had once a score is missing."""

    address: str
    look: Callable[[], Looked]
    rebuild: Callable[[], Tensor] | None = None
    rebuilt: str = ""

    def of(self, metric: Metric) -> str | None:
        """The address of what a metric looks at; None where there is nothing for it."""
        return self.rebuilt or None if metric.wants == "reconstruction" else self.address


def scores_of(
    work: Work, metrics: Sequence[Metric], source: Source, truth: Callable[[], Truth], assembled: Assembled
) -> list[dict[str, Any]]:
    """Every metric's scores, those that are kept taken from there; metrics that ask a model without one left out."""
    data, protocol, told = assembled.dataset.fingerprint(), work.study.protocol, []
    looked: Looked | None = None
    for metric in metrics:
        seen = source.of(metric)
        if seen is None:
            continue
        address = score_address(seen, metric, protocol, data)
        found = work.kept.scored(address)
        if found is None:
            work.check()
            looked = looked or source.look()  # samples, where none are kept
            rebuilt = source.rebuild() if metric.wants == "reconstruction" and source.rebuild else None
            real = truth()
            with work.clocked("scoring"):
                fresh = score([metric], looked, real, protocol, assembled.dataset, rebuilt, work.device_type)
            found = work.kept.keep_scored(address, fresh)
        told += found
    return told


def scored_run(
    work: Work, assembled: Assembled, name: str, step: int | None = None, model: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Samples and scores a trained model, what is not kept of it, and writes `scores/NAME.json`.

    step: of the last phase, where the model is meant as it was there; model: how it is had then.
    """
    protocol = work.study.protocol
    address = samples_address(assembled, protocol, work.device_type, step)
    had: dict[str, Any] = {}

    def trained() -> Model | Cascade:
        if "model" not in had:
            had["model"] = model() if model is not None else assembled.model
        return had["model"]

    def samples() -> tuple[Tensor, dict[str, Any]]:
        if "samples" not in had:
            had["samples"] = work.kept.video(address) or _sampled(work, assembled, trained(), name, address)
        return had["samples"]

    def truth() -> Truth:
        return work.truth(assembled)

    autoencoders = [phase.address for phase in assembled.plan.phases if phase.learn == "autoencoder"]
    said = assembled.recipe.data
    source = Source(
        address,
        lambda: Looked(samples()[0], model=trained(), seed=protocol.seed),
        lambda: reconstruct(trained(), _video(truth())),
        digest(["round trip", autoencoders or address, said.get("autoencoder"), said.get("stages"), work.device_type]),
    )
    scored = scores_of(work, assembled.metrics, source, truth, assembled)
    content = _content(address, scored)
    kept = work.folder / "scores" / f"{name}.json"
    before = read_json(kept) if kept.is_file() else {}
    show = work.study.show if step is None else 0
    if before.get("address") == address and len(before.get("videos", ())) >= show:
        content |= {"sampling": before["sampling"], "videos": before["videos"]}
    else:
        content["sampling"] = samples()[1] if step is None else {}
        content["videos"] = save_videos(work.folder, name, samples()[0][:show], _fps(assembled)) if show else []
    if content != before:
        write_json(kept, content)
    return content


def _sampled(
    work: Work, assembled: Assembled, model: Model | Cascade, name: str, address: str
) -> tuple[Tensor, dict[str, Any]]:
    """A fresh sample set, kept, with what it took."""
    truth, started = work.truth(assembled), time.monotonic()
    video = work.sample(name, model, truth)
    seconds, calls = time.monotonic() - started, sampling_calls(model)
    state = {"seconds": seconds, "clips": work.study.protocol.clips, "calls": calls}
    work.kept.keep_video(address, video, state)
    return video, state


def scored_on_the_way(work: Work, assembled: Assembled, run: Path, name: str) -> list[dict[str, Any]]:
    """Scores at shares of the budget, kept ones or from the checkpoints that were kept there; a share is left out where
    there is neither, as in a run whose last phase was taken from a study that did not look there."""
    steps = assembled.plan.phases[-1].descent.steps or 0
    before = sum(phase.descent.steps or 0 for phase in assembled.plan.phases[:-1])
    told = []
    for step in marks(steps, work.study.protocol.shares):

        def model(step: int = step) -> Model | Cascade:
            return load(run, work.device, catalog=work.study.catalog, step=before + step).model

        try:
            content = scored_run(work, assembled, f"{name}@{step}", step, model)
        except InputError:
            work.progress.note(f"{name}: no checkpoint of step {step}, so that its curve lacks that point")
            continue
        told.append({"step": step, "share": step / steps, "rows": content["rows"], "clips": content["clips"]})
    return told


def scored_videos(work: Work, arm: Arm, name: str) -> dict[str, Any]:
    """Scores a folder of another generator's videos."""
    assert arm.videos is not None
    assembled = assemble(arm.recipe, work.study.catalog, device=str(join(work.device).device))
    truth, clips = work.truth(assembled), work.study.protocol.clips
    address = digest(["videos", outside.address(arm.videos, clips)])
    looked = outside.read_videos(arm.videos, truth.real)
    scored = scores_of(work, assembled.metrics, Source(address, lambda: looked), lambda: truth, assembled)
    content = _content(address, scored)
    content["sampling"] = {"seconds": None, "clips": clips, "calls": None}
    content["videos"] = save_videos(work.folder, name, looked.video[: work.study.show], _fps(assembled))
    write_json(work.folder / "scores" / f"{name}.json", content)
    return content


def _content(address: str, scored: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `scores/NAME.json` has of some scores."""
    clips = {one["row"]["metric"]: one["clips"] for one in scored if one["clips"] is not None}
    return {
        "address": address,
        "rows": [one["row"] for one in scored],
        "clips": clips,
        "better": {one["row"]["metric"]: one["better"] for one in scored},
        "right": _right(clips),
    }


def _right(clips: dict[str, list[float]], group: str = "caption") -> list[dict[str, bool]]:
    """For each clip, which of a group's attributes are right: `{"colour": True, ...}`; empty without the group."""
    marked = {name.partition(".")[2]: values for name, values in clips.items() if name.startswith(f"{group}.")}
    for together in TOGETHER:
        marked.pop(together, None)
    length = min((len(values) for values in marked.values()), default=0)
    return [{name: values[i] > 0.5 for name, values in marked.items()} for i in range(length)]


def _video(truth: Truth) -> Tensor:
    assert isinstance(truth.real.video, Tensor)
    return truth.real.video


def _fps(assembled: Assembled) -> float:
    return float(getattr(assembled.dataset, "fps", 8))


def sampling_calls(model: Model | Cascade) -> int:
    """Network calls per clip, over all stages."""
    calls = 0
    for _, stage in stages_of(model):
        grid = stage.patchifier.token_grid(stage.autoencoder.latent_grid(stage.clip.frames, stage.clip.size))
        calls += stage.sampler.calls(stage.patchifier.canvas([grid], stage.device))
    return calls


def save_videos(folder: Path, name: str, video: Tensor, fps: float) -> list[str]:
    """Writes clips as WebM under `videos/`; their paths relative to the folder."""
    paths = []
    for i, clip in enumerate(as_bytes(video).permute(0, 2, 3, 4, 1).cpu().numpy()):
        path = Path("videos") / f"{name}-{i:02d}.webm"
        write_bytes(folder / path, encode_webm(np.ascontiguousarray(clip), fps=fps))
        paths.append(str(path))
    return paths
