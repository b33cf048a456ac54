"""The extractor: shipped weights, second reader, ladder of corruptions, and the recipe that rebuilds it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mutoscope.core.checks import checks_of
from mutoscope.core.errors import InputError, WorkError
from mutoscope.core.metric import Material
from mutoscope.core.randomness import Draw
from mutoscope.core.training.run import train
from mutoscope.core.values import Batch, Conditioning, Example
from mutoscope.plugins.metrics.distances import frechet_distance, kernel_distance
from mutoscope.plugins.metrics.extraction import features, standardised
from mutoscope.plugins.metrics.frechet import Frechet
from mutoscope.plugins.metrics.kernel import Kernel
from mutoscope.plugins.world import mutonet
from mutoscope.plugins.world.dataset import Shapes
from mutoscope.plugins.world.metrics.reading import readings
from mutoscope.plugins.world.mutonet import SHIPPED, Mutonet, shape_of, ship, told_apart
from mutoscope.plugins.world.perceive import Perceive, truths, ways
from mutoscope.registry.assembly import assemble
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.recipe import load_recipe


def blurred(video: Tensor, deviation: float) -> Tensor:
    """deviation: in pixels."""
    reach = int(3 * deviation + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation).square())
    kernel = kernel / kernel.sum()
    b, c, t, h, w = video.shape
    x = F.pad(video.transpose(1, 2).reshape(-1, 1, h, w), (reach,) * 4, mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return x.view(b, t, c, h, w).transpose(1, 2)


def ladder(tower: Mutonet, batch: Batch) -> dict[str, tuple[float, float]]:
    """Frechet and kernel distance of the first half of some clips, corrupted, from the second half."""
    video = batch.video
    assert isinstance(video, Tensor)
    n = len(video) // 2
    ours, real = video[:n], video[n:]
    made = torch.Generator().manual_seed(0)
    order = torch.rand(n, video.shape[2], generator=made).argsort(1)
    pixel = video.shape[-2] / 32
    rungs = {
        "real": ours,
        "noise": (ours + torch.randn(ours.shape, generator=made) * 8 / 127.5).clamp(-1, 1),
        "blur": blurred(ours, pixel),
        "more blur": blurred(ours, 2 * pixel),
        "shuffled": ours.gather(2, order[:, None, :, None, None].expand_as(ours)),
        "static": ours[:, :, :1].expand_as(ours),
        "mean": video.mean(0, keepdim=True).expand_as(ours),
    }
    base = features(tower, real)
    found = {}
    for name, corrupted in rungs.items():
        seen = features(tower, corrupted.contiguous())
        scaled, scaled_base = standardised(seen, base, by=base)
        found[name] = (frechet_distance(seen, base), kernel_distance(scaled, scaled_base)[0])
    return found


def assert_ordered(found: dict[str, tuple[float, float]]) -> None:
    """Noise is at the floor; blur below lost motion; the mean of all clips worst."""
    for which in (0, 1):
        value = {name: pair[which] for name, pair in found.items()}
        floor = abs(value["real"]) + 0.02 * value["static"]
        assert value["noise"] < 2 * floor, found
        assert value["noise"] < value["blur"] < value["more blur"] < value["mean"], found
        assert value["blur"] < value["shuffled"] < value["static"] < value["mean"], found
        assert value["shuffled"] > 5 * floor, found


@pytest.mark.parametrize(("tier", "count"), [("XS", 512), ("S", 192)])
def test_the_ladder_of_corruptions_is_in_order(clips, tier: str, count: int) -> None:
    assert_ordered(ladder(Mutonet(), clips.batch(tier, count)))


@pytest.mark.parametrize(
    ("tier", "split", "least"), [("XS", "test", 0.99), ("S", "test", 0.99), ("XS", "combination", 0.99)]
)
def test_the_second_reader_agrees_with_the_oracle(clips, tier: str, split: str, least: float) -> None:
    """On the shape, in 99% of 300 real clips; measured: 100% at XS and S, 99.9% on pairs never trained on."""
    batch = clips.batch(tier, 300, split=split)
    seen = shape_of(Mutonet().features(batch.video).logits)
    first = [r.tracks[0].shape for r in readings(Material(batch.video, batch, batch.video, split))]
    assert np.mean([a == b for a, b in zip(seen, first, strict=True)]) >= least


def test_it_sees_what_is_there(clips) -> None:
    """Colour and direction in 99% of test clips; speed to 0.05 frame heights a second, radius to 0.02."""
    batch = clips.batch()
    said, true = told_apart(Mutonet().features(batch.video).logits), truths(batch.state)
    for name in ("colour", "direction"):
        assert (said[name].argmax(1) == true[name].argmax(1)).float().mean() >= 0.99
    assert (said["velocity"] - true["velocity"]).abs().mean() < 0.05
    assert (said["radius"] - true["radius"]).abs().mean() < 0.02


def test_the_shipped_weights_are_those_of_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == card["sha256"]
    assert card["parameters"] == sum(p.numel() for p in Mutonet().parameters())
    assert SHIPPED.stat().st_size < 300_000
    flipped = bytearray(SHIPPED.read_bytes())
    flipped[-100] ^= 1
    (tmp_path / SHIPPED.name).write_bytes(flipped)
    (tmp_path / SHIPPED.with_suffix(".json").name).write_text(json.dumps(card))
    monkeypatch.setattr(mutonet, "SHIPPED", tmp_path / SHIPPED.name)
    with pytest.raises(WorkError, match="damaged"):
        Mutonet()
    Mutonet(shipped=False)
    with pytest.raises(InputError, match="shipped: false"):
        Mutonet(width=32)


def test_what_is_shipped_again_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Mutonet()
    ship(one, "by a test", tmp_path / SHIPPED.name)
    monkeypatch.setattr(mutonet, "SHIPPED", tmp_path / SHIPPED.name)
    assert Mutonet().fingerprint() == one.fingerprint() != Mutonet(shipped=False).fingerprint()


@pytest.mark.parametrize("part", [Mutonet, Perceive], ids=lambda p: p.name)
def test_parts_keep_the_contract(part) -> None:
    for check in checks_of(part):
        check.run()


@pytest.mark.parametrize("size", [(1, 16, 16), (8, 16, 24), (4, 15, 17), (3, 64, 64)])
def test_any_size_gives_64_features(size: tuple[int, int, int]) -> None:
    seen = Mutonet().features(torch.zeros(2, 3, *size))
    assert seen.pooled is not None
    assert seen.pooled.shape == (2, 64)


def test_what_it_sees_does_not_depend_on_precision() -> None:
    tower, video = Mutonet(), torch.rand(2, 3, 1, 16, 16, generator=torch.manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = tower.features(video).sequence
    assert narrow is not None
    assert torch.equal(narrow, tower.features(video).sequence)


def test_perceive_teaches_every_size_together_and_a_clip_alone() -> None:
    """The loss of a batch of mixed sizes is the mean over its clips; gradients reach every weight."""
    torch.manual_seed(0)
    tower, objective = Mutonet(shipped=False), Perceive(recolour=0.0)
    world = Shapes(sizes=((5, 16, 16), (4, 16, 24)), laws=("uniform", "still"))
    batch = world.batch("train", range(6))
    assert isinstance(batch.video, tuple)
    assert len({v.shape for v in batch.video}) == 2
    draw = Draw(0, "test", 0, tuple(range(6)))
    with torch.enable_grad():
        whole = objective.loss(tower, Example(None, Conditioning(), batch), draw, "learner")
        whole.total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters())
    each = []
    for i in range(6):
        one = Batch(video=batch.video[i][None], state=batch.state[i : i + 1], clips=(i,))  # type: ignore[index]
        each.append(objective.loss(tower, Example(None, Conditioning(), one), draw.of((i,)), "learner").total)
    assert float(whole.total) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_ways_are_shares_of_a_path() -> None:
    assert ways(np.array([[0, 0], [0, 3], [1, 3]])) == pytest.approx([0, 0.75, 0, 0.25, 0])
    assert ways(np.zeros((4, 2))) == pytest.approx([0, 0, 0, 0, 1])


def test_distances_with_the_extractor_put_real_clips_at_the_floor(clips) -> None:
    """The metrics on the shipped extractor: 128 clips of the test split against 384 others, and their still frames."""
    batch = clips.batch("XS", 512)
    asked = Batch(video=batch.video[:128], state=batch.state[:128], clips=tuple(range(128)))
    for metric in (Kernel(extractor=Mutonet()), Frechet(extractor=Mutonet())):
        real = {s.name: s for s in metric.score(Material(asked.video, asked, batch.video, "test"))}
        still = asked.video[:, :, :1].expand_as(asked.video)
        fake = {s.name: s for s in metric.score(Material(still, asked, batch.video, "test"))}
        assert real[metric.name].value == pytest.approx(real[f"{metric.name}.floor"].value, rel=1e-9)
        assert fake[metric.name].low > real[metric.name].high
        assert str(metric.protocol()["extractor"]).startswith("mutonet:")


@pytest.mark.slow
def test_the_recipe_rebuilds_it(tmp_path: Path, clips) -> None:
    """Other bits on another machine, the same order of the ladder, and a second reader as good."""
    built = assemble(load_recipe("mutonet"), Catalog.load())
    with torch.enable_grad():
        train(built.model, built.plan, tmp_path)
    tower = built.model.part("tower").eval()
    assert isinstance(tower, Mutonet)
    assert_ordered(ladder(tower, clips.batch("XS", 512)))
    assert_ordered(ladder(tower, clips.batch("S", 192)))
    batch = clips.batch()
    shapes = [scene.things[0].shape for scene in batch.state]
    assert np.mean([a == b for a, b in zip(shape_of(tower.features(batch.video).logits), shapes, strict=True)]) >= 0.98
