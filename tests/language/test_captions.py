"""The captioner, the blend, and the captions that people wrote of some clips."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.generation import Request, generate
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example
from mutoscope.plugins.conditioners.text import Text
from mutoscope.plugins.language.blended import Blended
from mutoscope.plugins.language.captioner import Captioner
from mutoscope.plugins.language.expander import Expander
from mutoscope.plugins.language.scribe import Scribe
from mutoscope.plugins.language.writing import Writing
from mutoscope.plugins.world.dataset import Shapes
from mutoscope.plugins.world.language import parse
from mutoscope.plugins.world.mutonet import Mutonet
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import load, train_recipe

CLIP = ClipFact(3, 9, (16, 16))


def draw(clips: int, step: int = 0) -> Draw:
    return Draw(5, "language", step, tuple(range(clips)))


@pytest.fixture(scope="module")
def data() -> Shapes:
    return Shapes(frames=9, caption="poor", asked="descriptive", described=0.1, clips=4000)


# What people wrote


def test_some_training_clips_are_described_and_no_others(data):
    batch = data.batch("train", range(600))
    count = sum(bool(text) for text in batch.texts["descriptive"])
    assert count == sum(bool(text) for text in batch.texts["short"])
    assert count == pytest.approx(60, abs=3.3 * math.sqrt(600 * 0.1 * 0.9))
    held = data.batch("test", range(40))
    assert not any(held.texts["short"]) and not any(held.texts["descriptive"])
    assert all("in all" in prompt for prompt in held.prompt)
    for text, long, scene in zip(batch.texts["short"], batch.texts["descriptive"], batch.state, strict=True):
        if text:
            thing = scene.things[0]
            assert parse(text)[0]["colour"] == parse(long)[0]["colour"] == thing.colour
    assert len([p for p in batch.prompt if parse(p) and "colour" in parse(p)[0]]) < 480  # poor captions leave out
    assert Shapes().fingerprint() == Shapes(described=0.0).fingerprint() != data.fingerprint()
    assert Shapes().batch("train", [0]).texts is None


# The captioner


def test_each_style_is_learned_from_its_own_captions(data):
    torch.manual_seed(0)
    writer = Captioner(CLIP, tower=Mutonet(shipped=False), width=32, depth=1, heads=2, length=24, given=0.5)
    batch = data.batch("train", range(64))
    writer.begin([batch])
    told = writer.told(batch)
    described = {i for i, text in enumerate(batch.texts["short"]) if text}
    assert {i for i, _ in told["short"]} == {i for i, _ in told["descriptive"]} == described
    assert {i for i, _ in told["given"]} == set(range(64)) - described
    losses = writer.losses(batch, draw(64))
    assert set(losses) == {"short", "descriptive", "given"}
    only = writer.losses(replace(batch, texts=dict.fromkeys(batch.texts, ("",) * 64)), draw(64))
    assert set(only) == {"given"}


def test_a_likelihood_is_that_of_the_ids_after_what_is_told():
    """Against torch's cross-entropy, row by row."""
    torch.manual_seed(1)
    model = Expander(width=16, depth=1, heads=2, length=20).language
    ids = torch.tensor([[638, 5, 6, 7, 639, 0, 0], [638, 9, 639, 8, 8, 8, 639]])
    logits = model(ids)[0]
    each = [
        torch.nn.functional.cross_entropy(logits[b, n - 1], ids[b, n])
        for b, n in [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (1, 5), (1, 6)]
    ]
    torch.testing.assert_close(model.nll(ids, torch.tensor([2, 3])), torch.stack(each).mean())
    changed = ids.clone()
    changed[:, 4:] = 3
    torch.testing.assert_close(model(changed)[0][:, :4], logits[:, :4])


