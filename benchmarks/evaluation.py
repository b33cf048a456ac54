"""Scoring: a model's samples, or any other video, by the metrics of a recipe, each score with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mutoscope.benchmarks.statistics import clip_interval
from mutoscope.core.dataset import Dataset
from mutoscope.core.errors import DataError, InputError, WorkError
from mutoscope.core.generation import Request, generate
from mutoscope.core.metric import Material, Metric, Score
from mutoscope.core.model import Cascade, Model, stages_of
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Precision
from mutoscope.core.training.provenance import environment
from mutoscope.core.values import Batch
from mutoscope.registry.addresses import digest

TOGETHER = ("all", "appearance")
"""Scores that say of several attributes whether all are right; beside the attributes they say nothing new."""


@dataclass(frozen=True)
class Protocol:
    """How samples are scored.

    clips: how many are generated, one for each of the first clips of the split, with its caption, labels and actions.
    reference: real clips for distances between sets. seed: of the samples' noise. precision: of the sampling. shares:
    of the budget, at which runs are scored on their way.
    """

    split: str = "test"
    clips: int = 256
    reference: int = 1024
    seed: int = 0
    precision: Precision = "float32"
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Looked:
    """What metrics look at, and how it came here: part of every score's fingerprint.

    video: B C T H W. codec: `uint8` for what was only rounded to bytes, else what it had been compressed by. resize: how
    it came to the data's size, empty where it has it. model: what made it, where it is a model of ours.
    """

    video: Tensor
    codec: str = "uint8"
    resize: str = ""
    model: Model | Cascade | None = None
    seed: int = 0


def quantised(video: Tensor) -> Tensor:
    """The video in whole bytes, as real clips are, and as it would be stored: what is scored is what is kept."""
    return as_bytes(video).float().div_(127.5).sub_(1.0)


def as_bytes(video: Tensor) -> Tensor:
    """[-1, 1] to 0 .. 255, uint8."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@dataclass(frozen=True)
class Scored:
    """One score with its interval. clips: per clip, where the score is a mean over clips; better: which way is good."""

    metric: str
    split: str
    value: float
    low: float
    high: float
    n: int
    fingerprint: str
    clips: np.ndarray | None
    better: str
    reliable: bool


@dataclass(frozen=True)
class Truth:
    """The real clips of a protocol: those whose captions are asked for, and the reference set; of one size.

    places: which of the protocol's clips they are, which name their noise.
    """

    real: Batch
    reference: Tensor
    places: tuple[int, ...] = ()

    @staticmethod
    def of(dataset: Dataset, protocol: Protocol) -> Truth:
        """Raises InputError on clips of several sizes, and as `by_size`."""
        truth, *more = Truth.by_size(dataset, protocol)
        if more:
            raise InputError("scoring needs clips of one size; choose a view with `frames` and `size`")
        return truth

    @staticmethod
    def by_size(dataset: Dataset, protocol: Protocol) -> list[Truth]:
        """The same for each size that the clips have, in the order of the sizes' first clips.

        Raises InputError on a split the data does not have, DataError on too few clips.
        """
        if protocol.split not in dataset.splits():
            raise InputError(
                field="split", problem="the data has no such split", got=protocol.split, allowed=list(dataset.splits())
            )
        n = dataset.length(protocol.split)
        if n < protocol.clips:
            raise DataError(f"the {protocol.split} split has {n} clips, fewer than the {protocol.clips} to score")
        looked_at = range(min(n, max(protocol.clips, protocol.reference)))
        groups: dict[object, list[int]] = {}
        for i, size in zip(looked_at, dataset.sizes(protocol.split, looked_at) or [None] * n, strict=False):
            groups.setdefault(size, []).append(i)
        truths = []
        for members in groups.values():
            real = [i for i in members if i < protocol.clips]
            reference = [i for i in members if i < protocol.reference]
            if real:
                batch, more = (_of_one_size(dataset.batch(protocol.split, clips)) for clips in (real, reference))
                assert isinstance(more.video, Tensor)
                truths.append(Truth(batch, more.video, tuple(real)))
        return truths


def _of_one_size(batch: Batch) -> Batch:
    """Clips of one size as one tensor, though others of their data are of other sizes."""
    return replace(batch, video=torch.stack(batch.video)) if isinstance(batch.video, tuple) else batch


def sample(
    model: Model | Cascade,
    real: Batch,
    protocol: Protocol,
    told: Callable[[int], None] = lambda done: None,
    at_once: int = 64,
    places: Sequence[int] | None = None,
) -> Tensor:
    """One clip for each real one, by its caption, label and actions, of its frames and size: B C T H W, in whole bytes.

    places: what names the noise of each; by default 0, 1, ... told: called after every batch with how many clips are made; what it raises ends the sampling.
    """
    assert isinstance(real.video, Tensor)
    frames, rows, columns = real.video.shape[-3:]
    videos = []
    for start in range(0, len(real), at_once):
        cut = slice(start, min(start + at_once, len(real)))
        request = Request(
            prompts=None if real.prompt is None else real.prompt[cut],
            labels=None if real.label is None else tuple(real.label[cut].tolist()),
            actions=None if real.actions is None else tuple(map(tuple, real.actions[cut].tolist())),
            count=cut.stop - cut.start,
            frames=frames,
            size=(rows, columns),
            seed=protocol.seed,
            clips=tuple((places or range(len(real)))[cut]),
            at_once=at_once,
            precision=protocol.precision,
        )
        videos.append(quantised(generate(model, request).video))
        told(cut.stop)
    return torch.cat(videos)


