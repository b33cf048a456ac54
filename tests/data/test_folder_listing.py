"""What a folder says of its files: captions, labels, actions, splits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import DataError, InputError
from mutoscope.plugins.data.folder import Folder
from mutoscope.plugins.data.listing import list_folder, share_of


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(root: Path, held: tuple[float, float] = (0.0, 0.0)):
    return {entry.name: entry for entry in list_folder(root, True, held)}


# Files and captions


def test_what_counts_as_a_clip(tmp_path):
    touch(tmp_path, "a.mp4", "B.MOV", "deep/er/c.webm", "d.gif", "e.jpeg", "notes.md", ".hidden.mp4", ".git/x.mp4")
    touch(tmp_path, *[f"walk/{n:03}.png" for n in range(5)], *[f"cats/{n}.jpg" for n in (17, 391895, 520)])
    touch(tmp_path, *[f"train/{n}.png" for n in range(3)])
    assert sorted(listed(tmp_path)) == sorted(
        name
        for name in (
            "a.mp4",
            "B.MOV",
            "deep/er/c.webm",
            "d.gif",
            "e.jpeg",
            "walk",
            "cats/17.jpg",
            "cats/391895.jpg",
            "cats/520.jpg",
            "train/0.png",
            "train/1.png",
            "train/2.png",
        )
    )


def test_captions_beside_files(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "v1.2/0.png", "v1.2/1.png")
    (tmp_path / "a.txt").write_text("  a dog\n runs ")
    (tmp_path / "v1.2.txt").write_text("a walk")
    assert {name: entry.caption for name, entry in listed(tmp_path).items()} == {
        "a.mp4": "a dog runs", "b.mp4": None, "v1.2": "a walk",
    }  # fmt: skip


def test_metadata_of_both_kinds_says_the_same(tmp_path):
    for kind in ("jsonl", "csv"):
        touch(tmp_path / kind, "a.mp4", "train/b.mp4")
    (tmp_path / "jsonl" / "metadata.jsonl").write_text(
        '{"file_name": "a.mp4", "caption": "a \\"dog\\", é", "label": 3, "actions": [0, 2], "split": "val", "x": 1}\n'
        '\n{"file_name": "train/b.mp4", "label": 0, "actions": [1]}\n',
        encoding="utf-8",
    )
    (tmp_path / "csv" / "metadata.csv").write_text(
        'file_name,caption,label,actions,split\na.mp4,"a ""dog"", é",3,0 2,val\ntrain/b.mp4,,0,1,\n', encoding="utf-8"
    )
    for kind in ("jsonl", "csv"):
        found = listed(tmp_path / kind)
        a, b = found["a.mp4"], found["train/b.mp4"]
        assert (a.caption, a.label, a.actions, a.split) == ('a "dog", é', 3, (0, 2), "validation")
        assert (b.caption, b.label, b.actions, b.split) == (None, 0, (1,), "train")


def test_metadata_in_the_subfolder_of_a_split(tmp_path):
    touch(tmp_path, "train/a.mp4", "test/a.mp4")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a.mp4", "caption": "one"}')
    (tmp_path / "test" / "metadata.csv").write_text("file_name,caption\na.mp4,other\n")
    found = listed(tmp_path)
    assert {(e.split, e.caption) for e in found.values()} == {("train", "one"), ("test", "other")}


# Splits


def test_splits_by_a_hash_of_the_name_are_stable_and_of_the_share():
    names = [f"clips/{n}.mp4" for n in range(20000)]
    count = Counter(share_of(name, (0.1, 0.05)) for name in names)
    assert abs(count["validation"] - 2000) < 4 * (20000 * 0.1 * 0.9) ** 0.5
    assert abs(count["test"] - 1000) < 4 * (20000 * 0.05 * 0.95) ** 0.5
    assert [share_of(f"{n}.mp4", (0.3, 0.3)) for n in range(6)] == [share_of(f"{n}.mp4", (0.3, 0.3)) for n in range(6)]
    # A larger share takes more files, and gives none back.
    small = {n for n in names if share_of(n, (0.1, 0.0)) == "validation"}
    assert small < {n for n in names if share_of(n, (0.2, 0.0)) == "validation"}


def test_told_splits_leave_the_rest_to_training(tmp_path):
    touch(tmp_path, *[f"{n}.mp4" for n in range(20)], "valid/x.mp4", "dev/y.mp4", "test/z.mp4")
    count = Counter(entry.split for entry in listed(tmp_path, (0.5, 0.4)).values())
    assert count == {"train": 20, "validation": 2, "test": 1}


# What is wrong


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metadata.jsonl", '{"file_name": "a.mp4"}\n{"file_name": ', "metadata.jsonl:2: is not JSON: Expecting value"),
        ("metadata.jsonl", "[1]", "metadata.jsonl:1: must be an object with file_name; got [1]"),
        ("metadata.jsonl", '{"filename": "a.mp4"}', 'metadata.jsonl:1: has no file_name; did you mean "filename"?'),
        ("metadata.jsonl", '\n{"file_name": "b.mp4"}', 'jsonl:2: there is no file "b.mp4"; did you mean "a.mp4"?'),
        ("metadata.jsonl", '{"file_name": "../a.mp4"}', "jsonl:1: file_name must be a path within the folder"),
        ("metadata.jsonl", '{"file_name": "/etc/passwd"}', "jsonl:1: file_name must be a path within the folder"),
        ("metadata.jsonl", '{"file_name": 3}', "metadata.jsonl:1: file_name must be a text; got 3"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "caption": ["x"]}', "metadata.jsonl:1: caption must be a text"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "label": -1}', "metadata.jsonl:1: label must be a whole number"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "label": 1.5}', "metadata.jsonl:1: label must be a whole number"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "actions": "up"}', "jsonl:1: actions must be whole numbers"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "split": "tset"}', "split; got 'tset'; did you mean \"test\"?"),
        ("metadata.jsonl", '{"file_name": "a.mp4"}\n{"file_name": "./a.mp4"}', "jsonl:2: a.mp4 is named before, in"),
        ("metadata.jsonl", b'{"file_name": "a.mp4"}\n\xff', "metadata.jsonl:2: is not a text in UTF-8"),
        ("metadata.jsonl", "[" * 100000, "metadata.jsonl:1: is not JSON"),
        ("metadata.csv", "caption\nx\n", "metadata.csv:1: has no column file_name"),
        ("metadata.csv", "file_name,caption\na.mp4,x,y\n", "metadata.csv:2: has 3 values for 2 columns"),
        ("metadata.csv", 'file_name\n"a.mp4\n', "metadata.csv:"),
        ("metadata.csv", "file_name,actions\na.mp4,1 two\n", "metadata.csv:2: actions must be whole numbers"),
        ("a.txt", b"\xff\xfe", "a.txt: is not a text in UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_file_and_line(tmp_path, name, text, said):
    touch(tmp_path, "a.mp4")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as wrong:
        listed(tmp_path)
    assert said in str(wrong.value)
    assert str(wrong.value).startswith(str(tmp_path / name))
    assert "\n" not in str(wrong.value)
    assert len(str(wrong.value)) < 500


def test_labels_and_actions_are_for_all_or_none(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    metadata = tmp_path / "metadata.jsonl"
    metadata.write_text('{"file_name": "a.mp4", "label": 1}')
    with pytest.raises(DataError, match=r"b.mp4 has no label, and others have one \(.*metadata.jsonl:1\)"):
        listed(tmp_path)
    metadata.write_text('{"file_name": "a.mp4", "label": 1}\n{"file_name": "b.mp4", "label": "cat"}')
    with pytest.raises(DataError, match=r"metadata.jsonl:1 and .*metadata.jsonl:2: labels must be all numbers or all"):
        listed(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name\n")
    with pytest.raises(DataError, match=r"holds both metadata.jsonl and metadata.csv"):
        listed(tmp_path)


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="path is missing"):
        Folder()
    with pytest.raises(InputError, match="there is no such folder"):
        Folder(path=str(tmp_path / "none"))
    touch(tmp_path, "a.mp4")
    with pytest.raises(InputError, match="is a file, not a folder"):
        Folder(path=str(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match="held: leaves nothing to train on"):
        Folder(path=str(tmp_path), held=(0.5, 0.5))
    with pytest.raises(DataError, match="holds no video and no image"):
        Folder(path=str(Path(__file__).parent / ".."/ "data"))  # fmt: skip


# In the dataset


def test_labels_actions_and_captions_reach_the_batch(tmp_path, make, open_folder):
    lines = []
    for n, label in enumerate(["dog", "cat", "dog"]):
        make.video(tmp_path / f"{n}.mp4", frames=12)
        actions = [(n + t) % 4 for t in range(12)]
        lines.append({"file_name": f"{n}.mp4", "label": label, "actions": actions, "caption": f"a {label}"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_folder(tmp_path, frames=4, fps=8, start="centre")
    (fact,) = dataset.facts()
    assert (fact.classes, fact.actions, fact.captions, fact.frames, fact.size) == (2, 4, True, 4, (34, 50))
    batch = dataset.batch("train", [2, 0])
    assert batch.label.tolist() == [1, 1]
    assert dataset.report()["labels"] == {"cat": 0, "dog": 1}
    assert batch.prompt == ("a dog", "a dog")
    for i, n in enumerate((2, 0)):
        shown = make.levels(batch.video[i])
        assert torch.equal(batch.actions[i], torch.tensor([(n + t) % 4 for t in shown]))
    lines[1]["actions"] = [0]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    wrong = open_folder(tmp_path).report()["skipped"]
    assert wrong == [{"file": "1.mp4", "reason": "has 1 actions for 12 frames"}]


def test_captions_are_published_where_there_is_one(tmp_path, make, open_folder):
    for name in "ab":
        make.video(tmp_path / f"{name}.mp4", frames=12)
    dataset = open_folder(tmp_path)
    assert not next(iter(dataset.facts())).captions
    assert dataset.batch("train", [0]).prompt is None
    (tmp_path / "a.txt").write_text("one")
    dataset = open_folder(tmp_path)
    assert next(iter(dataset.facts())).captions
    assert dataset.batch("train", [0, 1]).prompt == ("one", "")


def test_splits_without_clips(tmp_path, make, open_folder):
    make.video(tmp_path / "train" / "a.mp4")
    dataset = open_folder(tmp_path)
    assert dataset.splits() == ("train", "validation", "test")
    with pytest.raises(DataError, match="the test split has no clips: zero batches"):
        dataset.length("test")
    with pytest.raises(InputError, match='did you mean "train"'):
        dataset.length("trian")
    with pytest.raises(DataError, match="has clips 0 to 0"):
        dataset.batch("train", [1])
    with pytest.raises(
        DataError, match=r"none of 1 file gives a clip: train/a.mp4: lasts 1.00 s, a clip more than 4.00"
    ):
        open_folder(tmp_path, frames=33, fps=8).length("train")
