"""Clips as files in the formats that people ask for."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Literal, get_args

import av
import numpy as np
from torch import Tensor

from mutoscope.benchmarks.reporting.video import BT601, LIMITED, encode_webm, enlargement
from mutoscope.core.errors import InputError

Format = Literal["webm", "mp4", "gif", "png"]
"""What a clip can be written as; png is animated where a clip has more than one frame, and keeps its pixels exactly."""
FORMATS: tuple[str, ...] = get_args(Format)
QUALITY = "12"
"""x264's constant rate factor, 0 (lossless) to 51."""


def encode(clip: np.ndarray, fps: float, format: str) -> bytes:
    """A clip T H W 3 uint8 as a file. Raises InputError on an unknown format.

    A small clip is enlarged by a whole factor, so that it can be watched; except as png.
    """
    encoders: dict[str, Callable[[np.ndarray, float], bytes]] = {
        "webm": encode_webm,
        "mp4": _mp4,
        "gif": _gif,
        "png": _png,
    }
    if format not in encoders:
        raise InputError(field="format", problem="no such format", got=format, allowed=FORMATS)
    return encoders[format](clip, fps)


def as_bytes(video: Tensor) -> np.ndarray:
    """Video ... C T H W in [-1, 1] as ... T H W C uint8; one channel becomes three."""
    pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-4, -1).numpy()
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _enlarged(clip: np.ndarray) -> np.ndarray:
    factor = enlargement(*clip.shape[1:3])
    return clip.repeat(factor, axis=1).repeat(factor, axis=2)


def _mp4(clip: np.ndarray, fps: float) -> bytes:
    """H.264, else MPEG-4. Odd sides gain a row or column, a copy of the last: 4:2:0 has none of half a sample."""
    large = _enlarged(clip)
    large = np.pad(large, ((0, 0), (0, large.shape[1] % 2), (0, large.shape[2] % 2), (0, 0)), mode="edge")
    name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(name, rate=Fraction(fps).limit_denominator(1001))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *large.shape[1:3], "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
        stream.codec_context.options = {"crf": QUALITY, "preset": "medium"} if name == "libx264" else {"qscale": "2"}
        for image in large:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU601")))
        container.mux(stream.encode())
    return file.getvalue()


def _gif(clip: np.ndarray, fps: float) -> bytes:
    return _animated(_enlarged(clip), fps, "GIF")


def _png(clip: np.ndarray, fps: float) -> bytes:
    return _animated(clip, fps, "PNG")


def _animated(clip: np.ndarray, fps: float, format: str) -> bytes:
    from PIL import Image  # comes with matplotlib

    first, *rest = (Image.fromarray(image) for image in clip)
    file = io.BytesIO()
    if rest:
        first.save(file, format, save_all=True, append_images=rest, duration=1000 / fps, loop=0)
    else:
        first.save(file, format)
    return file.getvalue()
