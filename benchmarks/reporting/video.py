"""Clips as WebM, small enough to stand inside a page and large enough to be watched."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

CODECS = ("libvpx-vp9", "libvpx")
"""Encoders in the order of preference: VP9, else VP8; FFmpeg builds may lack either."""
WATCHABLE = 128
"""Pixels that the shorter side has at least after enlarging."""
QUALITY = "12"
"""libvpx's constant quality, 0 (best) to 63."""
BT601, LIMITED = 5, 1
"""FFmpeg's numbers of the colour matrix and the range that frames are converted with, written into the stream."""


def encode_webm(clip: np.ndarray, fps: float) -> bytes:
    """A clip T H W 3 uint8 as a WebM file.

    A small clip is enlarged by a whole factor with nearest neighbours, so that its pixels stay squares; the factor is
    even, so that the halved chroma of 4:2:0 still has a sample of its own for each of them.
    """
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or not clip.size:
        raise ValueError(f"clip: is T H W 3 uint8; got {clip.dtype} {clip.shape}")
    factor = enlargement(*clip.shape[1:3])
    large = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    rate = Fraction(fps).limit_denominator(1001)
    file = io.BytesIO()
    with av.open(file, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(_codec(), rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *large.shape[1:3], "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
        stream.codec_context.options = {"crf": QUALITY, "b:v": "0", "deadline": "good", "cpu-used": "4"}
        for image in large:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU601")))
        container.mux(stream.encode())
    return file.getvalue()


def enlargement(rows: int, columns: int) -> int:
    """The factor by which a clip is enlarged: 1, or the smallest even one that makes it watchable."""
    needed = -(-WATCHABLE // min(rows, columns))
    return needed if needed == 1 else needed + needed % 2


def _codec() -> str:
    """The first encoder that this FFmpeg has."""
    for name in CODECS:
        if name in av.codecs_available:
            return name
    raise ValueError(f"this build of PyAV encodes neither of {', '.join(CODECS)}")
