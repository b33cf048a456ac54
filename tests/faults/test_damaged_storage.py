"""Checkpoints that are damaged or made up: refused whole, by the file's name, within little memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import InputError, WorkError
from mutoscope.core.storage import atomic, checkpoint, weights
from mutoscope.core.storage.checkpoint import MANIFEST, listed, newest, prune, read_checkpoint, write_checkpoint
from mutoscope.core.storage.weights import load_tensors, save_tensors
from mutoscope.core.training.provenance import peak_memory, reset_peak_memory
from mutoscope.registry.runs import load


def contents(scale: int = 1) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model": {
            "denoiser.weight": torch.randn(3 * scale, 5, generator=generator),
            "denoiser.bias": torch.randn(5, generator=generator),
            "count": torch.tensor(7),
        },
        "average": {"denoiser.weight": torch.randn(3 * scale, 5, generator=generator)},
        "empty": {},
    }


def written(folder: Path, step: int = 3) -> Path:
    return write_checkpoint(folder, step, contents(), {"step": step, "rate": 0.1}, {"seed": 0})


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return written(tmp_path / "good")


def test_what_is_written_is_read_to_the_bit(good: Path):
    parts, state = read_checkpoint(good)
    assert state == {"step": 3, "rate": 0.1}
    for part, tensors in contents().items():
        assert parts[part].keys() == tensors.keys()
        assert all(torch.equal(parts[part][name], tensor) for name, tensor in tensors.items())


# Damage to a checkpoint


def flipped(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def longer(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes() + bytes([0, 10, 32, 125, 255][: chance.randint(1, 5)]))


def zeroed(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    at = chance.randrange(len(content))
    chunk = bytes(min(chance.choice([1, 8, 64]), len(content) - at))
    if content[at : at + len(chunk)] == chunk:
        content[at] = 1
    else:
        content[at : at + len(chunk)] = chunk
    file.write_bytes(content)


def gone(file: Path, chance: random.Random) -> None:
    file.unlink()


def swapped(file: Path, chance: random.Random) -> None:
    """For another file of the checkpoint."""
    other = chance.choice([one for one in sorted(file.parent.iterdir()) if one != file])
    shutil.copyfile(other, file)


def linked(file: Path, chance: random.Random) -> None:
    """For a link to the same content elsewhere."""
    away = file.parent.parent / f"away-{file.name}"
    shutil.copyfile(file, away)
    file.unlink()
    file.symlink_to(away)


def added(file: Path, chance: random.Random) -> None:
    (file.parent / chance.choice(["more.safetensors", "pickle.pt", ".hidden"])).write_bytes(b"x")


DAMAGES = (flipped, flipped, flipped, flipped, cut, cut, longer, zeroed, gone, swapped, linked, added)

# Headers that no safetensors file should have, in checkpoints whose hashes are right


def header_of(file: Path) -> tuple[dict, bytes]:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(file: Path, header: bytes, data: bytes, length: int | None = None) -> None:
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def made_up(file: Path, chance: random.Random) -> None:
    """One thing wrong in the header."""
    header, data = header_of(file)
    name = chance.choice(sorted(header.keys() - {"__metadata__"}))
    entry = header[name]
    begin, end = entry["data_offsets"]
    text: bytes | None = None
    length = None

    def offsets(new: list) -> None:
        entry["data_offsets"] = new

    match chance.randrange(23):
        case 0:
            length = chance.choice([1 << 62, 1 << 40, 1 << 31, 100_000_001, (1 << 64) - 1, 0, 1])
        case 1:
            offsets([begin, end + 4])
        case 2:
            offsets([begin + 4, end + 4])
        case 3:
            offsets([0, len(data) - 4])
        case 4:
            offsets([end, begin] if begin != end else [begin, end + 1])
        case 5:
            offsets([-4, end])
        case 6:
            offsets([begin, 1 << 63])
        case 7:
            offsets([float(begin), float(end) + 0.5])
        case 8:
            entry["shape"] = [1 << 40, 1 << 40]
        case 9:
            entry["shape"] = [*entry["shape"], -1]
        case 10:
            entry["shape"] = [*entry["shape"], 2]
        case 11:
            entry["shape"] = "3"
        case 12:
            entry["dtype"] = chance.choice(["F33", "f32", "", "U8" if entry["dtype"] != "U8" else "I64", "OBJECT"])
        case 13:
            header[name + "2"] = header.pop(name)
        case 14:
            header[name + "2"] = dict(entry)
        case 15:
            text = json.dumps(header).encode().replace(b'"dtype"', b'"dtype": "F64", "dtype"', 1)
        case 16:
            text = b'{"%s": %s, ' % (name.encode(), json.dumps(entry).encode()) + json.dumps(header).encode()[1:]
        case 17:
            entry["dtype"] = ["F32"]
        case 18:
            header[name] = chance.choice([None, 3, [], "x", {"dtype": "F32"}])
        case 19:
            text = chance.choice([b"[" * 5000, b"[]", b"null", b'"' + b"x" * 90, b"{" * 200, b"\xff\xfe{}", b""])
        case 20:
            entry["more"] = 1
        case 21:
            data = data + b"\0" * chance.choice([1, 8, 1000])
        case 22:  # a border between two tensors, so that they still fill the file
            border = next((e["data_offsets"] for e in header.values() if e["data_offsets"][0] == end), None)
            offsets([begin, end + 4])
            if border is not None:
                border[0] += 4
    put(file, json.dumps(header).encode() if text is None else text, data, length)


def sealed_again(folder: Path) -> None:
    """Hashes and seal as whoever wrote the file would have made them."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["seal"] = checkpoint.UNSEALED
    (folder / MANIFEST).write_text(checkpoint._sealed(checkpoint._as_text(manifest)))