def test_writing_in_steps_is_the_likeliest_text_of_one_pass():
    torch.manual_seed(2)
    model = Expander(width=16, depth=2, heads=2, length=16).language
    begun = [[638, 4], [638, 5, 6, 7]]
    written = model.written(begun, None, draw(2), 0.0, 12)
    for start, row in zip(begun, written, strict=True):
        whole = torch.tensor([[*start, *[i for i in row if i]]])
        said = model._only_words(model(whole)[0][0].index_fill(1, torch.tensor([0, 638]), -torch.inf)).argmax(1)
        assert said[len(start) - 1 : -1].tolist() == whole[0, len(start) :].tolist()


def test_contrast_finds_the_caption_of_a_clip(data):
    torch.manual_seed(3)
    writer = Captioner(CLIP, tower=Mutonet(), width=32, depth=1, heads=2, length=24, contrast=1.0)
    batch = data.batch("train", range(16))
    writer.begin([batch])
    losses = writer.losses(batch, draw(16))
    assert losses["contrast"].item() > 0
    total = sum(losses.values())
    total.backward()
    assert all(p.grad is not None and p.grad.any() for p in writer.sides.parameters())


def test_what_it_says_of_unseen_clips_is_right_more_often_than_by_chance():
    """Told what a tower sees of 300 described clips, whose weights stand for an image encoder trained at length."""
    data = Shapes(frames=9, caption="poor", asked="descriptive", described=1.0, clips=300)
    torch.manual_seed(4)
    tower = Mutonet().requires_grad_(False)
    writer = Captioner(CLIP, tower=tower, width=48, depth=1, heads=2, length=24, given=0.0)
    batch, held = data.batch("train", range(300)), data.batch("test", range(100))
    writer.begin([batch])
    with torch.no_grad():
        seen = writer.seen(batch.video)
    writer.seen = lambda video: seen if len(video) == 300 else Captioner.seen(writer, video)  # seen once
    learned = [p for p in writer.parameters() if p.requires_grad]
    descent = torch.optim.Adam(learned, lr=5e-3)
    for step in range(90):
        loss = Writing().loss(writer, Example(None, Conditioning(), batch), draw(300, step), "learner").total
        descent.zero_grad()
        loss.backward()
        descent.step()
    found = {}
    for style in ("short", "descriptive"):
        writer.style = style
        found[style] = writer.write(held.video, draw(100))
    right = dict.fromkeys(("colour", "direction", "speed"), 0)
    for text, prompt in zip(found["descriptive"], held.prompt, strict=True):
        said, wanted = parse(text), parse(prompt)
        for name in right:
            right[name] += bool(said) and said[0].get(name) == wanted[0][name]
    for name, chance in (("colour", 1 / 6), ("direction", 1 / 4), ("speed", 1 / 2)):
        assert right[name] / 100 > chance + 3.3 * math.sqrt(chance * (1 - chance) / 100), (name, right)
    assert sum("in all" in text for text in found["descriptive"]) > 90 > 10 > sum("in all" in t for t in found["short"])


def test_a_captioner_does_not_expand_and_an_expander_does_not_caption():
    captioner = Captioner(CLIP, tower=Mutonet(shipped=False), width=16, depth=1, heads=2, length=8)
    expander = Expander(width=16, depth=1, heads=2, length=12, tries=1)
    with pytest.raises(InputError, match="does not expand"):
        captioner.write(["a red circle"], draw(1))
    with pytest.raises(InputError, match="does not caption"):
        expander.write(torch.zeros(1, 3, 9, 16, 16), draw(1))
    both = Scribe(captioner=captioner, expander=expander)
    assert len(both.write(torch.zeros(2, 3, 9, 16, 16), draw(2))) == 2
    assert both.write(["a red circle"], draw(1))[0].startswith("a red circle")


# The blend


