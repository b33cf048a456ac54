"""The report: what is on the page, that it stands alone, and that a browser shows it."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from mutoscope.benchmarks.reporting import figures, page, words
from mutoscope.benchmarks.reporting.page import render, write_report
from mutoscope.benchmarks.reporting.video import encode_webm, enlargement

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Tags with their attributes, and an error where one closes that did not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()


@pytest.fixture(scope="module")
def results(finished: Path) -> dict:
    return json.loads((finished / "results.json").read_text())


@pytest.fixture(scope="module")
def html(results: dict, finished: Path) -> str:
    return render(results, finished)


def text_of(html: str) -> str:
    return re.sub(
        r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script|svg).*?</\1>", "", html, flags=re.DOTALL))
    )


# Videos


def decoded(data: bytes) -> tuple[np.ndarray, av.VideoStream]:
    with av.open(io.BytesIO(data)) as file:
        assert file.format.name == "matroska,webm"
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)]), file.streams.video[0]


def test_a_small_clip_comes_back_pixel_by_pixel():
    """Blocks of one colour, so that what was drawn can be read back from what is shown."""
    clip = np.random.Generator(np.random.Philox(key=1)).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    frames, stream = decoded(encode_webm(clip, fps=8))
    assert frames.shape == (5, 128, 128, 3)
    assert stream.codec_context.name in ("vp9", "vp8")
    shown = frames.reshape(5, 16, 8, 16, 8, 3)[:, :, 2:6, :, 2:6].mean((2, 4))
    assert np.abs(shown - clip).mean() < 8
    one = clip.copy()
    one[:] = (200, 40, 60)
    assert np.abs(decoded(encode_webm(one, fps=8))[0].astype(int) - (200, 40, 60)).max() <= 4


def test_frames_and_rate_are_kept():
    for frames, fps in ((1, 8), (9, 7.5), (3, 24)):
        shown, stream = decoded(encode_webm(np.zeros((frames, 8, 12, 3), np.uint8), fps))
        assert len(shown) == frames
        if frames > 1:
            assert float(stream.average_rate) == pytest.approx(fps, rel=0.05)


def test_enlargement_is_whole_and_even():
    assert [enlargement(n, n) for n in (8, 16, 32, 48, 64, 100, 128, 256)] == [16, 8, 4, 4, 2, 2, 1, 1]
    assert decoded(encode_webm(np.zeros((2, 17, 23, 3), np.uint8), 8))[0].shape[1:3] == (136, 184)


def test_what_is_no_clip_is_refused():
    for clip in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="clip: is T H W 3 uint8"):
            encode_webm(clip, 8)


# The page


def test_the_page_is_well_formed_and_loads_nothing(html: str):
    outline = Outline(html)
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in outline.found:
        assert tag not in ("link", "iframe", "object", "embed"), tag
        for name in ("src", "href", "poster", "xlink:href", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(
                ("data:video/webm;base64,", "data:text/", "data:application/x-tex", "#")
            )
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_every_number_of_the_table_is_on_the_page(html: str, results: dict):
    said = text_of(html)
    for cell in results["cells"]:
        interval = f"{words.short(cell['value'])} {words.short(cell['low'])} to {words.short(cell['high'])}"
        assert interval in said, cell
    for arm in results["arms"]:
        assert f"{arm['parameters']:,}" in said
        assert words.quantity(arm["training_flops"]) in html
    for spent in results["budget"]:
        assert f"{100 * spent['share']:.2f}%" in said
    for print in results["fingerprints"].values():
        assert print in said
    assert results["sentence"].replace("<", "&lt;").replace(">", "&gt;") in html
    assert "mutoscope compare study.yaml" in said


def test_a_demonstration_says_so_and_names_no_winner(html: str):
    said = text_of(html)
    assert "Demonstration" in said
    assert "is better" not in said
    assert "they do not tell how another seed would turn out" in said


def test_what_a_study_says_of_itself_is_escaped(html: str):
    assert "<h1>Shallow against &lt;deep&gt;</h1>" in html


def test_clips_stand_side_by_side(html: str, results: dict):
    videos = [attributes for tag, attributes in Outline(html).found if tag == "video"]
    assert len(videos) == 2 * 3
    for attributes in videos:
        assert {"autoplay", "muted", "loop", "playsinline"} <= attributes.keys()
    prompts = list(dict.fromkeys(clip["prompt"] for clip in results["videos"]))
    assert [a["aria-label"] for a in videos] == [
        f"{arm}: {prompt}" for prompt in prompts for arm in ("ground truth", "shallow", "deep")
    ]
    marks = re.findall(r'<span class="(yes|no)">(.) (\w+)</span>', html)
    assert len(marks) == 4 * 5
    assert all((word == "yes") == (mark == "✓") for word, mark, _ in marks)


def test_only_differences_of_the_recipes_are_shown(html: str):
    section = html[html.index('<section id="recipes">') :]
    keys = re.findall(r'<th scope="row"><code>([\w.]+)</code>', section)
    assert keys == ["denoiser.depth", "training.phases.1.steps"]


def test_videos_too_large_to_carry_are_pointed_to(results: dict, finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "EMBEDDED", 10)
    sources = [a["src"] for tag, a in Outline(render(results, finished)).found if tag == "video"]
    assert all((finished / str(source)).is_file() for source in sources)
    assert len(sources) == 6


def test_a_missing_video_is_said(results: dict, tmp_path: Path):
    write_report(tmp_path / "report.html", results)
    said = (tmp_path / "report.html").read_text()
    assert "<video" not in said
    assert f"{results['videos'][0]['file']} is missing" in said


def test_other_standings(results: dict, finished: Path):
    """Unreliable scores, a verdict, an arm over its budget, failures, and nothing at all."""
    told = copy.deepcopy(results)
    told["kind"], told["sentence"] = "study", "deep is better"
    told["cells"][0]["reliable"] = False
    told["differences"][0] |= {"p": 1e-7, "verdict": "deep is better"}
    told["budget"][0] |= {"share": 1.31, "matched": False}
    told["failures"] = [{"arm": "deep", "seed": 1, "error": "deep <went> wrong"}]
    told["arms"][0] |= {"flops_per_step": None, "exact": False}
    said = render(told, finished)
    Outline(said)
    assert "†" in said
    assert "&lt; 0.0001" in said
    assert "131.00% not matched" in said
    assert "not all runs spent that budget" in said
    assert "deep &lt;went&gt; wrong" in said
    assert "not counted" in said
    empty = {"rows", "cells", "references", "differences", "budget", "shared", "settings", "curves", "videos"}
    nothing = render(told | {name: [] for name in empty} | {"fingerprints": {}, "environment": {}}, finished)
    Outline(nothing)
    assert "No scores: no run has finished" in nothing


def test_figures_take_their_colours_from_the_page(results: dict):
    for make in (figures.scores, figures.differences, figures.curves, figures.earlier_curves):
        svg = make(results)
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg)
        assert make(results) == svg
    values = figures.scores(results)
    assert {"shallow", "deep"} <= {arm["name"] for arm in results["arms"]}
    assert "var(--arm-0)" in values
    assert "var(--arm-1)" in values
    assert "caption.direction" in values


def test_numbers_in_words():
    assert [words.short(v) for v in (0.0, 0.98765, -0.5, 12345.6, 2.5e-7, None)] == [
        "0.000", "0.988", "−0.500", "1.23e+04", "2.5e−07", "–"
    ]  # fmt: skip
    assert words.quantity(1.234e13) == "12.3\u00a0T"
    assert words.quantity(None) == "not counted"
    assert [words.duration(s) for s in (0.1234, 75, 754, 8000)] == [
        "0.123\u00a0s", "75\u00a0s", "12\u00a0min 34\u00a0s", "2\u00a0h 13\u00a0min"
    ]  # fmt: skip
    assert words.setting({"a": True}.get("a")) == "true"
    rows = [{"value": 1.0}, {"value": 3.0}]
    assert words.best(rows, "lower") == words.worst(rows, "higher") == {"value": 1.0}
    assert words.best([], "lower") is None


# Verbs


def test_report_is_written_again_from_its_results(verb, finished: Path):
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    code, out, _ = verb("report", finished)
    assert (code, out.strip()) == (0, str(finished / "report.html"))
    assert (finished / "report.html").read_bytes() == before
    assert verb("report", finished / "runs")[0] == 2


def test_status_of_a_study_and_of_a_run(verb, finished: Path):
    code, out, _ = verb("status", finished, "--json")
    told = json.loads(out)
    assert (code, told["kind"], told["done"], told["in_use"]) == (0, "study", 4, None)
    assert {run["said"] for run in told["runs"]} == {"scored"}
    code, out, _ = verb("status", finished / "runs" / "deep-0", "--json")
    told = json.loads(out)
    assert (code, told["kind"], told["state"]) == (0, "run", "done")
    assert [(p["name"], p["step"] == p["steps"]) for p in told["phases"]] == [
        ("0-autoencoder", True),
        ("1-denoiser", True),
    ]
    assert told["phases"][0]["reused"]
    assert told["checkpoint"]["verified"]
    code, out, _ = verb("status", finished)
    assert (code, out.splitlines()[-1]) == (0, str(finished / "report.html"))
    assert verb("status", finished / "runs" / "deep-0")[0] == 0
    code, _, err = verb("status", finished / "videos")
    assert (code, err.count("\n")) == (2, 1)


def test_status_sees_damage(verb, finished: Path, tmp_path: Path):
    shutil.copytree(finished / "runs" / "deep-1", tmp_path / "run")
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "model.safetensors"
    last.write_bytes(last.read_bytes()[:-1] + b"\x00")
    told = json.loads(verb("status", tmp_path / "run", "--json")[1])
    assert told["state"] == "stopped"
    assert "model.safetensors" in told["checkpoint"]["problems"][0]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def shown(page: Path, script: str, profile: Path, width: int = 500, wait: int = 4000) -> tuple[Any, str]:
    """What a script gives in the page as Chromium builds it, and what the console said."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    probe = f"""<script>
        const errors = []; addEventListener("error", e => errors.push(String(e.message)));
        const said = console.error; console.error = (...a) => {{ errors.push(a.join(" ")); said(...a); }};
        addEventListener("load", () => setTimeout(async () => {{
            let told; try {{ told = await (async () => {{ {script} }})(); }} catch (e) {{ told = String(e); }}
            document.title = JSON.stringify([told, errors]);
        }}, 500));</script>"""
    text = page.read_text().replace("<style>", probe + "<style>", 1)
    probed = page.parent / f"probed-{profile.name}.html"
    probed.write_text(text)
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
         "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}", f"--window-size={width},900",
         f"--virtual-time-budget={wait}", "--dump-dom", probed.as_uri()],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-500:]
    told, errors = json.loads(unescape(title.group(1)))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return told, " ".join([*errors, *console])


@pytest.fixture
def page_file(html: str, tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text(html)
    return tmp_path / "page.html"


@pytest.mark.browser
def test_a_browser_shows_it(page_file: Path, tmp_path: Path):
    """The script has run, every clip is decoded and plays, nothing is wider than a phone, the console is silent."""
    told, console = shown(
        page_file,
        """const clips = [...document.querySelectorAll("video")];
        const played = await Promise.all(clips.map(async c => { try { await c.play(); return true; } catch { return false; } }));
        return [clips.length, clips.filter(c => c.videoWidth >= 128 && !c.error).length, played.filter(x => x).length,
            clips.every(c => c.duration > 0.3), document.documentElement.scrollWidth <= innerWidth,
            document.getElementById("play").hidden];""",
        tmp_path / "phone",
        width=500,
    )
    assert told == [6, 6, 6, True, True, False]
    assert console == ""


@pytest.mark.browser
def test_tables_sort_and_colours_turn(page_file: Path, tmp_path: Path, results: dict):
    told, console = shown(
        page_file,
        """const table = document.querySelector("#scores table.sortable");
        const heads = [...table.tHead.rows[0].cells], column = 2;
        const read = () => [...table.tBodies[0].rows].map(r => Number(r.cells[column].dataset.sort));
        heads[column].click(); const falling = read(), said = heads[column].getAttribute("aria-sort");
        heads[column].dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"})); const rising = read();
        const names = () => [...table.tBodies[0].rows].map(r => r.cells[0].textContent.trim());
        heads[0].click(); const by_name = names();
        const ground = () => getComputedStyle(document.body).backgroundColor;
        const before = ground(); document.getElementById("theme").click(); const after = ground();
        document.getElementById("theme").click();
        const links = [...document.querySelectorAll(".downloads a")];
        const csv = await (await fetch(links[0].href)).text();
        return [falling, said, rising, by_name, before, after, ground() === before, links.map(a => a.download), csv];""",
        tmp_path / "desk",
        width=1300,
    )
    falling, said, rising, by_name, before, after, back, names, csv = told
    values = [c["value"] for c in results["cells"] if c["arm"] == results["arms"][0]["name"]]
    assert falling == sorted(values, reverse=True)
    assert rising == sorted(values)
    assert said == "descending"
    assert by_name == sorted(by_name, reverse=True)
    assert before != after
    assert back
    assert names == ["study-scores.csv", "study-table.tex", "study-table.md"]
    assert len(csv.splitlines()) == 1 + len(results["rows"]) + len(results["references"])
    assert console == ""
