"""Which frames and which pixels a file gives."""

from __future__ import annotations

import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mutoscope.core.checks import checks_of
from mutoscope.plugins.data import decoder
from mutoscope.plugins.data.folder import Folder
from mutoscope.plugins.data.workers import Worker


@pytest.mark.parametrize("check", checks_of(Folder), ids=lambda check: check.name)
def test_contract(check):
    check.run()


# Kinds of files


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {}),
        ("a.mov", {}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9", "inner": {"deadline": "realtime", "cpu-used": "8"}}),
        ("a.avi", {"codec": "mpeg4", "prepare": lambda stream: setattr(stream, "bit_rate", 8_000_000)}),
        ("odd.mp4", {"size": (33, 51), "pixels": "yuv444p"}),
        ("bframes.mp4", {"inner": {"bf": "3", "g": "10"}}),
    ],
)
def test_every_frame_of_a_video(tmp_path, make, open_folder, name, settings):
    make.video(tmp_path / name, **settings)
    size = settings.get("size", (34, 50))
    dataset = open_folder(tmp_path, frames=24, fps=24, size=size)
    batch = dataset.batch("train", [0])
    assert batch.video.shape == (1, 3, 24, *size)
    assert batch.video.dtype == torch.float32
    assert make.levels(batch.video[0]) == list(range(24))
    truth = torch.from_numpy(np.stack([make.picture(n, size) for n in range(24)])).permute(3, 0, 1, 2)
    error = ((batch.video[0] + 1) * 127.5 - truth).abs().mean()
    assert error < 6, f"{error:.1f} of 255"


def test_a_gif_keeps_its_delays(tmp_path, make, open_folder):
    """Pillow writes it; frames last 100, 200, 50, 100 ms, so that at 20 fps they show 2, 4, 1 and 2 times."""
    pictures = [Image.fromarray(make.picture(n)) for n in range(4)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 200, 50, 100], loop=0
    )
    dataset = open_folder(tmp_path, frames=9, fps=20)
    assert make.levels(dataset.batch("train", [0]).video[0]) == [0, 0, 1, 1, 1, 1, 2, 3, 3]


def test_a_folder_of_frames_is_a_clip(tmp_path, make, open_folder):
    for n in range(12):  # frame 10 comes after frame 9, whatever the alphabet says
        make.image(tmp_path / "walk" / f"frame{n}.png", make.picture(n))
    (tmp_path / "walk.txt").write_text("a walk\n")
    dataset = open_folder(tmp_path, frames=6, fps=12.5, rate=25)
    batch = dataset.batch("train", [0])
    assert make.levels(batch.video[0]) == [0, 2, 4, 6, 8, 10]
    assert batch.prompt == ("a walk",)
    images = open_folder(tmp_path, frames=1, numbered="images")
    assert images.length("train") == 12


def test_images_are_clips_of_one_frame(tmp_path, make, open_folder):
    make.image(tmp_path / "x 50%d.png", make.picture(3))  # libavformat would take this for a pattern
    make.image(tmp_path / "y.jpg", make.picture(4))
    Image.fromarray(make.picture(5)).save(tmp_path / "z.webp", lossless=True)
    Image.fromarray(make.picture(6)).save(tmp_path / "zz.bmp")
    dataset = open_folder(tmp_path, frames=1)
    video = dataset.batch("train", [0, 1, 2, 3]).video
    assert [make.levels(clip) for clip in video] == [[3], [4], [5], [6]]
    exact = (video[[0, 2, 3], :, 0] + 1) * 127.5
    truth = torch.from_numpy(np.stack([make.picture(n) for n in (3, 5, 6)])).permute(0, 3, 1, 2)
    assert torch.equal(exact.round(), truth.float())


def test_an_image_as_a_longer_clip_is_held_or_left_out(tmp_path, make, open_folder):
    make.image(tmp_path / "a.png", make.picture(7))
    make.video(tmp_path / "b.mp4", frames=6)
    held = open_folder(tmp_path, frames=8, fps=24, short="hold")
    assert [make.levels(clip) for clip in held.batch("train", [0, 1]).video] == [[7] * 8, [0, 1, 2, 3, 4, 5, 5, 5]]
    left = open_folder(tmp_path, frames=6, fps=24)
    assert left.length("train") == 1
    report = left.report()
    assert report["short"] == [{"file": "a.png", "reason": "is one image, a clip 6 frames"}]
    assert report["skipped"] == []


