"""What studies take from one another, curves, other generators' videos, and budgets of seconds."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mutoscope.benchmarks.comparison import compare
from mutoscope.benchmarks.evaluation import Protocol, Truth
from mutoscope.benchmarks.kept import Kept
from mutoscope.benchmarks.outside import files, read_videos
from mutoscope.benchmarks.reporting.page import render
from mutoscope.benchmarks.study import Study, choose_study
from mutoscope.benchmarks.tabulate import _fit
from mutoscope.benchmarks.video_files import as_bytes, encode
from mutoscope.core.errors import DataError, InputError
from mutoscope.core.training.progress import Silence
from mutoscope.registry.runs import load, read_json

OTHER = """
recipe: nano.yaml
arms:
  shallow:
  deep: {denoiser.depth: 3}
  deeper: {denoiser.depth: 4}
seeds: [0]
baselines: [shallow]
hypotheses:
  - {metric: caption.all, better: deeper, than: shallow}
  - {metric: caption.colour, better: each, than: mean video}
evaluate: {clips: 8, reference: 16}
show: 2
untrained: each
"""


class Noted(Silence):
    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, name: str, total: int, done: int = 0) -> None:
        self.begun.append(name)


@pytest.fixture(scope="module")
def other(desk: Path, finished: Path) -> tuple[Path, Noted, dict]:
    """A second study that shares two arms with the first, in a folder beside it."""
    (desk / "other.yaml").write_text(OTHER)
    study, watch = choose_study([str(desk / "other.yaml")], [], [], [], None, None, None), Noted()
    told = compare(study, desk / "runs" / "other", watch, "cpu", "mutoscope compare other.yaml")
    return desk / "runs" / "other", watch, told


def test_another_study_does_only_what_is_new(finished: Path, other: tuple[Path, Noted, dict]):
    _folder, watch, told = other
    assert watch.begun == ["1-denoiser", "deeper-0: sampling", "untrained: sampling", "untrained: sampling"]
    before = {
        (r["arm"], r["metric"]): r["value"] for r in read_json(finished / "results.json")["rows"] if r["seed"] == 0
    }
    now = {(r["arm"], r["metric"]): r["value"] for r in told["rows"]}
    assert all(now[key] == value for key, value in before.items())
    assert len(told["shared"][0]["runs"]) == 3


def test_baselines_and_hypotheses_say_what_is_compared(other: tuple[Path, Noted, dict]):
    _, _, told = other
    assert {(d["a"], d["b"]) for d in told["differences"]} == {("shallow", "deep"), ("shallow", "deeper")}
    assert [(h["better"], h["than"]) for h in told["hypotheses"]] == [
        ("deeper", "shallow"), ("shallow", "mean video"), ("deep", "mean video"), ("deeper", "mean video")
    ]  # fmt: skip
    assert told["hypotheses"][0]["verdict"] == "no verdict: one seed is a demonstration"
    known = {"supported", "contradicted", "not distinguishable at this budget"}
    assert {h["verdict"] for h in told["hypotheses"][1:]} <= known
    untrained = {r["arm"] for r in told["references"] if r["name"] == "untrained"}
    assert untrained == {"shallow", "deep", "deeper"}


def test_another_metric_is_scored_from_the_kept_samples(desk: Path, other: tuple[Path, Noted, dict]):
    _folder, _, before = other
    (desk / "metric.yaml").write_text(OTHER.replace("seeds:", "metrics: [caption, validity]\nseeds:"))
    study, watch = choose_study([str(desk / "metric.yaml")], [], [], [], None, None, None), Noted()
    told = compare(study, desk / "runs" / "metric", watch, "cpu")
    assert watch.begun == []
    kept = [r for r in told["rows"] if r["metric"].startswith("caption")]
    assert kept == before["rows"]
    assert {r["metric"] for r in told["rows"]} - {r["metric"] for r in before["rows"]} == {"validity"}


def test_kept_samples_are_what_was_scored_and_damage_is_not_used(desk: Path, finished: Path, tmp_path: Path):
    address = read_json(finished / "scores" / "deep-0.json")["address"]
    kept = Kept(desk / "runs")
    found = kept.video(address)
    assert found is not None
    video, state = found
    assert (tuple(video.shape), state["clips"]) == ((8, 3, 5, 8, 8), 8)
    assert torch.equal(((video + 1) * 127.5).round(), (video + 1) * 127.5)
    copy = Kept(tmp_path)
    copy.keep_video(address, video, state)
    file = next((copy.samples / address).rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert copy.video(address) is None


def test_curves_are_scored_on_the_way_once(desk: Path, finished: Path, tmp_path: Path):
    told = {}
    for run in ("first", "second"):
        words = ["evaluate.shares=[0.5]", "seeds=[0]"]
        study = choose_study([str(desk / "study.yaml")], [], words, [], None, None, None)
        watch = Noted()
        told[run] = compare(study, tmp_path / run, watch, "cpu")
        if run == "second":
            assert watch.begun == []
    points = told["first"]["on the way"]
    assert {(p["arm"], p["share"]) for p in points} == {(a, s) for a in ("shallow", "deep") for s in (0.5, 1.0)}
    assert told["second"]["on the way"] == points
    assert {s["share"] for s in told["first"]["stability"]} == {0.5, 1.0}
    assert [s["tau"] for s in told["first"]["stability"] if s["share"] == 1.0 and s["tau"] is not None] == [1.0] * len(
        [s for s in told["first"]["stability"] if s["share"] == 1.0 and s["tau"] is not None]
    )
    assert [row["key"] for row in told["first"]["settings"]] == ["denoiser.depth", "training.phases.1.steps"]
    # The score at half way is that of the averaged weights in the checkpoint there.
    half = next(p for p in points if (p["arm"], p["share"], p["metric"]) == ("shallow", 0.5, "caption.colour"))
    place = tmp_path / "first" / "runs" / "shallow-0"
    assert load(place, "cpu", step=4 + half["step"]).step == 4 + half["step"]
    with pytest.raises(InputError, match="no checkpoint of step 5"):
        load(place, "cpu", step=5)
    page = render(told["first"], tmp_path / "first")
    assert "Scores on the way" in page


def video_folder(finished: Path, folder: Path, format: str, name: str = "deep-0") -> Path:
    """A run's clips as files of another generator, out of order, with an index that says which is which."""
    folder.mkdir()
    address = read_json(finished / "scores" / f"{name}.json")["address"]
    found = Kept(finished.parent).video(address)
    assert found is not None
    asked = [json.loads(line) for line in (finished / "asked.jsonl").read_text().splitlines()]
    lines = []
    for i, clip in enumerate(as_bytes(found[0])):
        file = f"{(i * 3) % 8}-{i}.{format}"
        (folder / file).write_bytes(encode(clip, 8, format))
        lines.append(json.dumps({"file_name": file, "caption": asked[i]["caption"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_videos_of_another_generator_are_measured_alike(verb, finished: Path, tmp_path: Path):
    """Lossless files of a run's own clips have its scores, to the last digit."""
    folder = video_folder(finished, tmp_path / "sora", "png")
    code, out, err = verb("compare", finished / "runs" / "deep-0", folder, "--clips", 8, "--out", tmp_path / "out",
                          "--device", "cpu", "--json")  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    rows = {(r["arm"], r["metric"]): (r["value"], r["fingerprint"]) for r in told["rows"]}
    metrics = {m for _, m in rows}
    assert all(rows["sora", m] == rows["deep-0", m] for m in metrics)
    sora = next(arm for arm in told["arms"] if arm["name"] == "sora")
    assert (sora["parameters"], sora["training_flops"]) == (None, None)
    assert "sora" in (tmp_path / "out" / "report.html").read_text()


def test_what_was_compressed_does_not_share_a_table_unless_told_to(verb, finished: Path, tmp_path: Path):
    folder = video_folder(finished, tmp_path / "sora", "mp4")
    words = [
        "compare",
        finished / "runs" / "deep-0",
        folder,
        "--clips",
        8,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    code, _, err = verb(*words)
    assert code == 2
    err = err.splitlines()[-1]
    assert "two fingerprints do not share a table unless told to with --mix" in err
    assert "sora" in err
    code, out, err = verb(*words, "--mix", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert "caption.all" in told["mixed"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<strong>Mixed:</strong>" in page
    assert "--mix" in page


def test_videos_that_do_not_fit_are_named(finished: Path, tmp_path: Path):
    folder = video_folder(finished, tmp_path / "sora", "png")
    real = Truth.of(load(finished / "runs" / "deep-0", "cpu").assembled.dataset, Protocol(clips=8, reference=8)).real
    assert read_videos(folder, real).codec == "uint8"
    large = video_folder(finished, tmp_path / "large", "webm")
    assert read_videos(large, real).resize == "mean of 16 x 16 pixels"
    index = folder / "metadata.jsonl"
    index.write_text(index.read_text().replace(real.prompt[0], "a grey cloud"))  # type: ignore[index]
    with pytest.raises(DataError, match="no clip is left for the caption"):
        read_videos(folder, real)
    index.unlink()
    assert [f.name[0] for f in files(folder)] == sorted(f.name[0] for f in files(folder))
    files(folder)[2].write_bytes(b"not a video")
    with pytest.raises(DataError, match="cannot be read"):
        read_videos(folder, real)
    short = replace(real, video=real.video[:, :, :3])  # type: ignore[index]
    with pytest.raises(DataError, match=r"has 5 frames; .* have 3"):
        read_videos(large, short)


def test_a_budget_of_seconds_is_timed_once(desk: Path, finished: Path, tmp_path: Path):
    study = choose_study(
        [str(desk / "study.yaml")], [], ["budget={seconds: 0.4}", "seeds=[0]", "show=0"], [], None, None, None
    )
    assert study.match == "seconds"
    told = compare(study, tmp_path / "study", Silence(), "cpu")
    paces = read_json(tmp_path / "study" / "timing.json")
    assert set(paces) == {"shallow", "deep"}
    steps = {b["arm"]: b["steps"] for b in told["budget"]}
    assert steps == {arm: max(1, int(0.4 / pace)) for arm, pace in paces.items()}
    assert all(b["kind"] == "seconds" and b["share"] > 0 for b in told["budget"])
    watch = Noted()
    again = compare(study, tmp_path / "study", watch, "cpu")
    assert watch.begun == []
    assert again["rows"] == told["rows"]


def test_the_scheduler_costs_little(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Processor time of all that is neither training, sampling nor scoring. Some tenths of a second a run; the limit is
    wide, as a busy machine doubles it, and finds what grows with the study."""
    from mutoscope.benchmarks import work
    from mutoscope.registry import runs

    spent = {"busy": 0.0}

    def timed(module: object, name: str) -> None:
        inner = getattr(module, name)

        def run(*given, **named):
            began = time.process_time()
            try:
                return inner(*given, **named)
            finally:
                spent["busy"] += time.process_time() - began

        monkeypatch.setattr(module, name, run)

    for module, name in ((runs, "train"), (work, "sample"), (work, "score"), (work, "save_videos")):
        timed(module, name)
    study = choose_study([str(desk / "study.yaml")], [], ["seeds=[0, 1, 2]", "show=0"], [], None, None, None)
    began = time.process_time()
    compare(study, tmp_path / "study", Silence(), "cpu")
    rest = time.process_time() - began - spent["busy"]
    assert rest / 6 < 5, (rest, spent)


def test_a_scaling_study_has_its_law(study: Study):
    rows = [
        {"arm": arm.name, "seed": s, "metric": "caption.all", "value": 0.5 - 0.01 * s}
        for arm in study.arms
        for s in range(3)
    ]
    told = _fit(replace(study, fit="caption.all"), rows, {"caption.all": "higher"})
    assert told is not None
    assert [p["error"] for p in told["points"]][:2] == [0.5, pytest.approx(0.51)]
    assert told["points"][0]["compute"] == study.arms[0].phase["flops"]