def reconstruct(model: Model | Cascade, video: Tensor, at_once: int = 64) -> Tensor:
    """The autoencoder's round trip of real video, B C T H W; of a cascade, the last stage's."""
    stage = stages_of(model)[-1][1]
    with torch.no_grad():
        made = [
            stage.autoencoder.decode(stage.autoencoder.encode(part.to(stage.device))).float().clamp(-1, 1).cpu()
            for part in video.split(at_once)
        ]
    return torch.cat(made)


def score(
    metrics: Iterable[Metric],
    looked: Looked,
    truth: Truth,
    protocol: Protocol,
    dataset: Dataset,
    reconstruction: Tensor | None = None,
    device: str = "cpu",
) -> list[Scored]:
    """Every metric's scores of some video. reconstruction: for the metrics that score the round trip; without it they
    are left out, as those that ask a model are without one."""
    scored = []
    for metric in metrics:
        if metric.wants == "model" and looked.model is None:
            continue
        video, codec = (reconstruction, "none") if metric.wants == "reconstruction" else (looked.video, looked.codec)
        if video is None:
            continue
        fingerprint = _fingerprint(metric, video, (codec, looked.resize), truth, protocol, dataset, device)
        material = Material(
            video, truth.real, truth.reference, protocol.split, looked.model, dataset, looked.seed
        )  # fmt: skip
        scored += [_scored(metric, said, protocol, fingerprint) for said in metric.score(material)]
    return scored


def merged(groups: Sequence[tuple[Truth, Sequence[Scored]]]) -> list[Scored]:
    """The scores of clips of several sizes as one list: means over all clips; distances between sets for each size, the
    size in their name."""
    if len(groups) == 1:
        return list(groups[0][1])
    whole: dict[str, list[tuple[Truth, Scored]]] = {}
    for truth, scored in groups:
        for said in scored:
            whole.setdefault(said.metric, []).append((truth, said))
    found = []
    for name, parts in whole.items():
        clips = [said.clips for _, said in parts if said.clips is not None]
        if len(clips) < len(parts):
            sizes = ["x".join(map(str, truth.reference.shape[2:])) for truth, _ in parts]
            found += [replace(said, metric=f"{name}.{size}") for size, (_, said) in zip(sizes, parts, strict=True)]
            continue
        values = np.concatenate(clips).astype(np.float64)
        cell, first = clip_interval(values), parts[0][1]
        fingerprint = digest([said.fingerprint for _, said in parts])[:12]
        reliable = all(said.reliable for _, said in parts)
        found.append(
            Scored(
                name,
                first.split,
                cell.value,
                cell.low,
                cell.high,
                len(values),
                fingerprint,
                values,
                first.better,
                reliable,
            )
        )
    return found


def references(truth: Truth) -> dict[str, tuple[str, Tensor]]:
    """Videos that frame every number, by name, with their kind: what real clips score, and what mindless ones do."""
    video = truth.real.video
    assert isinstance(video, Tensor)
    frames = video.shape[2]
    shuffle = Draw(0, "references", 0, truth.real.clips).uniform("frames", frames).argsort(dim=1)
    shuffled = video.gather(2, shuffle[:, None, :, None, None].expand_as(video))
    return {
        "ground truth": ("ceiling", video),
        "copied first frame": ("floor", video[:, :, :1].expand_as(video)),
        "frames shuffled": ("floor", shuffled),
        "captions shuffled": ("floor", video.roll(1, dims=0)),
        "mean video": ("floor", quantised(truth.reference.mean(0, keepdim=True)).expand_as(video)),
    }


def as_row(scored: Scored) -> dict[str, object]:
    """JSON-able, without the clips: the entry that `results.json` has for it."""
    return {
        "metric": scored.metric,
        "split": scored.split,
        "value": scored.value,
        "low": scored.low,
        "high": scored.high,
        "n": scored.n,
        "reliable": scored.reliable,
        "fingerprint": scored.fingerprint,
    }


def _scored(metric: Metric, said: Score, protocol: Protocol, fingerprint: str) -> Scored:
    if said.clips is not None:
        values = np.asarray(said.clips, dtype=np.float64)
        cell = clip_interval(values)
        value, low, high, n = cell.value, cell.low, cell.high, len(values)
    else:
        value, low, high, n = said.value, said.low, said.high, said.n
    if value is None or low is None or high is None or n is None:
        raise WorkError(f"metric {metric.name}: gave {said.name} without clips and without a value, interval and n")
    if not np.isfinite([value, low, high]).all():
        raise WorkError(f"metric {metric.name}: {said.name} is {value} [{low}, {high}], which is no score")
    better = metric.better_of(said.name)
    return Scored(said.name, protocol.split, value, low, high, n, fingerprint, said.clips, better, said.reliable)


def _fingerprint(
    metric: Metric,
    video: Tensor,
    came: tuple[str, str],
    truth: Truth,
    protocol: Protocol,
    dataset: Dataset,
    device: str,
) -> str:
    """Hash of what makes a score comparable; two fingerprints do not share a table."""
    made = environment(device)
    return digest(
        {
            "metric": metric.protocol(),
            "clips": len(video),
            "shape": list(video.shape[1:]),
            "codec": came[0],
            "resize": came[1],
            "reference": len(truth.reference),
            "split": protocol.split,
            "precision": protocol.precision,
            "data": dataset.fingerprint(),
            "device": made["device"],
        }
    )[:12]


def right_by_clip(scored: Sequence[Scored], group: str = "caption") -> list[dict[str, bool]]:
    """For each clip, which of a group's attributes are right: `{"colour": True, ...}`; empty without the group."""
    marks = {
        s.metric.partition(".")[2]: s.clips for s in scored if s.metric.startswith(f"{group}.") and s.clips is not None
    }
    for together in TOGETHER:
        marks.pop(together, None)
    length = min((len(m) for m in marks.values()), default=0)
    return [{name: bool(values[i] > 0.5) for name, values in marks.items()} for i in range(length)]
