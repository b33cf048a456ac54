"""Parts paired with parts: what assembly refuses it refuses in words, and what it assembles trains and samples.

Every day an option of every role in some row that fits, and some rows at large; with `-m slow` every pair of options.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.generation import Request, generate
from mutoscope.core.model import Model
from mutoscope.core.showing import frames_per_token
from mutoscope.core.storage.journal import read_journal
from mutoscope.core.training.run import train
from mutoscope.registry import repairs
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog

sys.path.append(str(Path(__file__).parent))
from pairings import ROLES, VIDEO, Pairings, Row


@pytest.fixture(scope="module")
def pairings() -> Iterator[Pairings]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Pairings(Catalog.load(strict=True))
    torch.set_num_threads(threads)


def trains_and_samples(pairings: Pairings, row: Row, folder: Path) -> None:
    """One step by the verb `train`, which moves the denoiser, and one sample by the verb `generate`."""
    made = assemble(pairings.recipe(row), pairings.catalog, "cpu")
    model = made.model
    assert isinstance(model, Model)
    for i, phase in enumerate(made.plan.phases):
        before = {name: p.detach().clone() for name, p in model.denoiser.named_parameters()}
        train(model, replace(made.plan, phases=(phase,)), folder / str(i))
        record = read_journal(folder / str(i) / "metrics.jsonl")[-1]
        assert record["step"] == 1, record
        losses = [value for name, value in record.items() if name.rpartition(".")[2] == "loss"]
        assert losses, record
        assert all(isinstance(value, float) for value in losses), f"a loss is not finite: {record}"
        moved = any(not torch.equal(p, before[name]) for name, p in model.denoiser.named_parameters())
        assert moved, f"nothing was learned in phase {i + 1}"
    frames, size = model.clip.frames, model.clip.size
    video = generate(model, asked(model, made.dataset.batch("train", [0]).video)).video
    assert video.shape == (1, model.clip.channels, frames, *size)
    assert torch.isfinite(video).all()


def asked(model: Model, clip: torch.Tensor | None) -> Request:
    """A request of one video with all that it may be asked of the model: a source for one that edits, the first frames
    for one that reads some before it goes on."""
    frames = model.clip.frames
    request = Request(prompts=("a red circle moves left",), labels=(0,), actions=((0,) * frames,), seed=3)
    assert clip is not None
    if model.sampler.uses_source:
        return request.editing(clip)
    reads = getattr(model.denoiser, "reads", 0) * frames_per_token(model)
    return request.extending(clip[:, :, :reads], after=frames - reads) if reads else request


def refused_in_words(pairings: Pairings, row: Row) -> list[str]:
    """The lines of a refusal, checked; none where the row assembles."""
    try:
        assemble(pairings.recipe(row), pairings.catalog, "meta")
    except InputError as refused:
        lines = str(refused).splitlines()
        assert lines, "a refusal without a line"
        for line in lines:
            place, _, said = line.partition(": ")
            assert place.partition(".")[0] in (*ROLES, "tower", "training"), line
            assert len(said) > 10, line
        return lines
    return []


def test_an_option_of_every_role_trains_and_samples(pairings: Pairings, tmp_path: Path) -> None:
    """Each option in some row; what fits nowhere is among what is known to, so that no part quietly fits nowhere."""
    nowhere = {
        *NOWHERE,
        *(("objective", word) for word in pairings.options["objective"] if teaches_another(pairings, word)),
    }
    rows = list(pairings.each(nowhere))
    failed = tried(pairings, rows, tmp_path)
    assert not failed, "\n".join(failed)
    met = {(role, word) for row in rows for role, word in row.items()}
    for role in ROLES:
        for word in pairings.options[role]:
            name = word.partition(":")[0]
            if role == "data":
                assert any(w.startswith(name) for r, w in met if r == role), word
            elif (role, word) not in met:
                assert (role, name) in nowhere, f"{role} {word} fits nowhere"


NOWHERE = {
    ("autoencoder", "clip_codes"): "latents that a further stage makes video of",
    ("autoencoder", "clip_image"): "latents that a further stage makes video of",
    ("conditioner", "degraded"): "only after another stage",
    ("conditioner", "depth_to_space"): "only after another stage",
    ("conditioner", "enlarged"): "only after another stage",
    ("conditioner", "image_embedding"): "only after another stage",
    ("conditioner", "noisy_earlier"): "only after another stage",
    ("denoiser", "prior"): "draws, and learns nothing",
    (
        "sampler",
        "classifier_guided",
    ): "its classifier wants pixels one by one, which a search seldom meets; tested by itself",
    ("sampler", "agreeing"): "for latents that a further stage makes video of",
    ("sampler", "text_alone"): "for latents that a further stage makes video of",
    ("objective", "prior"): "teaches nothing",
}
"""Options for which no recipe of one stage that teaches the denoiser alone fits, and why."""


def teaches_another(pairings: Pairings, word: str) -> bool:
    part = pairings.catalog.find("objective", pairings.options["objective"][word]["type"])
    return getattr(part, "learns", "denoiser") != "denoiser"


@pytest.mark.slow
def test_every_pair_that_fits_trains_and_samples(pairings: Pairings, tmp_path: Path) -> None:
    failed = tried(pairings, pairings.all_pairs(), tmp_path)
    assert not failed, f"{len(failed)} failed\n" + "\n".join(failed)


def tried(pairings: Pairings, rows: Iterator[Row] | list[Row], folder: Path) -> list[str]:
    """What went wrong with each row."""
    failed = []
    for i, row in enumerate(rows):
        try:
            trains_and_samples(pairings, row, folder / str(i))
        except Exception as error:
            if str(error).startswith("sampler.guidance: needs a conditioner"):
                continue  # a part's own setting, refused in words because nothing here can be told nothing
            failed.append(f"{dict(row)}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return failed


def test_any_row_is_refused_in_words_or_assembles(pairings: Pairings) -> None:
    """Rows at large, of which nearly all are refused; every finding is a sentence about a place in the recipe."""
    refused = 0
    for row in pairings.any_pairs(100):
        found = pairings.findings(row)
        refused += found.any
        for said in [*(str(error) for *_, error in found.problems), *(m.says for m in found.mismatches)]:
            assert len(said) > 10, (row, said)
            assert "\n" not in said, (row, said)
    assert refused > 50


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repairs are looked for until they are found, however loaded the machine is."""
    monkeypatch.setattr(repairs, "SECONDS", 120.0)