# Time


STAMPS = [0, 1, 2, 6, 7, 8, 12, 20, 21, 22, 30, 31, 40, 44, 45, 46]
"""Of a variable frame rate, in 1/24 s."""


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("fps", [5.0, 7.3, 24.0])
def test_variable_rate_shows_the_frame_of_each_instant(tmp_path, make, open_folder, name, fps):
    make.video(tmp_path / name, frames=len(STAMPS), stamps=STAMPS)
    frames = int(46 / 24 * fps)
    dataset = open_folder(tmp_path, frames=frames, fps=fps)
    instants = [Fraction(k) / Fraction(str(fps)) for k in range(frames)]
    shown = [max(n for n, stamp in enumerate(STAMPS) if Fraction(stamp, 24) <= t) for t in instants]
    assert make.levels(dataset.batch("train", [0]).video[0]) == shown


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30), Fraction(30000, 1001), Fraction(25)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_at_a_files_own_rate_every_frame_comes_once(tmp_path, make, open_folder, rate, name):
    """In Matroska time stamps are rounded to milliseconds, which must neither drop nor double a frame."""
    make.video(tmp_path / name, rate=rate, size=(16, 16))
    dataset = open_folder(tmp_path, frames=8, fps=float(rate), start="random", size=(16, 16))
    begins = set()
    for epoch in range(20):
        found = make.levels(dataset.batch("train", [0], epoch).video[0])
        assert all(b - a == 1 for a, b in pairwise(found)), found
        begins.add(found[0])
    assert max(begins) <= 16
    assert len(begins) > 5


def test_frames_one_by_one_at_no_rate(tmp_path, make, open_folder):
    make.video(tmp_path / "a.mp4", frames=len(STAMPS), stamps=STAMPS)
    assert make.levels(open_folder(tmp_path, frames=16, fps=0).batch("train", [0]).video[0]) == list(range(16))
    begins = {
        make.levels(open_folder(tmp_path, frames=14, fps=0, start="random").batch("train", [0], e).video[0])[0]
        for e in range(12)
    }
    assert begins == {0, 1, 2}


def test_starts_are_a_function_of_epoch_and_number(tmp_path, make, open_folder):
    for name in "ab":
        make.video(tmp_path / f"{name}.mp4")
    one = open_folder(tmp_path, frames=4, fps=24, start="random", crop="random", flip=True, size=(24, 24))
    other = open_folder(tmp_path, frames=4, fps=24, start="random", crop="random", flip=True, size=(24, 24), workers=2)
    assert not one.fixed
    for epoch in (0, 3):
        together = one.batch("train", [0, 1], epoch).video
        assert torch.equal(together[[1, 0]], other.batch("train", [1, 0], epoch).video)
    firsts = [one.batch("train", [0], epoch).video for epoch in range(4)]
    assert len({make.levels(video[0])[0] for video in firsts}) > 1
    for start, begin in (("first", 0), ("centre", 10)):
        fixed = open_folder(tmp_path, frames=4, fps=24, start=start)
        assert fixed.fixed
        assert make.levels(fixed.batch("train", [0], 5).video[0])[0] == begin


def test_other_splits_are_not_augmented(tmp_path, make, open_folder):
    make.video(tmp_path / "train" / "a.mp4")
    make.video(tmp_path / "val" / "b.mp4")
    dataset = open_folder(tmp_path, fps=24, start="random", flip=True)
    clips = [make.levels(dataset.batch("validation", [0], epoch).video[0]) for epoch in range(3)]
    assert clips == [[10, 11, 12, 13]] * 3


def test_a_late_clip_of_a_long_file_is_found_from_a_key_frame(tmp_path, make, open_folder):
    make.video(tmp_path / "a.mp4", frames=150, inner={"g": "12", "bf": "2"})
    dataset = open_folder(tmp_path, frames=4, fps=24, start="centre")
    assert make.levels(dataset.batch("train", [0]).video[0]) == [n % 25 for n in range(73, 77)]
    probe = decoder.probe([str(tmp_path / "a.mp4")])
    assert len(probe["keys"]) >= 12
    for first in range(0, 146, 7):
        due = probe["stamps"][first : first + 3]
        seek = probe["stamps"][max(k for k in probe["keys"] if k <= first)]
        straight, sought = np.zeros((3, 34, 50, 3), np.uint8), np.zeros((3, 34, 50, 3), np.uint8)
        decoder.read([str(tmp_path / "a.mp4")], due, straight)
        decoder.read([str(tmp_path / "a.mp4")], due, sought, seek=seek)
        assert np.array_equal(straight, sought)


