"""The trained text conditioner and its tokens."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.layers.bpe import VOCABULARY, cut, ids_of
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch
from mutoscope.plugins.conditioners.text import IdTable, Text

CLIP = ClipFact(channels=3, frames=8, size=(16, 16))
PROMPTS = ("a red circle moves left", "a blue square", "a red circle moves left", "")
DRAW = Draw(0, "test", 0, (0, 1, 2, 3))


def text(**settings) -> Text:
    torch.manual_seed(0)
    return Text(CLIP, width=32, depth=2, heads=2, length=12, **settings)


def batch(prompts=PROMPTS) -> Batch:
    return Batch(prompt=tuple(prompts), clips=tuple(range(len(prompts))))


def test_ids_are_open_clips() -> None:
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.SimpleTokenizer()
    for prompt in ("A red circle moves LEFT!", "naïve café 世界 🎥", "it's  3 o'clock &amp; more", "", "x" * 300):
        ids = list(ids_of(prompt))
        for length in (77, 8):
            padded = cut(ids, length) + [0] * max(0, length - len(ids))
            assert padded == theirs([prompt], context_length=length)[0].tolist()


def test_tokens_do_not_bring_the_whole_of_open_clip() -> None:
    code = (
        "import sys; from mutoscope.core.layers.bpe import ids_of; ids_of('a red circle');"
        "print([m for m in ('open_clip', 'timm', 'torchvision') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_id_has_a_vector_of_its_own() -> None:
    torch.manual_seed(0)
    table = IdTable(16)(torch.arange(VOCABULARY))
    assert len(torch.unique(table, dim=0)) == VOCABULARY
    assert sum(p.numel() for p in IdTable(16).parameters()) == 449 * 16


def test_it_gives_sequence_pooled_and_ids() -> None:
    part = text()
    told, fact = part.embed(batch(), DRAW), next(iter(part.facts()))
    assert told.pooled is not None
    assert told.sequence is not None
    assert told.mask is not None
    assert told.prompt_ids is not None
    assert told.pooled.shape == (4, 32) == (4, fact.pooled)
    assert told.sequence.shape == (4, fact.length, fact.sequence)
    assert told.mask.sum(1).tolist() == [7, 5, 7, 2]
    assert told.prompt_ids.shape == (4, 12)
    assert (told.sequence[~told.mask] == 0).all()
    assert torch.equal(told.pooled[0], told.pooled[2])


def test_the_pooled_vector_is_what_the_setting_says() -> None:
    for pooling in ("sum", "mean", "last"):
        told = text(pooling=pooling).embed(batch(), DRAW)
        for i, n in enumerate((7, 5)):
            own = told.sequence[i, :n]  # type: ignore[index]
            torch.testing.assert_close(
                told.pooled[i], {"sum": own.sum(0), "mean": own.mean(0), "last": own[-1]}[pooling]
            )  # type: ignore[index]


def test_a_prompt_does_not_depend_on_the_others() -> None:
    part = text()
    together = part.embed(batch(), DRAW)
    alone = part.embed(batch(PROMPTS[1:2]), DRAW.of((1,)))
    torch.testing.assert_close(together.sequence[1:2], alone.sequence)  # type: ignore[index]
    torch.testing.assert_close(together.pooled[1:2], alone.pooled)  # type: ignore[index]


def test_order_of_words_matters() -> None:
    told = text().embed(batch(("red blue", "blue red")), DRAW.of((0, 1)))
    assert not torch.allclose(told.pooled[0], told.pooled[1])  # type: ignore[index]


def test_the_null_is_the_empty_prompt() -> None:
    part = text()
    told = part.embed(batch(), DRAW)
    assert told.null is not None
    for name in ("pooled", "sequence", "mask", "prompt_ids"):
        own, null = getattr(told, name), getattr(told.null, name)
        assert own.shape == null.shape
        assert torch.equal(own[3], null[0])
    unsaid = part.embed(replace(batch(), prompt=None), DRAW)
    torch.testing.assert_close(unsaid.pooled, told.null.pooled)
    assert text(dropout=0.0).embed(batch(), DRAW).null is None


def test_long_prompts_keep_their_end_token() -> None:
    told = text().embed(batch(("a red circle " * 20,)), DRAW.of((0,)))
    assert told.prompt_ids is not None
    assert told.mask is not None
    assert told.mask.all()
    assert told.prompt_ids[0, -1] == ids_of("")[-1]


def test_every_weight_learns() -> None:
    part = text()
    told = part.embed(batch(), DRAW)
    (told.pooled.square().sum() + told.sequence.square().sum()).backward()  # type: ignore[union-attr]
    # Keys' biases shift all scores of a query alike, so that they have no gradient.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="heads: must divide the width 30"):
        Text(CLIP, width=30, heads=4)
