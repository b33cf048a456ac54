"""Prompts made longer keep all that they state, whatever writes."""

from __future__ import annotations

import itertools

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example
from mutoscope.plugins.language.attributes import keeps
from mutoscope.plugins.language.expander import Expander, expanded, thinned
from mutoscope.plugins.language.hugging_face import HuggingFace
from mutoscope.plugins.language.writing import Writing
from mutoscope.plugins.world.dataset import Shapes
from mutoscope.plugins.world.language import parse
from mutoscope.plugins.world.state import COLOURS, DIRECTIONS, SHAPES, SPEEDS


def draw(clips: int, step: int = 0) -> Draw:
    return Draw(6, "expand", step, tuple(range(clips)))


def prompts() -> list[str]:
    """Every colour and shape alone, and all pairs of them with a motion; two things; bare words."""
    found = [f"a {colour} thing" for colour in COLOURS] + [f"a {shape}" for shape in SHAPES]
    for i, (colour, shape) in enumerate(itertools.product(COLOURS, SHAPES)):
        way, speed = list(DIRECTIONS)[i % 4], list(SPEEDS)[i % 2]
        found += [f"a {colour} {shape}", f"a {colour} {shape} moves {way}", f"a {colour} {shape} moves {way} {speed}"]
    return [*found, "a red circle moves left and a blue square moves up", "square moves down", "green", ""]


def lost(prompt: str, text: str) -> list[str]:
    """What a prompt states and a text does not, or contradicts, by the world's own parse."""
    asked, said = parse(prompt), parse(text)
    if len(said) < len(asked):
        return ["an object"]
    return [
        f"{name} {value}"
        for one, other in zip(asked, said, strict=False)
        for name, value in one.items()
        if other.get(name) != value
    ]


@pytest.mark.parametrize(
    ("prompt", "text", "kept"),
    [
        ("a red circle", "a red circle moves left slowly, 1 object in all", True),
        ("circle moves left", "a red circle moves left slowly", True),
        ("a red circle", "a green circle moves left", False),
        ("a red circle", "a red circle and a blue circle", False),
        ("a red circle", "a circle that is red", False),
        ("a red circle and a blue square", "a blue circle and a red square", False),
        ("a red circle and a blue square", "a red circle moves up and a blue square moves down", True),
        ("it moves left", "it moves slowly left", False),
        ("a red circle moves left", "a red circle moves right", False),
        ("", "a red circle", True),
        ("Red Circle", "the red circle", True),
    ],
)
def test_what_counts_as_kept(prompt, text, kept):
    assert keeps(prompt, text) is kept


def test_the_first_text_that_keeps_the_prompt_is_taken_and_else_the_prompt():
    ways = [lambda places: ["a blue circle", "a green square moves up"], lambda places: ["a red circle, large"]]
    assert expanded(["a red circle", "a green square"], ways, ()) == ["a red circle, large", "a green square moves up"]
    assert expanded(["a red circle"], [lambda places: ["nothing like it"]], ()) == ["a red circle"]


def test_an_untrained_expander_keeps_every_attribute():
    """By check and repair: not one of what is stated is lost, though the model knows nothing."""
    torch.manual_seed(0)
    part = Expander(width=16, depth=1, heads=2, length=40, tries=1)
    asked = prompts()
    assert [
        bad
        for prompt, text in zip(asked, part.write(asked, draw(len(asked))), strict=True)
        if (bad := lost(prompt, text))
    ] == []


def test_a_trained_expander_says_more_and_keeps_every_attribute():
    data = Shapes(frames=1, laws=("uniform",), described=1.0, clips=64)
    batch = data.batch("train", range(64))
    texts = Batch(prompt=batch.prompt, texts=batch.texts, clips=batch.clips)
    torch.manual_seed(1)
    part = Expander(width=48, depth=1, heads=2, length=36, tries=2)
    part.begin([texts])
    descent = torch.optim.Adam(part.parameters(), lr=8e-3)
    losses = []
    for step in range(70):
        loss = Writing().loss(part, Example(None, Conditioning(), texts), draw(64, step), "learner").total
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    asked = prompts()
    made = part.write(asked, draw(len(asked)))
    assert [bad for prompt, text in zip(asked, made, strict=True) if (bad := lost(prompt, text))] == []
    assert (
        sum(len(parse(t)[0]) > len(parse(p)[0]) for p, t in zip(asked, made, strict=True) if parse(p) and parse(t)) > 20
    )
    longer = sum(len(text) > len(prompt) for prompt, text in zip(asked, made, strict=True))
    assert longer > 0.8 * len(asked)
    assert made == part.write(asked, draw(len(asked)))


def test_prompts_are_thinned_word_by_word():
    assert thinned("a red circle moves", [0.9, 0.1, 0.5, 0.4], 0.45) == "a circle"
    assert thinned("a red circle", [0.0, 0.0, 0.0], 0.0) == "a red circle"


# A model of another library


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("model")
    HuggingFace.material(place)
    return place


def test_a_local_model_keeps_every_attribute(folder):
    part = HuggingFace(folder=str(folder), length=6, tries=1)
    asked = prompts()[::6]
    made = part.write(asked, draw(len(asked)))
    assert [bad for prompt, text in zip(asked, made, strict=True) if (bad := lost(prompt, text))] == []
    assert made == part.write(asked, draw(len(asked)))
    assert not list(part.parameters())  # its weights stay in their folder
    assert any(text != prompt for prompt, text in zip(asked, made, strict=True))


def test_it_writes_what_the_library_writes(folder):
    transformers = pytest.importorskip("transformers")
    part = HuggingFace(folder=str(folder), length=6, temperature=0.0)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("a red circle", return_tensors="pt")
    with torch.no_grad():
        wanted = model.generate(**ids, do_sample=False, max_new_tokens=6, pad_token_id=0)[
            0, ids["input_ids"].shape[1] :
        ]
    text = tokenizer.decode(wanted, skip_special_tokens=True).strip().partition("\n")[0].strip()
    assert part("a red circle", 0, "cpu") == text


def test_pickled_and_missing_models_are_refused_in_one_line(folder, tmp_path):
    with pytest.raises(InputError, match="no local folder"):
        HuggingFace(folder=str(tmp_path / "nothing"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="cannot be read") as refused:
        HuggingFace(folder=str(tmp_path)).write(["a red circle"], draw(1))
    assert "\n" not in str(refused.value)
