"""The metrics `kernel`, `frechet` and `pixel` on clips, the tower `image_tower`, and their contract checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mutoscope.core.checks import checks_of
from mutoscope.core.errors import InputError
from mutoscope.core.metric import Material
from mutoscope.core.tower import Tower
from mutoscope.core.values import Batch, Features
from mutoscope.plugins.metrics.extraction import Sets, features, standardised
from mutoscope.plugins.metrics.frechet import Frechet
from mutoscope.plugins.metrics.kernel import Kernel
from mutoscope.plugins.metrics.pixel import Pixel, psnr, ssim
from mutoscope.plugins.towers.image_tower import ImageTower


class Means(Tower):
    """Two numbers of a clip: the means of its first two channels."""

    name = "means"

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        return Features(pooled=video[:, :2].mean(dim=(2, 3, 4)))


def clips(n: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    level = 0.2 * torch.randn(n, 3, 1, 1, 1, generator=made) + shift
    return (level + 0.1 * torch.randn(n, 3, 2, 8, 8, generator=made)).clamp(-1, 1)


def material(video: Tensor, reference: Tensor) -> Material:
    return Material(video, Batch(video=reference[: len(video)], clips=tuple(range(len(video)))), reference, "test")


@pytest.mark.parametrize("metric", [Kernel(extractor=Means()), Frechet(extractor=Means())])
def test_real_clips_are_at_the_floor_and_others_are_not(metric: Kernel | Frechet) -> None:
    real = clips(120)
    alike = {s.name: s for s in metric.score(material(clips(40, 7), real))}
    far = {s.name: s for s in metric.score(material(clips(40, 7, 0.5), real))}
    name = metric.name
    assert set(alike) == {name, f"{name}.floor"}
    assert alike[f"{name}.floor"].value == far[f"{name}.floor"].value
    assert far[name].low > alike[name].high  # type: ignore[operator]
    assert alike[name].low <= alike[f"{name}.floor"].high  # type: ignore[operator]
    assert all(s.low <= s.value <= s.high and s.n == 40 for s in far.values())  # type: ignore[operator]
    assert metric.better == "lower"


def test_no_clip_stands_on_both_sides() -> None:
    real = clips(50)
    sets = Sets.of(material(real[:20], real), Means())
    assert np.array_equal(sets.made, sets.held)
    assert not {tuple(r) for r in sets.base} & {tuple(r) for r in sets.made}
    few = Sets.of(material(real[:40], real), Means())
    assert len(few.base) == 50
    assert len(few.held) == len(few.floor_base()) == 25
    assert not {tuple(r) for r in few.held} & {tuple(r) for r in few.floor_base()}


def test_kernel_does_not_follow_the_scale_of_features() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30, 4))
    one, other = standardised(x, y, by=y), standardised(x * 50 + 3, y * 50 + 3, by=y * 50 + 3)
    assert np.allclose(one[0], other[0])
    assert np.allclose(one[1].mean(0), 0)


def test_frechet_is_refused_or_marked_where_clips_are_few() -> None:
    with pytest.raises(InputError, match="refused under 4 clips"):
        list(Frechet(extractor=Means()).score(material(clips(3), clips(3))))
    assert not any(s.reliable for s in Frechet(extractor=Means()).score(material(clips(20), clips(60))))
    many = material(clips(1024), clips(2048, 1))
    assert all(s.reliable for s in Frechet(extractor=Means()).score(many))


def test_features_do_not_depend_on_batch_size() -> None:
    video = clips(70)
    assert np.allclose(features(Means(), video), np.concatenate([features(Means(), v) for v in video.split(7)]))


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (33, 20)])
def test_ssim_and_psnr_agree_with_torchmetrics(size: tuple[int, int]) -> None:
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    made = torch.Generator().manual_seed(0)
    real = torch.rand(2, 3, 4, *size, generator=made) * 2 - 1
    video = (real + 0.2 * torch.randn(real.shape, generator=made)).clamp(-1, 1)
    for clip in range(2):
        x, y = (v[clip].transpose(0, 1).double() for v in (video, real))
        theirs = structural_similarity_index_measure(x, y, data_range=2.0)
        assert float(ssim(video, real)[clip]) == pytest.approx(float(theirs), abs=1e-6)  # type: ignore[arg-type]
        each = [float(peak_signal_noise_ratio(x[t], y[t], data_range=2.0)) for t in range(4)]
        assert float(psnr(video, real)[clip]) == pytest.approx(np.mean(each), abs=1e-6)


def test_pixel_scores_a_perfect_copy_and_a_known_error() -> None:
    video = clips(3)
    perfect = {s.name: s.clips for s in Pixel().score(material(video, video))}
    assert perfect["pixel.psnr"].tolist() == [100.0] * 3  # type: ignore[union-attr]
    assert np.allclose(perfect["pixel.ssim"], 1.0)  # type: ignore[arg-type]
    grey, off = torch.zeros(1, 3, 1, 12, 12), torch.full((1, 3, 1, 12, 12), 0.2)
    # 10 log10 (2^2 / 0.2^2) = 20 decibels; of flat images only luminance differs.
    assert float(psnr(off, grey)) == pytest.approx(20, abs=1e-5)
    assert float(ssim(off, grey)) == pytest.approx(0.02**2 / (0.2**2 + 0.02**2), rel=1e-5)
    assert Pixel.wants == "reconstruction"
    with pytest.raises(InputError, match="originals"):
        Pixel().score(material(video, video[:, :, :1]))


@pytest.mark.parametrize("check", checks_of(ImageTower), ids=lambda c: c.name)
def test_image_tower_keeps_the_contract(check) -> None:
    check.run()


@pytest.mark.parametrize("part", [Kernel, Frechet, Pixel])
def test_metrics_keep_the_contract(part) -> None:
    for check in checks_of(part, nested=lambda said, facts: Means()):
        check.run()


def test_image_tower_is_the_library_s_model(tmp_path: Path) -> None:
    """timm's own model on the same weights and prepared frames; open_clip's image tower alike."""
    import open_clip
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    tower = ImageTower(model="test_vit", file=str(tmp_path / "vit.safetensors")).eval()
    video = clips(2)
    with torch.no_grad():
        seen = tower.features(video)
        expected = theirs(tower.prepared(video[:, :, 1]))
    assert seen.sequence is not None
    assert torch.allclose(seen.sequence[:, 1], expected, atol=1e-5)
    assert seen.pooled is not None
    assert torch.allclose(seen.pooled, seen.sequence.mean(1))

    small = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    }
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "clip.json").write_text(json.dumps(small))
    whole = open_clip.CLIP(**small, text_cfg=text).eval()  # type: ignore[arg-type]
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "clip.safetensors")
    tower = ImageTower(
        source="open_clip", model=str(tmp_path / "clip.json"), file=str(tmp_path / "clip.safetensors")
    ).eval()
    with torch.no_grad():
        seen, expected = tower.features(video), whole.encode_image(tower.prepared(video[:, :, 0]))
    assert seen.sequence is not None
    assert torch.allclose(seen.sequence[:, 0], expected, atol=1e-5)


def test_image_tower_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean"):
        ImageTower(model="test_vitt")
    with pytest.raises(InputError, match="unknown open_clip model"):
        ImageTower(source="open_clip", model="ViT-B-3")
    with pytest.raises(InputError, match="no such file"):
        ImageTower(model="test_vit", file="none.safetensors")
    with pytest.raises(InputError, match="is read"):
        ImageTower(model="test_vit", file="weights.pt")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="has no weights"):
        ImageTower(model="test_vit", file=str(tmp_path / "x.safetensors"))