def manifest_made_up(folder: Path, chance: random.Random) -> None:
    """One thing wrong in what a sealed manifest says."""
    manifest = json.loads((folder / MANIFEST).read_text())
    tensors = manifest["tensors"]
    match chance.randrange(12):
        case 0:
            manifest["format"] = chance.choice([0, 3, "2", None, [2], 1e400])
        case 1:
            manifest["step"] = chance.choice([4, -3, 10**9])
        case 2:
            tensors["model"]["count"] = [[2], "torch.int64"]
        case 3:
            tensors["model"]["count"] = [[], "torch.float64"]
        case 4:
            tensors["model"]["other"] = tensors["model"].pop("count")
        case 5:
            tensors["more"] = {"x": [[1], "torch.float32"]}
        case 6:
            del tensors["average"]
        case 7:
            manifest["tensors"] = chance.choice([None, [], 3, {"model": 3}, {"model": {"count": 3}}])
        case 8:
            manifest["files"]["../state.json"] = manifest["files"].pop("state.json")
        case 9:
            manifest["files"] = chance.choice([None, [], {}, {"state.json": 3}])
        case 10:
            tensors["model"]["count"] = [[], "os.system"]
        case 11:
            del manifest[chance.choice(["format", "step", "files", "tensors"])]
    manifest["seal"] = checkpoint.UNSEALED
    (folder / MANIFEST).write_text(checkpoint._sealed(json.dumps(manifest, indent=1) + "\n"))


def test_a_thousand_damaged_checkpoints(tmp_path: Path, trials: Callable, monkeypatch: pytest.MonkeyPatch):
    """All refused as an InputError of one line that names a file, before any tensor is loaded."""
    loaded: list[Path] = []
    monkeypatch.setattr(weights, "load_file", lambda path, **more: loaded.append(path))
    whole, chance = written(tmp_path / "whole"), random.Random(0)
    with trials("damaged and made-up checkpoints", least=1000) as tally:
        for trial in range(1000):
            folder = tmp_path / f"{trial}" / whole.name
            shutil.copytree(whole, folder)
            kind = trial % 10
            if kind < 6:
                damage = chance.choice(DAMAGES)
                damage(chance.choice(sorted(folder.iterdir())), chance)
                what = damage.__name__
            elif kind < 9:
                made_up(folder / chance.choice(["model.safetensors", "average.safetensors"]), chance)
                sealed_again(folder)
                what = "made_up"
            else:
                manifest_made_up(folder, chance)
                what = "manifest"
            tally.tried(_accepted(folder, f"trial {trial}, {what}"))
            shutil.rmtree(folder.parent)
    assert not loaded, "a tensor was loaded of a checkpoint that was then refused"