def test_a_refusal_says_every_line_and_what_would_fit(pairings: Pairings) -> None:
    """The whole of a refusal, with its repairs: each repair is a part of the role that it is offered for."""
    lines = [line for row in pairings.any_pairs(5) for line in refused_in_words(pairings, row)]
    offered = 0
    for line in lines:
        for choice in line.partition("would fit: ")[2].split("; ") if "would fit: " in line else []:
            role, _, names = choice.partition(": ")
            if not all(name.isidentifier() for name in names.split(", ")):
                continue  # a part's own words of advice
            offered += len(names.split(", "))
            for name in names.split(", "):
                assert pairings.catalog.find(role.rpartition(".")[2], name), line
    assert len(lines) > 8
    assert offered > 8


def test_a_repair_fits(pairings: Pairings, patient: None) -> None:
    """Of a row that fits, spoilt in one place, the line that says so offers the part that was there."""
    chance = random.Random(4)
    row = pairings.legal({"denoiser": "dit", "conditioner": "text", "sampler": "heun"}, set(), chance)
    assert row is not None
    for role, wrong in (("denoiser", "gpt"), ("sampler", "raster"), ("objective", "next_token")):
        lines = refused_in_words(pairings, {**row, role: wrong})
        offers = " ".join(line.partition("would fit: ")[2] for line in lines)
        assert f"{role}: " in offers, lines
        named = offers.partition(f"{role}: ")[2].partition(";")[0].replace(",", " ").split()
        assert row[role] in named, (row, lines)


def test_guidance_asks_for_a_conditioner_that_was_told_nothing(pairings: Pairings) -> None:
    """`oscillating` always guides: known before anything is trained, not when the first sample is made."""
    row = pairings.legal({"denoiser": "dit", "conditioner": "text", "sampler": "oscillating"}, set(), random.Random(1))
    assert row is not None
    for told in ("none", "opening"):
        says = [m.says for m in pairings.findings({**row, "data": "shapes:odd", "conditioner": told}).mismatches]
        assert any("told nothing" in said for said in says), (told, says)


@pytest.mark.slow
def test_every_pair_is_refused_in_words_or_assembles(pairings: Pairings) -> None:
    rows = list(pairings.any_pairs())
    refused = [bool(refused_in_words(pairings, row)) for row in rows]
    assert 0.9 * len(rows) < sum(refused) < len(rows)


def test_the_generator_covers_what_it_says(pairings: Pairings) -> None:
    """Rows at large meet every pair of options, in about as few rows as the two longest roles have pairs."""
    rows = list(pairings.any_pairs())
    longest = sorted(len(pairings.options[role]) for role in ROLES if role != "data")[-2:]
    assert len(rows) < 1.6 * longest[0] * longest[1]
    words = {role: {word.partition(":")[0] for word in pairings.options[role]} for role in ROLES}
    for one in ROLES:
        for other in ROLES:
            met = {(row[one].partition(":")[0], row[other].partition(":")[0]) for row in rows}
            wanted = {(a, b) for a in words[one] for b in words[other] if one != other or a == b}
            assert met == wanted, (one, other)
    assert rows[:30] == list(islice(Pairings.any_pairs(pairings), 30)), "the rows are not the same each time"
    assert set(rows[0]) == set(ROLES) > set(VIDEO)
