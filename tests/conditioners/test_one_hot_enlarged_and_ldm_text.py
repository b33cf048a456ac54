"""The conditioners of the diffusion lineage: classes as they are, an earlier stage's video, and LDM's text encoder."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, ConditioningFact, EarlierFact, LatentFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Grid
from mutoscope.plugins.conditioners.enlarged import Enlarged
from mutoscope.plugins.conditioners.ldm_text import LdmText
from mutoscope.plugins.conditioners.one_hot import OneHot

CLIP = ClipFact(channels=3, frames=4, size=(16, 16), classes=5)
DRAW = Draw(0, "test", 0, (0, 1, 2))


def test_a_class_is_a_one_and_an_id() -> None:
    part = OneHot(CLIP, dropout=0.1)
    told = part.embed(Batch(label=torch.tensor([0, 4, 2]), clips=(0, 1, 2)), DRAW)
    assert torch.equal(told.pooled, torch.eye(5)[[0, 4, 2]])  # type: ignore[arg-type]
    assert told.prompt_ids is not None
    assert told.prompt_ids.tolist() == [[0], [4], [2]]
    assert told.null is not None
    assert not told.null.pooled.any()  # type: ignore[union-attr]
    assert list(part.parameters()) == []
    silent = OneHot(CLIP, told=False)
    assert silent.facts() == (ConditioningFact(length=1, vocabulary=5),)
    assert silent.embed(Batch(clips=(0,)), DRAW.of((0,))).pooled is None
    with pytest.raises(InputError, match=r"label: is no class; got 5; allowed: 0 to 4"):
        part.eval().embed(Batch(label=torch.tensor([5]), clips=(0,)), DRAW.of((0,)))


def test_the_earlier_video_is_enlarged_bilinearly() -> None:
    latent = LatentFact(3, (1, 1, 1), Grid(4, 16, 16))
    part = Enlarged(EarlierFact(3, 2, (4, 8)), latent)
    video = torch.randn(2, 3, 2, 4, 8)
    cells = part.embed(Batch(earlier=video, clips=(0, 1)), DRAW.of((0, 1))).cells
    assert cells is not None
    assert cells.shape == (2, 3, 4, 16, 16)
    for t in range(4):
        expected = torch.nn.functional.interpolate(video[:, :, t // 2], size=(16, 16), mode="bilinear")
        torch.testing.assert_close(cells[:, :, t], expected)
    assert part(torch.randn(1, 3, 2, 8, 8)).shape == (1, 3, 4, 32, 16)  # another size keeps the ratio
    with pytest.raises(InputError, match="earlier stage"):
        part.embed(Batch(clips=(0,)), DRAW.of((0,)))


def test_the_text_encoders_count_is_the_released_one() -> None:
    with torch.device("meta"):
        part = LdmText(CLIP, vocabulary=30522, head=True)
    assert sum(p.numel() for p in part.parameters()) == 581_994_042


def test_the_text_encoder_reads_the_prompt() -> None:
    torch.manual_seed(0)
    part = LdmText(CLIP, **LdmText.tiny).eval()
    told = part.embed(Batch(prompt=("a red circle", "a blue circle", ""), clips=(0, 1, 2)), DRAW)
    assert told.sequence is not None
    assert told.null is not None
    assert told.sequence.shape == (3, 12, 16)
    assert not torch.allclose(told.sequence[0], told.sequence[1])
    torch.testing.assert_close(told.sequence[2], told.null.sequence[2])  # type: ignore[index]