def _accepted(folder: Path, what: str) -> str:
    """What is wrong with how a damaged checkpoint is taken; empty where it is refused as it should."""
    try:
        read_checkpoint(folder)
    except InputError as error:
        said = str(error)
        return "" if str(folder) in said and "\n" not in said and len(said) < 500 else f"{what}: said {said!r}"
    except Exception as error:
        return f"{what}: {type(error).__name__}: {error}"
    return f"{what}: was loaded"


def test_damaged_weights_of_a_part(tmp_path: Path, trials: Callable):
    """Safetensors files without a manifest: whatever can be seen without a hash."""
    file, chance = tmp_path / "part.safetensors", random.Random(1)
    save_tensors(file, contents()["model"])
    content = file.read_bytes()
    expected = {n: (tuple(t.shape), weights.DTYPES[str(t.dtype)]) for n, t in contents()["model"].items()}
    with trials("damaged and made-up safetensors files", seed=1) as tally:
        for trial in range(300):
            file.write_bytes(content)
            (made_up, cut, longer)[trial % 3](file, chance)
            try:
                load_tensors(file, expected)
            except InputError as error:
                tally.tried("" if str(file) in str(error) else f"trial {trial}: said {error}")
            except Exception as error:
                tally.tried(f"trial {trial}: {type(error).__name__}: {error}")
            else:
                tally.tried(f"trial {trial}: was loaded")


def test_no_more_memory_than_twice_the_file(tmp_path: Path, trials: Callable):
    """Of 32 MB: read whole, or refused with a header of two megabytes that a parser would make much of."""
    tensors = {"model": {"weight": torch.zeros(8 << 20)}}
    folder = write_checkpoint(tmp_path, 1, tensors, {})
    del tensors
    file = folder / "model.safetensors"
    size = file.stat().st_size
    whole = file.read_bytes()
    headers = [
        b"{" + b'"a":[' * 300 + b" " * (2 << 20),
        b"[" + b"[],    " * 290_000 + b"[]]",
        b"[" + b"[]," * 690_000 + b"[]]",
    ]
    cases: list[Callable[[], object]] = [lambda: read_checkpoint(folder)]

    def hostile(header: bytes) -> Callable[[], object]:
        def read() -> object:
            file.write_bytes(struct.pack("<Q", len(header)) + header + whole[: size - 8 - len(header)])
            return _accepted(folder, "") or load_tensors(file)

        return read

    cases += [hostile(header) for header in headers]
    with trials("memory of reading, at most twice the file") as tally:
        for i, case in enumerate(cases):
            reset_peak_memory()
            before = peak_memory("cpu")
            if i == 0:
                case()
            else:
                with pytest.raises(InputError):
                    case()
            spent = peak_memory("cpu") - before
            tally.tried("" if spent < 2 * size else f"case {i}: {spent:,} bytes for a file of {size:,}")


# The one before is offered


def test_the_newest_that_verifies_is_found(tmp_path: Path):
    for step in (1, 2, 3):
        written(tmp_path, step)
    file = tmp_path / "step-00000003" / "model.safetensors"
    flipped(file, random.Random(0))
    said: list[str] = []
    assert newest(tmp_path, said.append) == tmp_path / "step-00000002"
    assert len(said) == 1
    assert str(file) in said[0]
    shutil.move(tmp_path / "step-00000001", tmp_path / "step-00000009")
    assert newest(tmp_path, said.append) == tmp_path / "step-00000002", "a checkpoint under another's name"
    assert "is of step 1" in said[-2]


