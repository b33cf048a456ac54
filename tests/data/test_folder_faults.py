"""What is wrong with files is found, told and survived."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mutoscope.core.errors import DataError
from mutoscope.plugins.data import decoder, workers
from mutoscope.plugins.data.workers import Broken, Pool


def reasons(dataset) -> dict[str, str]:
    return {told["file"]: told["reason"] for told in dataset.report()["skipped"]}


# Broken files


@pytest.fixture(scope="module")
def ward(tmp_path_factory, make) -> Path:
    """Two good files among one of each kind of broken ones."""
    folder = tmp_path_factory.mktemp("ward")
    whole = make.video(folder / "good.mp4", inner={"g": "8"}).read_bytes()
    fast = make.video(folder / "good2.mp4", options={"movflags": "faststart"}).read_bytes()
    webm = make.video(folder / "x.webm", codec="libvpx-vp9", inner={"deadline": "realtime", "cpu-used": "8"})
    (folder / "cut.webm").write_bytes(webm.read_bytes()[: webm.stat().st_size // 2])
    webm.unlink()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "zeros.mp4").write_bytes(bytes(4000))
    (folder / "text.mp4").write_text("This is not a video.\n")
    (folder / "cut_index.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "cut_data.mp4").write_bytes(fast[: len(fast) * 3 // 4])
    (folder / "zeroed.mp4").write_bytes(fast[:-400] + bytes(300) + fast[-100:])
    make.sound(folder / "sound.mp4")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\ngood.mp4\n")
    (folder / "concat.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    for n in (0, 1, 2, 4, 5):
        make.image(folder / "gap" / f"{n}.png", make.picture(n))
    for n in range(4):
        make.image(folder / "sizes" / f"{n}.png", make.picture(n, (34, 50 + 2 * (n == 2))))
    half = make.image(folder / "half.png", make.picture(1, (64, 64))).read_bytes()
    (folder / "half.png").write_bytes(half[: len(half) * 2 // 3])
    half = make.image(folder / "half.jpg", make.picture(1, (64, 64))).read_bytes()
    (folder / "half.jpg").write_bytes(half[:-40])
    (folder / "unreadable.mp4").symlink_to(folder / "nowhere.mp4")
    return folder


EXPECTED = {
    "cut.webm": ("damaged: File ended prematurely", "cut short"),
    "empty.mp4": ("is empty",),
    "zeros.mp4": ("is not a video or image of a known kind",),
    "text.mp4": ("is not a video or image of a known kind",),
    "cut_index.mp4": ("cannot be decoded: Invalid data",),
    "cut_data.mp4": ("cannot be decoded: Invalid data", "wrong count"),
    "zeroed.mp4": ("cannot be decoded: Invalid data",),
    "sound.mp4": ("has no video, only sound",),
    "playlist.mp4": ("is not a video or image of a known kind",),
    "concat.mp4": ("is not a video or image of a known kind",),
    "gap": ("frame 3 is missing",),
    "sizes": ("2.png is of 34 x 52, the frames before it of 34 x 50",),
    "half.png": ("cannot be decoded", "half.png is damaged"),
    "half.jpg": ("cut short: its end mark is missing",),
    "unreadable.mp4": ("cannot be read: No such file or directory",),
}


def test_every_broken_file_is_named_with_its_reason(ward, open_folder):
    dataset = open_folder(ward, workers=2)
    found = reasons(dataset)
    assert set(found) == set(EXPECTED)
    for name, said in EXPECTED.items():
        assert found[name].startswith(said), f"{name}: {found[name]}"
    assert dataset.length("train") == 2
    assert [clip.entry.name for clip in dataset.contents.clips["train"]] == ["good.mp4", "good2.mp4"]
    note = dataset.report()["note"]
    assert "15 of 17 files skipped" in note
    assert "\n" not in note


def test_too_many_broken_files_stop_the_run(ward, open_folder):
    with pytest.raises(
        DataError, match=r"15 of 17 files are broken, more than the share of 0.5 .*concat.mp4: is not a"
    ):
        open_folder(ward, bad=0.5).length("train")


def test_what_the_index_does_not_verify_is_found_when_it_is_read(tmp_path, make, open_folder):
    """Without verification a damaged picture passes the index; it is replaced when a clip wants it."""
    whole = make.video(tmp_path / "a.mp4", frames=90, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[:-300] + bytes(200) + whole[-100:])
    dataset = open_folder(tmp_path, verify=False, fps=24, frames=90)
    assert dataset.length("train") == 2
    video = dataset.batch("train", [0, 1]).video
    assert torch.equal(video[0], video[1])
    assert reasons(dataset) == {"b.mp4": "cannot be decoded: Invalid data found when processing input"}
    assert set(reasons(open_folder(tmp_path, fps=24, frames=90))) == {"b.mp4"}


def test_damage_is_found_or_does_no_harm(tmp_path, make):
    """Of files cut short or zeroed in places, each is refused or gives every pixel and time stamp as before."""
    whole = {
        "a.mp4": make.video(tmp_path / "a.mp4"),
        "b.mp4": make.video(tmp_path / "b.mp4", frames=40, options={"movflags": "faststart"}),
        "c.mkv": make.video(tmp_path / "c.mkv"),
        "d.webm": make.video(tmp_path / "d.webm", codec="libvpx-vp9", inner={"deadline": "realtime", "cpu-used": "8"}),
        "e.avi": make.video(tmp_path / "e.avi", codec="mpeg4"),
    }

    def everything(path: Path) -> tuple[dict, np.ndarray]:
        about = decoder.probe([str(path)])
        out = np.zeros((len(about["stamps"]), *about["stored"], 3), np.uint8)
        due = list(range(len(out))) if about["ordered"] else about["stamps"]
        decoder.read([str(path)], due, out, about["ordered"])
        return about, out

    truth = {name: everything(path) for name, path in whole.items()}
    chance, refused, trials = random.Random(0), 0, 120
    for trial in range(trials):
        name = chance.choice(list(whole))
        content = bytearray(whole[name].read_bytes())
        place = chance.randrange(len(content) - 1)
        if trial % 2:
            del content[place:]
        else:
            content[place : place + 256] = bytes(min(256, len(content) - place))
        damaged = tmp_path / f"damaged{Path(name).suffix}"
        damaged.write_bytes(content)
        try:
            about, pixels = everything(damaged)
        except Exception as error:
            refused += bool(decoder.reason(error))
            continue
        assert about["stamps"] == truth[name][0]["stamps"], f"{name}, trial {trial}: silent damage to time"
        assert np.array_equal(pixels, truth[name][1]), f"{name}, trial {trial}: silent damage to pixels"
    assert refused > trials * 0.7


def test_a_wrong_count_is_noticed(tmp_path, make):
    """A file whose sample table promises a frame more than its index of chunks leads to."""
    path = make.video(tmp_path / "a.mp4")
    content = path.read_bytes()
    table = content.index(b"stts")
    count, samples = content[table + 8 : table + 12], content[table + 12 : table + 16]
    assert (int.from_bytes(count), int.from_bytes(samples)) == (1, 24)
    path.write_bytes(content[: table + 12] + (25).to_bytes(4) + content[table + 16 :])
    with pytest.raises(decoder.Damage, match="wrong count: 24 frames where the file says 25"):
        decoder.probe([str(path)])


def test_an_edit_list_is_no_damage(tmp_path, make):
    """Frames that a file's edit list leaves out are counted, not missed: what a telephone's trimming does."""
    path = make.video(tmp_path / "a.mp4", inner={"bf": "0", "g": "1"})
    content = bytearray(path.read_bytes())
    edit = content.index(b"elst")
    assert int.from_bytes(content[edit + 8 : edit + 12]) == 1
    content[edit + 12 : edit + 16] = (500).to_bytes(4)  # lasts 500 of the movie's 1000 ms,
    content[edit + 16 : edit + 20] = (6 * 512).to_bytes(4)  # from the seventh frame on
    path.write_bytes(content)
    about = decoder.probe([str(path)])
    assert len(about["stamps"]) == 12


def test_a_checksum_finds_what_no_decoder_can(tmp_path, make, open_folder):
    """One flipped bit that leaves a valid stream."""
    path = make.image(tmp_path / "a.png", make.picture(0))
    other = tmp_path / "b.bmp"
    Image.fromarray(make.picture(1)).save(other)
    lines = [
        f'{{"file_name": "{p.name}", "sha256": "{hashlib.sha256(p.read_bytes()).hexdigest()}"}}' for p in (path, other)
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert open_folder(tmp_path, frames=1).length("train") == 2
    content = bytearray(other.read_bytes())
    content[200] ^= 1
    other.write_bytes(content)
    assert reasons(open_folder(tmp_path, frames=1)) == {"b.bmp": "its content is not that of its sha256"}


def test_a_file_that_breaks_later_is_replaced(tmp_path, make, open_folder):
    for n in range(6):
        make.video(tmp_path / f"{n}.mp4", image=lambda i, size, n=n: make.picture(n, size))
        (tmp_path / f"{n}.txt").write_text(f"number {n}")
    dataset = open_folder(tmp_path, frames=3, fps=24, bad=0.2)
    before = dataset.batch("train", range(6))
    assert [make.levels(v)[0] for v in before.video] == [0, 1, 2, 3, 4, 5]
    (tmp_path / "2.mp4").write_bytes((tmp_path / "2.mp4").read_bytes()[:800])
    after = dataset.batch("train", range(6))
    assert [make.levels(v)[0] for v in after.video] == [0, 1, 3, 3, 4, 5]
    assert after.prompt == tuple(f"number {n}" for n in (0, 1, 3, 3, 4, 5))
    assert after.clips == (0, 1, 2, 3, 4, 5)
    assert list(reasons(dataset)) == ["2.mp4"]
    (tmp_path / "5.mp4").unlink()
    with pytest.raises(DataError, match=r"2 of 6 files are broken.*5.mp4: cannot be"):
        dataset.batch("train", range(6))


@pytest.mark.slow
def test_three_hundred_damaged_files_among_twelve_hundred(tmp_path, make, open_folder, capsys):
    """Each is skipped and named with its reason, or gives what the whole file gave. Flipped bits may leave a valid
    stream, so half of those files are listed with their checksum; of the others it is only counted what gets by."""
    data, chance = tmp_path / "data", random.Random(1)
    fast = {"movflags": "faststart"}
    bases = [
        make.video(tmp_path / "a.mp4"),
        make.video(tmp_path / "b.mp4", frames=30, options=fast, inner={"bf": "2", "g": "10"}),
        make.video(tmp_path / "c.mkv"),
        make.video(tmp_path / "d.webm", codec="libvpx-vp9", inner={"deadline": "realtime", "cpu-used": "8"}),
        make.video(tmp_path / "e.mov"),
    ]
    data.mkdir()
    kinds, lines = {}, []
    for n in range(1200):
        base = bases[n % len(bases)]
        content, name = bytearray(base.read_bytes()), f"{n:04}{base.suffix}"
        if n < 300:
            kind = ("cut", "zeroed", "empty", "text", "flipped", "flipped, listed")[n // 5 % 6]
            kinds[name] = kind
            place = chance.randrange(len(content) - 1)
            if kind.endswith("listed"):
                lines.append(f'{{"file_name": "{name}", "sha256": "{hashlib.sha256(content).hexdigest()}"}}')
            if kind == "cut":
                del content[place:]
            elif kind == "zeroed":
                content[place : place + 256] = bytes(min(256, len(content) - place))
            elif kind == "empty":
                content.clear()
            elif kind == "text":
                content[:] = b"not a video\n"
            else:
                for _ in range(8):
                    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (data / name).write_bytes(content)
    (data / "metadata.jsonl").write_text("\n".join(lines))
    dataset = open_folder(data, frames=24, fps=24, workers=2, timeout=20)
    found = reasons(dataset)
    assert set(found) <= set(kinds)
    assert all(found.values())
    clips = dataset.contents.clips["train"]
    standing = [n for n, clip in enumerate(clips) if clip.entry.name in kinds]
    whole = {
        base.suffix + str(n): dataset.batch("train", [next(i for i, c in enumerate(clips) if c.entry.name == name)])
        for n, base in enumerate(bases)
        for name in [f"{300 + n:04}{base.suffix}"]
    }
    silent = {}
    for number in standing:
        name = clips[number].entry.name
        base = int(name[:4]) % len(bases)
        truth = whole[bases[base].suffix + str(base)].video
        if not torch.equal(dataset.batch("train", [number]).video, truth):
            silent[name] = kinds[name]
    harmless = len(standing) - len(silent)
    short = len(dataset.contents.short)
    told = f"{len(found)} skipped, {short} too short, {harmless} harmless, {len(silent)} wrong in silence"
    with capsys.disabled():
        print(f"\n300 damaged of 1,200: {told} {silent}")
    assert len(found) + short + len(standing) == 300
    assert set(dataset.contents.short) <= set(kinds)
    assert set(silent.values()) <= {"flipped"}
    assert len(silent) <= 15  # of 50, with eight flipped bits each


# The children


BOOBY = """
import os, sys, time
from mutoscope.plugins.data import decoder
probe = decoder.probe