@pytest.mark.parametrize("rate", [0.0, 0.65, 0.95, 1.0])
def test_the_blend_has_its_rate_and_is_of_whole_captions(rate):
    part = Blended(rate=rate, text=Text(CLIP, width=8, depth=1, heads=2))
    n, steps = 500, 8
    batch = Batch(prompt=("given caption",) * n, written=("synthetic caption",) * n, clips=tuple(range(n)))
    chosen = [part.prompts(batch, draw(n, step)) for step in range(steps)]
    assert {text for row in chosen for text in row} <= {"given caption", "synthetic caption"}
    share = sum(text.startswith("synthetic") for row in chosen for text in row) / (n * steps)
    assert share == pytest.approx(rate, abs=3.3 * math.sqrt(rate * (1 - rate) / (n * steps)) + 1e-9)
    assert chosen[0] == part.prompts(batch, draw(n, 0))
    assert rate in (0.0, 1.0) or len(set(chosen)) == steps  # drawn anew whenever a clip is seen
    assert part.prompts(replace(batch, written=None), draw(n)) == batch.prompt


def test_what_the_text_conditioner_is_told_is_the_blend():
    torch.manual_seed(5)
    text = Text(CLIP, width=8, depth=1, heads=2)
    part = Blended(rate=1.0, text=text)
    batch = Batch(prompt=("a thing",) * 2, written=("a red circle", "a blue square"), clips=(0, 1))
    torch.testing.assert_close(
        part.embed(batch, draw(2)).pooled, text.embed(replace(batch, prompt=batch.written), draw(2)).pooled
    )
    assert part.dropout == text.dropout
    assert next(iter(part.facts())) == next(iter(text.facts()))


# The recipe


def test_the_small_recipe_trains_and_its_prompts_are_expanded(catalog, tmp_path, monkeypatch):
    seen: list[tuple] = []
    real = Blended.prompts

    def spied(self, batch, draw):
        seen.append((batch.written, batch.clips, real(self, batch, draw)))
        return seen[-1][2]

    monkeypatch.setattr(Blended, "prompts", spied)
    changes = ["data.clips=16", "data.held=8", "data.described=0.5", "training.log_every=1", "sampler.steps=2"]
    changes += [f"training.phases.{i}.steps=3" for i in range(3)]
    changes += [f"training.phases.{i}.batch=4" for i in range(3)]
    for part in ("captioner", "expander"):
        changes += [f"writer.{part}.type={part}", f"writer.{part}.width=16", f"writer.{part}.depth=1"]
    changes += ["writer.captioner.length=12", "writer.expander.length=40", "writer.expander.tries=1"]
    recipe = load_recipe("lineage/30-dalle3", changes)
    train_recipe(recipe, catalog, tmp_path / "run", "cpu", store=tmp_path / "store")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {r["phase"] for r in records} == {"0-writer", "1-autoencoder", "2-denoiser"}
    assert {"short", "descriptive", "expansion"} <= set(records[0])
    trained = [row for row in seen if row[0] is not None]
    assert len(trained) == 3 and all(len(written) == 4 for written, _, _ in trained)
    by_clip: dict[int, set[str]] = {}
    for written, clips, _ in trained:
        for clip, text in zip(clips, written, strict=True):
            by_clip.setdefault(clip, set()).add(text)
    assert all(len(texts) == 1 for texts in by_clip.values())  # written once
    run = load(tmp_path / "run", catalog=catalog)
    made = generate(run.model, Request(prompts=("a red circle", "a blue square"), expand=True))
    assert made.video.shape == (2, 3, 9, 16, 16)
    assert any('"a red circle' in note for note in made.notes)


def test_the_paper_recipe_builds_and_a_blend_without_a_writer_does_not(catalog):
    from mutoscope.registry.assembly import assemble

    made = assemble(load_recipe("paper/30-dalle3"), catalog, "meta").made
    assert {"writer.captioner.tower", "writer.expander", "conditioner.text", "denoiser"} <= set(made)
    with pytest.raises(InputError, match="writer: is missing: blended reads what it writes"):
        assemble(
            load_recipe("paper/30-dalle3", ["writer=null", "training.phases=null", "training.steps=1"]), catalog, "meta"
        )