def test_a_run_whose_newest_checkpoint_is_damaged_says_so(a_run: Path):
    """The one before samples, and that is told; without any, the run is refused by the file's name."""
    older, newer = listed(a_run / "checkpoints")
    flipped(newer / "model.safetensors", random.Random(0))
    loaded = load(a_run, "cpu")
    assert loaded.step == int(older.name[5:])
    assert len(loaded.notes) == 1
    assert str(newer / "model.safetensors") in loaded.notes[0]
    flipped(older / "state.json", random.Random(0))
    with pytest.raises(InputError, match=r"no checkpoint yet .*not as it was written"):
        load(a_run, "cpu")


def test_an_older_checkpoint_is_deleted_only_once_a_newer_one_verifies(tmp_path: Path):
    for step in (1, 2, 3, 4):
        written(tmp_path, step)
    cut(tmp_path / "step-00000004" / "state.json", random.Random(0))
    with pytest.raises(InputError, match=r"state\.json"):
        prune(tmp_path, 2)
    assert len(listed(tmp_path)) == 4
    shutil.rmtree(tmp_path / "step-00000004")
    prune(tmp_path, 2)
    assert [p.name for p in listed(tmp_path)] == ["step-00000002", "step-00000003"]


def test_a_checkpoint_of_the_format_before_is_read(good: Path):
    manifest = json.loads((good / MANIFEST).read_text())
    del manifest["seal"]
    (good / MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    assert read_checkpoint(good)[1]["step"] == 3


# Space, modes, order


def test_free_space_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(WorkError, match=r"needs 177 bytes and 100 are free"):
        written(tmp_path, 4)  # 15 + 5 + 15 floats and an integer, and a fifth more
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]
    assert newest(tmp_path) == tmp_path / "step-00000003"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_the_umask(mask: int, tmp_path: Path):
    before = os.umask(mask)
    try:
        path = written(tmp_path / "c")
        atomic.write_json(tmp_path / "run.json", {})
    finally:
        os.umask(before)
    for file in [*path.iterdir(), tmp_path / "run.json"]:
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask, file
    assert path.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """(what, the name of what it was done to, its size then) of every flush and rename."""
    recorded: list[tuple[str, str, int]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def flush(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        recorded.append(("flush", path.name, path.stat().st_size if path.is_file() else -1))
        fsync(handle)

    def renamed(to: Callable) -> Callable:
        def record(old: Path, new: Path) -> None:
            recorded.append(("rename", f"{Path(old).name} {Path(new).name}", -1))
            to(old, new)

        return record

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", renamed(rename))
    monkeypatch.setattr(os, "replace", renamed(replace))
    return recorded


def test_a_checkpoint_is_written_flushed_renamed_flushed(tmp_path: Path, calls: list):
    """A killed process cannot show this, since what it wrote stays in the system's memory: so the order is recorded."""
    path = written(tmp_path / "checkpoints")
    folder = calls[-2][1].split()[0]
    size = {file.name: file.stat().st_size for file in path.iterdir()}
    assert calls == [
        *(("flush", name, size[name]) for name in ("model.safetensors", "average.safetensors", "state.json")),
        ("flush", MANIFEST, size[MANIFEST]),
        ("flush", folder, -1),
        ("rename", f"{folder} {path.name}", -1),
        ("flush", "checkpoints", -1),
    ]
    assert folder.startswith(atomic.TEMPORARY)


def test_a_file_is_written_flushed_renamed_flushed(tmp_path: Path, calls: list):
    atomic.write_text(tmp_path / "run.json", "whole")
    temporary = calls[0][1]
    assert calls == [
        ("flush", temporary, 5),
        ("rename", f"{temporary} run.json", -1),
        ("flush", tmp_path.name, -1),
    ]


def test_a_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without it a folder is no checkpoint; with it every other file is there and flushed."""
    there: list[set[str]] = []
    original = checkpoint._write_text

    def look(path: Path, text: str) -> None:
        there.append({file.name for file in path.parent.iterdir()})
        original(path, text)

    monkeypatch.setattr(checkpoint, "_write_text", look)
    written(tmp_path)
    assert there[-1] == {"model.safetensors", "average.safetensors", "state.json"}