def trapped(paths, verify, alive):
    name = os.path.basename(paths[0])
    if "crash" in name:
        os.kill(os.getpid(), 11)
    if "hang" in name:
        time.sleep(600)
    if "slow" in name:
        for _ in range(12):
            time.sleep(0.1)
            alive(0)
    if "chatter" in name:
        os.write(1, b"not an answer\\n")
    if "raise" in name:
        raise RuntimeError("two\\nlines")
    return probe(paths, verify, alive)

decoder.probe, decoder.HEARTBEAT = trapped, 0.1
decoder.main()
"""


def test_a_crash_or_a_hang_costs_one_file(tmp_path, make, open_folder, monkeypatch):
    """A decoder that a file ends (SIGSEGV) or holds up is replaced; one that shows signs of life is waited for."""
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-P", "-c", BOOBY))
    for name in ("a", "b_crash", "c", "d_hang", "e_slow", "f_chatter", "g_raise", "h_crash", "i"):
        make.video(tmp_path / f"{name}.mp4", frames=6)
    dataset = open_folder(tmp_path, timeout=0.6, workers=2, frames=2, fps=24)
    started = time.monotonic()
    assert reasons(dataset) == {
        "b_crash.mp4": "ends the process that decodes it (SIGSEGV)",
        "d_hang.mp4": "takes longer than 0.6 s to decode",
        "g_raise.mp4": "cannot be decoded: RuntimeError: two lines",
        "h_crash.mp4": "ends the process that decodes it (SIGSEGV)",
    }
    assert time.monotonic() - started < 60
    names = [clip.entry.name for clip in dataset.contents.clips["train"]]
    assert names == ["a.mp4", "c.mp4", "e_slow.mp4", "f_chatter.mp4", "i.mp4"]
    assert len(dataset.batch("train", range(5))) == 5
    # A hang may have been the machine's fault, and is looked at again; a crash is remembered.
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-P", "-m", "mutoscope.plugins.data.decoder"))
    again = open_folder(tmp_path, frames=2, fps=24)
    assert set(reasons(again)) == {"b_crash.mp4", "g_raise.mp4", "h_crash.mp4"}


def test_a_child_has_limited_memory(tmp_path, make):
    """A file that wants more than a child may have breaks nothing but itself."""
    small = make.video(tmp_path / "small.mp4", frames=4)
    large = make.video(
        tmp_path / "large.mp4", frames=3, size=(2160, 3840), inner={"preset": "ultrafast"},
        image=lambda n, size: np.full((*size, 3), n, np.uint8),
    )  # fmt: skip
    pool = Pool(1, timeout=20, memory=_floor() + (40 << 20))
    try:

        def probed(path: Path):
            with pool.child() as worker:
                return worker.ask({"do": "probe", "paths": [str(path)], "verify": True})

        assert probed(small)["stored"] == [34, 50]
        with pytest.raises(Broken, match=r"memory|ends the process|cannot be decoded"):
            probed(large)
        assert probed(small)["stored"] == [34, 50]
    finally:
        pool.close()
    free = Pool(1, timeout=20, memory=4 << 30)
    try:
        with free.child() as worker:
            about = worker.ask({"do": "probe", "paths": [str(large)], "verify": True})
        assert about["stored"] == [2160, 3840]
    finally:
        free.close()


def _floor() -> int:
    """Address space of a child that has done nothing yet."""
    worker = workers.Worker(20, 0)
    with pytest.raises(Broken):
        worker.ask({"do": "probe", "paths": ["/nowhere"], "verify": True})
    pages = int(Path(f"/proc/{worker.child.pid}/statm").read_text().split()[0])  # type: ignore[union-attr]
    worker.stop()
    return pages * os.sysconf("SC_PAGESIZE")


def test_children_and_descriptors_do_not_pile_up(tmp_path, make, open_folder):
    for n in range(4):
        make.video(tmp_path / f"{n}.mp4", frames=6, size=(34, 50 + 16 * n))
    count = len(os.listdir("/proc/self/fd"))
    dataset = open_folder(tmp_path, frames=2, fps=24, workers=2)
    dataset.batch("train", range(4))
    held = len(os.listdir("/proc/self/fd"))
    children = [worker.child.pid for worker in dataset.pool.workers if worker.child is not None]
    for epoch in range(5):
        dataset.batch("train", range(4), epoch)
    assert len(os.listdir("/proc/self/fd")) == held
    dataset.pool.close()
    assert len(os.listdir("/proc/self/fd")) == count
    assert children
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_children_end_with_their_parent(tmp_path, make):
    """However it ends: their standard input does."""
    make.video(tmp_path / "a.mp4", frames=4)
    code = (
        "import os, sys; from mutoscope.plugins.data.workers import Worker; w = Worker(20, 0);"
        "w.ask({'do': 'probe', 'paths': [sys.argv[1]], 'verify': True}); print(w.child.pid, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.mp4")], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("the child lives on")
