"""Files: whole or not at all; a journal without a line lost or twice; the lock; tensors to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import InputError, RunInUse, WorkError
from mutoscope.core.storage import atomic
from mutoscope.core.storage.atomic import clean, make_folder, need_space, whole_folder, write_bytes, write_json
from mutoscope.core.storage.failpoints import arm
from mutoscope.core.storage.journal import Journal, read_journal
from mutoscope.core.storage.lock import RunLock, holder
from mutoscope.core.storage.weights import DTYPES, load_tensors, read_header, save_tensors


@pytest.fixture(autouse=True)
def unarmed():
    yield
    arm("")


# Writes


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path):
    file = tmp_path / "a" / "run.json"
    write_json(file, {"x": 1})
    for point in ("atomic.before_flush", "atomic.before_rename"):
        for fault, error in (("enospc", WorkError), ("eio", WorkError), ("raise", RuntimeError)):
            arm(f"{point}:{fault}")
            with pytest.raises(error):
                write_json(file, {"x": 2})
            assert json.loads(file.read_text()) == {"x": 1}
            assert [p.name for p in file.parent.iterdir()] == ["run.json"]
    write_json(file, {"x": 2})
    assert json.loads(file.read_text()) == {"x": 2}


@pytest.mark.parametrize("inner", ["file/x.json", "file/deeper/x.json"])
def test_a_parent_that_is_a_file_is_one_line(inner: str, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkError, match="could not be written") as told:
        write_bytes(tmp_path / inner, b"x")
    assert "\n" not in str(told.value)
    with pytest.raises(WorkError, match="could not be written"), whole_folder(tmp_path / inner):
        pass
    with pytest.raises(WorkError, match="cannot be made"):
        make_folder(tmp_path / inner)
    assert (tmp_path / "file").read_text() == "mine"


def test_json_has_no_infinities(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    place = tmp_path / "step"
    with pytest.raises(KeyError), whole_folder(place) as folder:  # noqa: PT012
        (folder / "a").write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with whole_folder(place) as folder:
        (folder / "a").write_text("one")
        assert not place.exists()
    with whole_folder(place) as folder:
        (folder / "a").write_text("two")
        assert (place / "a").read_text() == "one"
    assert (place / "a").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["step"]


def test_two_that_put_a_folder_in_one_place_both_end_well(tmp_path: Path):
    """As two runs do that keep the same finished phase."""
    place = tmp_path / "phase"
    with whole_folder(place) as mine:
        (mine / "a").write_text("mine")
        with whole_folder(place) as other:
            (other / "a").write_text("other")
    assert (place / "a").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["phase"]


def test_what_is_left_is_cleaned(tmp_path: Path):
    (tmp_path / ".tmp-step-1").mkdir()
    (tmp_path / ".tmp-step-1" / "model.safetensors").write_text("half")
    (tmp_path / ".tmp-run.json-2").write_text("half")
    (tmp_path / "run.json").write_text("{}")
    assert clean(tmp_path) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert clean(tmp_path / "nowhere") == 0


def test_space_is_needed_and_a_fifth_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 1200})
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage)
    need_space(tmp_path, 1000)
    with pytest.raises(WorkError, match=r"needs 1,201 bytes and 1,200 are free"):
        need_space(tmp_path, 1001)


# Journal


def test_a_journal_loses_and_repeats_no_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with Journal(path, 0) as journal:
        for step in range(1, 6):
            journal.append({"global_step": step, "loss": step / 3})
    with open(path, "ab") as file:
        file.write(b'{"global_step": 6, "lo')  # a kill in the middle of a line
    with Journal(path, 3) as journal:
        assert [r["global_step"] for r in read_journal(path)] == [1, 2, 3]
        journal.append({"global_step": 4, "loss": 0.1})
    records = read_journal(path)
    assert [r["global_step"] for r in records] == [1, 2, 3, 4]
    assert records[0]["loss"] == 1 / 3, "floats keep their bits"


def test_a_journal_that_needs_no_change_is_not_written(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with Journal(path, 0) as journal:
        journal.append({"global_step": 1})
    before = path.stat()
    with Journal(path, 1):
        pass
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_journal_says_what_is_not_finite_in_words(tmp_path: Path):
    with Journal(tmp_path / "m.jsonl", 0) as journal:
        journal.append({"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1})
    assert read_journal(tmp_path / "m.jsonl") == [{"a": "nan", "b": "inf", "c": "-inf", "d": 1}]


def test_lines_that_are_no_records_are_left_out(tmp_path: Path):
    (tmp_path / "m.jsonl").write_bytes(b'{"a": 1}\n[1]\n\xff\n\n3\n{"a": 2}\n' + b"[" * 100_000 + b"\n")
    assert read_journal(tmp_path / "m.jsonl") == [{"a": 1}, {"a": 2}]


# Lock


def test_a_folder_is_locked_once(tmp_path: Path):
    assert holder(tmp_path) is None
    with RunLock(tmp_path):
        with pytest.raises(RunInUse, match=f"process {os.getpid()} on ") as told, RunLock(tmp_path):
            pass
        assert told.value.exit_code == 3
    with RunLock(tmp_path):
        pass


# Tensors


@pytest.mark.parametrize("dtype", [name for name in DTYPES if "complex" not in name])
def test_tensors_keep_their_bits(dtype: str, tmp_path: Path):
    kind = getattr(torch, dtype.removeprefix("torch."))
    values = torch.arange(12).reshape(3, 4).to(torch.float32).to(kind)
    tensors = {"a": values, "scalar": values[0, 1].clone(), "strided": values.t(), "empty": values[:0]}
    save_tensors(tmp_path / "x.safetensors", tensors)
    loaded = load_tensors(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        assert loaded[name].dtype == kind
        assert torch.equal(loaded[name].view(torch.uint8).flatten() if loaded[name].ndim else loaded[name],
                           tensor.contiguous().view(torch.uint8).flatten() if tensor.ndim else tensor)  # fmt: skip
    assert read_header(tmp_path / "x.safetensors")["a"]["dtype"] == DTYPES[dtype]


def test_tensors_that_share_memory_are_written_one_by_one(tmp_path: Path):
    weight = torch.randn(4, 4)
    save_tensors(tmp_path / "x.safetensors", {"a": weight, "tied": weight, "part": weight[:2]})
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert torch.equal(loaded["a"], loaded["tied"])
    assert torch.equal(loaded["part"], weight[:2])


def test_expected_names_shapes_and_types_are_asked_for(tmp_path: Path):
    file = tmp_path / "x.safetensors"
    save_tensors(file, {"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.int64)})
    right = {"a": ((2, 3), "F32"), "b": ((1,), "I64")}
    assert load_tensors(file, right).keys() == right.keys()
    for wrong, said in (
        ({**right, "a": ((3, 2), "F32")}, r"'a' is \(2, 3\) F32; \(3, 2\) F32 is expected"),
        ({**right, "b": ((1,), "I32")}, r"'b' is \(1,\) I64; \(1,\) I32 is expected"),
        ({"a": right["a"]}, r"'b' is \(1,\) I64; nothing is expected"),
        ({**right, "c": ((), "F32")}, r"'c' is nothing; \(\) F32 is expected"),
    ):
        with pytest.raises(InputError, match=said):
            load_tensors(file, wrong)
