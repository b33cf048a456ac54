"""Real files, made here: frame n of every one is a grey of level(n), with a brighter square that moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from mutoscope.plugins.data.folder import Folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place


def level(n: int) -> int:
    return 30 + 8 * (n % 25)


def picture(n: int, size: tuple[int, int] = (34, 50)) -> np.ndarray:
    """Frame n: rows columns 3."""
    image = np.full((*size, 3), level(n), np.uint8)
    image[2:6, 3 : 3 + 4] = 250
    return image


def write(
    path: Path,
    frames: int = 24,
    size: tuple[int, int] = (34, 50),
    rate: Fraction | int = 24,
    stamps: Sequence[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    image: Callable[[int, tuple[int, int]], np.ndarray] = picture,
    prepare: Callable[[Any], None] = lambda stream: None,
    options: dict[str, str] | None = None,
    inner: dict[str, str] | None = None,
) -> Path:
    """A video file by PyAV. stamps: of frames, in 1 / rate seconds. options, inner: of the container and the codec."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.options = inner or {}
        prepare(stream)
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(image(n, size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = n if stamps is None else stamps[n], 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec, pixels = ("png", "rgb24") if path.suffix == ".png" else ("mjpeg", "yuvj444p")
    context: Any = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt, context.time_base = *image.shape[:2], pixels, Fraction(1)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode()]))
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame: Any = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(video: torch.Tensor) -> list[int]:
    """The number of each frame of a clip C T H W, from its grey at the lower right."""
    grey = ((video[:, :, -4:, -4:].mean((0, 2, 3)) + 1) * 127.5).tolist()
    return [round((g - 30) / 8) for g in grey]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Makes files, and reads frame numbers back."""
    return SimpleNamespace(
        video=write, image=write_image, sound=write_sound, picture=picture, level=level, levels=levels
    )


@pytest.fixture
def open_folder() -> Any:
    """Builds the dataset with settings that give whole pictures of the files made here; ends its children."""
    opened: list[Folder] = []

    def build(path: Path, **settings: Any) -> Folder:
        given = {"size": (34, 50), "held": (0.0, 0.0), "bad": 1.0, "frames": 4, "start": "first", "workers": 1}
        opened.append(Folder(path=str(path), **{**given, **settings}))
        return opened[-1]

    yield build
    for dataset in opened:
        dataset.pool.close()
