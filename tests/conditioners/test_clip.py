"""The frozen CLIP conditioner, with a small model whose weights the test makes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact
from mutoscope.core.layers.bpe import ids_of
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch
from mutoscope.plugins.conditioners.clip import Clip

open_clip = pytest.importorskip("open_clip")

FACT = ClipFact(channels=3, frames=8, size=(16, 16))
PROMPTS = ("a red circle moves left", "", "a blue square", "a red circle moves left")
DRAW = Draw(0, "test", 0, (0, 1, 2, 3))
SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(configuration file, weights file, the model) of a small CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(**SMALL, output_dict=True).eval()
    (folder / "small.json").write_text(json.dumps(SMALL))
    save_file(model.state_dict(), folder / "small.safetensors")
    return folder / "small.json", folder / "small.safetensors", model


def batch(prompts=PROMPTS) -> Batch:
    return Batch(prompt=tuple(prompts), clips=tuple(range(len(prompts))))


def test_features_are_the_models_own(small) -> None:
    configuration, weights, model = small
    part = Clip(FACT, model=str(configuration), file=str(weights))
    told, fact = part.embed(batch(), DRAW), next(iter(part.facts()))
    ids = open_clip.SimpleTokenizer(context_length=16)(list(PROMPTS))
    with torch.no_grad():
        pooled = model.encode_text(ids)
        x = model.token_embedding(ids) + model.positional_embedding
        sequence = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    assert torch.equal(told.prompt_ids, ids)  # type: ignore[arg-type]
    torch.testing.assert_close(told.pooled, pooled)
    torch.testing.assert_close(told.sequence, sequence)
    assert told.mask is not None
    assert told.mask.sum(1).tolist() == [len(ids_of(prompt)) for prompt in PROMPTS]
    assert (fact.pooled, fact.sequence, fact.length, fact.vocabulary) == (24, 32, 16, 49408)
    assert told.null is not None
    assert torch.equal(told.null.pooled[0], told.pooled[1])  # type: ignore[index]


def test_features_do_not_depend_on_batch_mates_to_the_last_bit(small) -> None:
    parts = [Clip(FACT, model=str(small[0]), file=str(small[1])) for _ in range(2)]
    together, alone = parts[0].embed(batch(), DRAW), parts[1].embed(batch(PROMPTS[2:3]), DRAW.of((2,)))
    assert torch.equal(together.sequence[2], alone.sequence[0])  # type: ignore[index]
    assert torch.equal(parts[0].embed(batch(PROMPTS[2:3]), DRAW.of((2,))).sequence, alone.sequence)  # type: ignore[arg-type]


def test_it_is_frozen_and_remembers_only_its_own_weights(small) -> None:
    part = Clip(FACT, model=str(small[0]), file=str(small[1])).train()
    assert not part.tower.training
    assert not any(p.requires_grad for p in part.parameters())
    before, fingerprint = part.embed(batch(), DRAW).pooled, part.fingerprint()
    torch.manual_seed(9)
    other = Clip(FACT, model=str(small[0]))
    part.load_state_dict(other.state_dict())
    after = part.embed(batch(), DRAW).pooled
    assert not torch.allclose(before, after)  # type: ignore[arg-type]
    torch.testing.assert_close(after, other.embed(batch(), DRAW).pooled)
    assert part.fingerprint() == other.fingerprint() != fingerprint


def test_blocks_can_be_left_out(small) -> None:
    _, weights, model = small
    part = Clip(FACT, model=str(small[0]), file=str(weights), drop=1)
    ids = open_clip.SimpleTokenizer(context_length=16)(list(PROMPTS))
    with torch.no_grad():
        x = model.token_embedding(ids) + model.positional_embedding
        for block in model.transformer.resblocks[:-1]:
            x = block(x, attn_mask=model.attn_mask)
    torch.testing.assert_close(part.embed(batch(), DRAW).sequence, model.ln_final(x))
    with pytest.raises(InputError, match="allowed: 0 to 2"):
        Clip(FACT, model=str(small[0]), drop=3)


def test_files_of_the_text_tower_alone_are_read(small, tmp_path) -> None:
    part = Clip(FACT, model=str(small[0]), file=str(small[1]))
    save_file({f"text.{k}": v for k, v in part.tower.state_dict().items()}, tmp_path / "text.safetensors")
    assert Clip(FACT, model=str(small[0]), file=str(tmp_path / "text.safetensors")).fingerprint() == part.fingerprint()


def test_on_meta_only_names_and_shapes_are_looked_at(small) -> None:
    with torch.device("meta"):
        part = Clip(FACT, model=str(small[0]), file=str(small[1]))
        assert part.embed(batch(), Draw(0, "test", 0, (0, 1, 2, 3), "meta")).pooled.shape == (4, 24)  # type: ignore[union-attr]
    assert all(p.device.type == "meta" for p in part.parameters())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "VIT-B-33"}, 'unknown open_clip model; did you mean "ViT-B-32"'),
        ({"model": "missing.json"}, "no readable JSON file"),
        ({"model": "ViT-B-16-SigLIP"}, "does not have CLIP's vocabulary"),
        ({"model": "roberta-ViT-B-32", "tokenizer": "."}, "local folder"),
        ({"file": "weights.bin"}, "only .safetensors is read"),
        ({"file": "missing.safetensors"}, "no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(settings, says, small) -> None:
    with torch.device("meta"), pytest.raises(InputError) as told:
        Clip(FACT, **{"model": str(small[0]), **settings})
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_weights_of_another_model_are_refused(small, tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"something": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="has no weights"):
        Clip(FACT, model=str(small[0]), file=str(path))
    save_file({**small[2].state_dict(), "token_embedding.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(InputError, match="the model has"):
        Clip(FACT, model=str(small[0]), file=str(path))
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(InputError, match="is no safetensors file"):
        Clip(FACT, model=str(small[0]), file=str(path))