# Pictures


def corner(n: int, size: tuple[int, int]) -> np.ndarray:
    """Red at the top left, green at the top right, blue at the bottom left, black."""
    image = np.zeros((*size, 3), np.uint8)
    rows, columns = size[0] // 2, size[1] // 2
    image[:rows, :columns, 0] = image[:rows, columns:, 1] = image[rows:, :columns, 2] = 255
    return image


def corners(video: torch.Tensor) -> str:
    """Colours at the top left, top right, bottom left, bottom right of the first frame."""
    frame = video[:, 0]
    found = ""
    for rows, columns in ((slice(2, 6), slice(2, 6)), (slice(2, 6), slice(-6, -2)), (slice(-6, -2), slice(2, 6)),
                          (slice(-6, -2), slice(-6, -2))):  # fmt: skip
        mean = frame[:, rows, columns].mean((1, 2))
        found += "rgb"[int(mean.argmax())] if mean.max() > 0 else "-"
    return found


@pytest.mark.parametrize(
    ("degrees", "seen"), [(0, "rgb-"), (90, "g-rb"), (180, "-bgr"), (270, "br-g")]
)  # counter-clockwise, as libavutil's av_display_rotation_get counts them
def test_rotation_is_respected(tmp_path, make, open_folder, degrees, seen):
    make.video(tmp_path / "a.mp4", frames=4, image=corner, prepare=lambda stream: stream.set_display_rotation(degrees))
    size = (50, 34) if degrees in (90, 270) else (34, 50)
    dataset = open_folder(tmp_path, frames=2, fps=24, fit="native", size=(64, 64), multiple=(1, 1))
    video = dataset.batch("train", [0]).video[0]
    assert video.shape == (3, 2, *size)
    assert corners(video) == seen


