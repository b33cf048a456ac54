"""The tower `clip` against open_clip's own code, its objective, its vocabulary, and the metric that asks it."""

from __future__ import annotations

import json

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.layers.bpe import ids_of
from mutoscope.core.layers.vocabulary import LEAST, Vocabulary
from mutoscope.core.metric import Material
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Example
from mutoscope.plugins.metrics.clip_score import ClipScore
from mutoscope.plugins.towers.clip import SHIPPED, ClipTower
from mutoscope.plugins.towers.contrastive import Contrastive
from mutoscope.plugins.world.dataset import Shapes
from mutoscope.plugins.world.state import COLOURS, SHAPES

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
PROMPTS = ["a red circle moves left", "a blue square", "zebra crossing"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A model whose text is open_clip's, in every byte pair."""
    file = tmp_path_factory.mktemp("clip") / "tiny.json"
    file.write_text(json.dumps(TINY))
    torch.manual_seed(0)
    return ClipTower(model=str(file), tiles=1, shipped=False).eval()


def test_reads_and_sees_as_open_clip_does(published):
    ids = torch.zeros(3, 12, dtype=torch.long)
    for row, prompt in zip(ids, PROMPTS, strict=True):
        own = ids_of(prompt)
        row[: len(own)] = torch.tensor(own)
    read = published.read(PROMPTS)
    assert torch.equal(read.prompt_ids, ids)
    torch.testing.assert_close(read.pooled, published.net.encode_text(ids, normalize=True))
    pictures = torch.rand(3, 3, 16, 16) * 2 - 1
    mean, deviation = published.mean, published.deviation
    seen = published.net.encode_image(((pictures + 1) / 2 - mean) / deviation, normalize=True)
    torch.testing.assert_close(published.features(pictures[:, :, None]).pooled, seen)


def test_a_repeated_prompt_is_read_once_and_alone(published):
    both, one = published.read([PROMPTS[0], PROMPTS[1], PROMPTS[0]]), published.read([PROMPTS[0]])
    assert torch.equal(both.pooled[0], both.pooled[2])
    torch.testing.assert_close(both.pooled[:1], one.pooled)


def test_the_loss_is_open_clips_where_no_caption_repeats(published):
    from open_clip.loss import ClipLoss

    batch = Shapes(frames=1).batch("train", range(3))
    prompts = tuple(PROMPTS)
    example = Example(None, Conditioning(), _with(batch, prompts))
    found = Contrastive().loss(published, example, Draw(0, "t", 0, (0, 1, 2)), "learner").total
    seen = published.features(batch.video).pooled
    wanted = ClipLoss()(seen, published.read(prompts).pooled, published.sharpness())
    torch.testing.assert_close(found, wanted)


def test_equal_captions_are_right_for_each_other(published):
    """With one caption everywhere nothing can be wrong, and the loss is that of even shares."""
    batch = _with(Shapes(frames=1).batch("train", range(4)), ("a red circle",) * 4)
    told = Contrastive().loss(published, Example(None, Conditioning(), batch), Draw(0, "t", 0, (0, 1, 2, 3)), "learner")
    assert told.parts["right"] == 1.0
    assert told.total.item() >= torch.log(torch.tensor(4.0)).item() - 1e-5


def test_motion_is_seen_by_tiles_and_not_by_single_frames(published):
    torch.manual_seed(1)
    tiled = ClipTower(shipped=False).eval()
    video = Shapes(frames=9).batch("test", range(2)).video
    back = video.flip(2)
    assert (tiled.pictured(video) - tiled.pictured(back)).abs().max() > 0.1
    assert not torch.equal(tiled.features(video).pooled, tiled.features(back).pooled)
    torch.testing.assert_close(published.features(video).pooled, published.features(back).pooled)
    picture = tiled.pictured(video[:, :, :1])
    half = picture.shape[-1] // 2
    torch.testing.assert_close(picture[..., :half, :half], picture[..., half:, half:])


def test_any_text_is_spelled_and_read_back():
    words = Vocabulary(LEAST + 20)
    words.learn(["a red circle moves left slowly"] * 3)
    for text in ("a red circle", "zebra, déjà vu! 42", "", "slowly slowly"):
        assert words.text(words.ids(text)) == text.replace(",", " ,").replace("!", " !").replace("42", "4 2")
    assert len(words.ids("slowly")) == 1 < len(words.ids("zebra"))
    other = Vocabulary(LEAST + 20)
    other.load_state_dict(words.state_dict())
    assert other.ids("a red zebra") == words.ids("a red zebra")
    ids, mask = words.rows(["a red circle moves left slowly", "a"], 5, "cpu")
    assert ids[0, -1] == words.end == ids.max()
    assert mask.tolist() == [[True] * 5, [True, True, True, False, False]]


def test_errors_are_one_line():
    for settings, word in (
        ({"model": "ViT-B-33"}, "shipped"),
        ({"model": "ViT-B-33", "shipped": False}, "ViT-B-3"),
        ({"model": "xlm-roberta-base-ViT-B-32", "shipped": False}, "no model of open_clip's own"),
    ):
        with pytest.raises(InputError, match=word):
            ClipTower(**settings)


shipped = pytest.mark.skipif(not SHIPPED.exists(), reason="no weights ship")


@shipped
def test_the_shipped_tower_tells_pictures_by_their_captions():
    tower = ClipTower().eval()
    batch = Shapes(frames=1, laws=("still",)).batch("test", range(96))
    captions = [f"a {colour} {shape} stays still" for colour in COLOURS for shape in SHAPES]
    with torch.no_grad():
        best = (tower.features(batch.video).pooled @ tower.read(captions).pooled.T).argmax(dim=1).tolist()
    said = [captions[i].split() for i in best]
    colour = sum(words[1] in prompt for words, prompt in zip(said, batch.prompt, strict=True)) / 96
    shape = sum(words[2] in prompt for words, prompt in zip(said, batch.prompt, strict=True)) / 96
    assert colour > 0.97
    assert shape > 0.93  # a third by chance


@shipped
def test_clip_score_of_real_clips_is_above_that_of_shuffled_captions():
    from torchmetrics.functional.pairwise import pairwise_cosine_similarity

    metric = ClipScore(tower=ClipTower())
    batch = Shapes(frames=9).batch("test", range(48))
    own, others = metric.score(Material(batch.video, batch, batch.video, "test"))
    assert own.name == "clip_score"
    assert own.clips.mean() > others.clips.mean() + 5
    wrong = _with(batch, batch.prompt[1:] + batch.prompt[:1])
    assert next(iter(metric.score(Material(batch.video, wrong, batch.video, "test")))).clips.mean() < own.clips.mean()
    tower = metric.tower
    with torch.no_grad():
        cosines = pairwise_cosine_similarity(tower.features(batch.video).pooled, tower.read(batch.prompt).pooled)
    torch.testing.assert_close(
        torch.from_numpy(own.clips).float(), 100 * cosines.diag().clamp(min=0), atol=1e-3, rtol=0
    )


@pytest.mark.slow
def test_the_recipe_makes_the_shipped_tower_anew(catalog, tmp_path):
    """Its loss falls as the shipped one's did: colours first."""
    from mutoscope.registry.recipe import load_recipe
    from mutoscope.registry.runs import train_recipe

    folder, _, _ = train_recipe(load_recipe("clip"), catalog, tmp_path / "run", "cpu", store=tmp_path / "store")
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def _with(batch, prompts):
    from dataclasses import replace

    return replace(batch, prompt=tuple(prompts))