@pytest.mark.parametrize(("orientation", "seen"), [(1, "rgb-"), (3, "-bgr"), (6, "br-g"), (8, "g-rb")])
def test_a_photographs_orientation_is_respected(tmp_path, open_folder, orientation, seen):
    """As Pillow shows it."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(corner(0, (40, 64))).save(tmp_path / "a.jpg", exif=exif, quality=95)
    dataset = open_folder(tmp_path, frames=1, fit="native", size=(64, 64), multiple=(1, 1))
    assert corners(dataset.batch("train", [0]).video[0]) == seen


def test_oblong_samples_are_shown_square(tmp_path, make, open_folder):
    def oblong(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    make.video(tmp_path / "a.mp4", frames=4, image=corner, prepare=oblong)
    dataset = open_folder(tmp_path, frames=2, fps=24, fit="native", size=(128, 128), multiple=(1, 1))
    video = dataset.batch("train", [0]).video[0]
    assert video.shape == (3, 2, 34, 100)
    assert corners(video) == "rgb-"


def test_resizing_is_that_of_pillow(tmp_path, open_folder):
    """Bicubic with antialiasing, to two levels."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    video = open_folder(tmp_path, frames=1, size=(30, 40)).batch("train", [0]).video[0, :, 0]
    centre = Image.fromarray(noise[:, 20:140]).resize((40, 30), Image.Resampling.BICUBIC)
    ours = ((video + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(ours - np.asarray(centre, np.float32)).max() <= 2


@pytest.mark.parametrize("size", [(16, 16), (16, 64), (64, 16), (80, 100)])
def test_the_crop_is_the_largest_in_the_middle(tmp_path, open_folder, size):
    """Of a ramp, the middle is kept, and a picture that is too small is enlarged."""
    ramp = np.zeros((40, 60, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(60) * 4, (np.arange(40) * 6)[:, None]
    Image.fromarray(ramp).save(tmp_path / "a.png")
    video = open_folder(tmp_path, frames=1, size=size).batch("train", [0]).video[0, :, 0]
    across, down = ((video[0] + 1) * 127.5).mean(0), ((video[1] + 1) * 127.5).mean(1)
    scale = max(size[0] / 40, size[1] / 60)
    assert float(across.mean()) == pytest.approx(29.5 * 4, abs=4)
    assert float(down.mean()) == pytest.approx(19.5 * 6, abs=4)
    assert float(across[-1] - across[0]) == pytest.approx((size[1] - 1) / scale * 4, abs=8)
    assert float(down[-1] - down[0]) == pytest.approx((size[0] - 1) / scale * 6, abs=8)


def test_random_crops_and_mirrorings(tmp_path, open_folder):
    Image.fromarray(corner(0, (40, 80))).save(tmp_path / "a.png")
    flipping = open_folder(tmp_path, frames=1, size=(40, 80), flip=True)
    seen = [corners(flipping.batch("train", [0], epoch).video[0]) for epoch in range(12)]
    assert set(seen) == {"rgb-", "gr-b"}
    cropping = open_folder(tmp_path, frames=1, size=(40, 40), crop="random")
    edges = {round(float(cropping.batch("train", [0], e).video[0, 0, 0, 5].gt(0).float().mean()), 2) for e in range(12)}
    assert len(edges) > 6


def test_native_sizes_keep_their_aspect(tmp_path, make, open_folder):
    make.video(tmp_path / "a.mp4", frames=6)
    make.video(tmp_path / "b.mp4", frames=6, size=(120, 60))
    make.image(tmp_path / "c.png", make.picture(3, (20, 90)))
    dataset = open_folder(tmp_path, frames=5, fps=24, fit="native", size=(48, 48), multiple=(8, 8))
    (fact,) = dataset.facts()
    batch = dataset.batch("train", [0, 1, 2])
    shapes = [tuple(video.shape[1:]) for video in batch.video]
    assert shapes == [(5, 32, 48), (5, 64, 32), (1, 16, 88)]
    assert dataset.sizes("train", [0, 1, 2]) == shapes
    assert fact.mixed
    assert (fact.frames, fact.size) == (5, (64, 32))
    assert make.levels(batch.video[0]) == [0, 1, 2, 3, 4]
    # Neither scaled nor filtered where the file is small enough: a crop of its pixels.
    whole = torch.from_numpy(make.picture(3, (20, 90))).permute(2, 0, 1)[:, 2:18, 1:89]
    assert torch.equal(((batch.video[2][:, 0] + 1) * 127.5).round(), whole.float())


def test_colours_are_those_of_the_files_matrix(tmp_path, make, open_folder):
    """BT.601 and BT.709, as the file says; PyAV writes them, libswscale converted them."""
    shade = np.array([200, 40, 90], np.uint8)
    for name, matrix in (("a.mp4", 1), ("b.mp4", 5)):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv444p"
            stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1
            stream.codec_context.options = {"qp": "1"}
            for _ in range(4):
                frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), shade), format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv444p", dst_colorspace=matrix)))
            container.mux(stream.encode())
    video = open_folder(tmp_path, frames=2, fps=24, size=(16, 16)).batch("train", [0, 1]).video
    seen = ((video.mean((2, 3, 4)) + 1) * 127.5).numpy()
    assert np.abs(seen - shade).max() < 3


def test_the_index_is_made_once(tmp_path, make, open_folder, cache, monkeypatch):
    data = tmp_path / "data"
    for name in "abc":
        make.video(data / f"{name}.mp4")
    (data / "d.mp4").write_text("no video")
    before = sorted(data.rglob("*"))
    first = open_folder(data)
    marks = first.fingerprint(), first.report()
    probed = []
    record_jobs(monkeypatch, probed)
    second = open_folder(data)
    assert (second.fingerprint(), second.report()) == marks
    assert probed == []
    make.video(data / "b.mp4", frames=20)
    third = open_folder(data)
    assert third.fingerprint() != marks[0]
    assert [Path(path).name for path in probed] == ["b.mp4"]
    assert sorted(data.rglob("*")) == before  # nothing is written among the data
    (index,) = cache.rglob("*.json")
    for damage in ("", "{", "[]", '{"files": 3}', index.read_text().replace('"stored"', '"stor"')):
        index.write_text(damage)
        assert open_folder(data).fingerprint() == third.fingerprint()
    shutil.rmtree(cache)
    cache.write_text("a file where the cache would be")
    assert open_folder(data).fingerprint() == third.fingerprint()


def record_jobs(monkeypatch: pytest.MonkeyPatch, probed: list[str]) -> None:
    """Records which files children are asked about."""
    ask = Worker.ask

    def recorded(self, job, size=0):
        if job["do"] == "probe":
            probed.extend(job["paths"])
        return ask(self, job, size)

    monkeypatch.setattr(Worker, "ask", recorded)
