"""Decoding, as it runs in a child process: requests come in as lines of JSON, pixels go out through shared memory.

What can be wrong with a file is found here. A process of its own, since a damaged file can end the process that decodes
it (PyAV issue 2344) or never let it go. Imports neither torch nor anything of Mutoscope, so that a child starts fast.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

HEARTBEAT = 1.0
"""Seconds between signs of life during long work."""
STRICT = {"err_detect": "explode"}
"""libavcodec conceals errors unless told to report them."""
MAGIC = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (0, b"GIF8", "gif"),
    (0, b"\x89PNG", "png_pipe"),
    (0, b"\xff\xd8\xff", "jpeg_pipe"),
    (8, b"WEBP", "webp_pipe"),
    (0, b"BM", "bmp_pipe"),
)
"""The demultiplexer by a file's first bytes. Never left to libavformat, which knows playlists of other files."""
ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


class Damage(Exception):
    """What is wrong with a file, in a few words."""


def no_sign(done: int) -> None:
    """A sign of life that nobody waits for."""


# What a file holds


def probe(paths: Sequence[str], verify: bool = True, alive: Callable[[int], None] = no_sign) -> dict[str, Any]:
    """What a video, or the images of a clip, hold; raises Damage.

    Gives `stamps`: when each frame is shown, in ticks, rising; `tick`: of how many seconds, as a fraction; `end`: when
    the last frame ends, in ticks; `keys`: places of frames from which decoding can start; `ordered`: frames are found
    by their place, not their stamp; `size`: rows and columns as shown, in square pixels; `stored`: rows and columns
    that `read` gives.

    verify: decode every frame. Else only the first is, and the others are what the container says.
    """
    if len(paths) > 1 or _format(paths[0]).endswith("_pipe"):
        return _probe_images(paths, verify, alive)
    with _opened(paths[0]) as (container, stream):
        matroska = container.format.name.startswith("matroska")
        with av.logging.Capture(local=False) as logged:
            found = _decoded(container, stream, alive) if verify else _listed(container, stream, alive)
        said = [text.strip() for level, name, text in logged if matroska and name.startswith("matroska")]
        if said and verify:
            raise Damage(f"damaged: {said[0]}")
        _check_count(paths[0], stream, found)
        stamps, last = found["stamps"], found.pop("last")
        tick = Fraction(stream.time_base or 0)
        if container.format.name == "avi":  # a constant rate by definition; its stamps are of packets, not of frames
            rate = stream.average_rate or Fraction(25)
            return found | {"stamps": list(range(len(stamps))), "end": len(stamps), "keys": [0], "ordered": True,
                            "tick": [rate.denominator, rate.numerator]}  # fmt: skip
        gaps = sorted(b - a for a, b in pairwise(stamps))
        usual = gaps[len(gaps) // 2] if gaps else max(1, round(Fraction(1, 25) / tick))
        end = stamps[-1] + (last if last > 0 else usual)
        declared = _declared(container, stream)
        if declared is not None and declared - (end - stamps[0]) * tick > max(usual * tick * 3 / 2, Fraction(1, 500)):
            raise Damage(f"cut short: {float((end - stamps[0]) * tick):.2f} of {float(declared):.2f} s are there")
    return found | {"end": end, "ordered": False, "tick": [tick.numerator, tick.denominator]}


def _decoded(container: Any, stream: Any, alive: Callable[[int], None]) -> dict[str, Any]:
    """Stamps, keys and size by decoding every frame."""
    stamps, keys, size, shown, last, empty = [], [], None, None, 0, 0
    for packet in container.demux(stream):
        empty += packet.size == 0 or packet.is_discard
        for frame in packet.decode():
            n = len(stamps)
            if frame.is_corrupt:
                raise Damage(f"damaged at frame {n}")
            now = (frame.height, frame.width)
            if size is not None and now != size:
                raise Damage(f"changes its size at frame {n}, from {_said(size)} to {_said(now)}")
            if size is None:
                size, shown = now, _shown(frame, stream)
            stamp = n if frame.pts is None and container.format.name == "avi" else frame.pts
            if stamp is None:
                raise Damage(f"frame {n} has no time stamp")
            if stamps and stamp <= stamps[-1]:
                raise Damage(f"time stamps do not rise at frame {n}")
            if frame.key_frame:
                keys.append(n)
            stamps.append(stamp)
            last = frame.duration or 0
        alive(len(stamps))
    if not stamps or size is None or shown is None:
        raise Damage("holds no frame that can be decoded")
    return {"stamps": stamps, "keys": keys, "last": last, "empty": empty, "size": shown[0], "stored": shown[1]}


def _listed(container: Any, stream: Any, alive: Callable[[int], None]) -> dict[str, Any]:
    """The same from the container's list of packets, and the first frame."""
    packets, empty, shown = [], 0, None
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            empty += 1
        elif packet.pts is None and container.format.name != "avi":
            raise Damage(f"packet {len(packets)} has no time stamp")
        else:
            stamp = len(packets) if packet.pts is None else packet.pts
            packets.append((stamp, packet.is_keyframe, packet.duration or 0))
        if shown is None:
            shown = next((_shown(frame, stream) for frame in packet.decode()), None)
        alive(len(packets))
    if not packets or shown is None:
        raise Damage("holds no frame that can be decoded")
    packets.sort()
    stamps = [stamp for stamp, _, _ in packets]
    if len(set(stamps)) < len(stamps):
        raise Damage("two frames have the same time stamp")
    keys = [n for n, (_, key, _) in enumerate(packets) if key]
    return {
        "stamps": stamps, "keys": keys, "last": packets[-1][2], "empty": empty, "size": shown[0], "stored": shown[1],
    }  # fmt: skip


def _check_count(path: str, stream: Any, found: dict[str, Any]) -> None:
    """Whether as many frames are there as the container says."""
    count, empty = len(found["stamps"]), found.pop("empty") - 1  # the last packet, which flushes, is empty
    if stream.frames <= 0 or count == stream.frames:
        return
    if count < stream.frames <= count + empty:
        return
    with _opened(path, {"ignore_editlist": "1"}) as (container, whole):
        if count < stream.frames == sum(packet.size > 0 for packet in container.demux(whole)):
            return  # an edit list leaves the others out
    raise Damage(f"wrong count: {count} frames where the file says {stream.frames}")


def _declared(container: Any, stream: Any) -> Fraction | None:
    """How long the video lasts by the container's word, in seconds, where it says so."""
    if stream.frames > 0:
        return None  # the count is a better witness
    said = stream.metadata.get("DURATION", "")
    if said.count(":") == 2:
        hours, minutes, seconds = said.strip("\0 ").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    if len(container.streams) == 1 and container.duration and container.format.name != "gif":
        return Fraction(container.duration, av.time_base) - Fraction(max(container.start_time or 0, 0), av.time_base)
    return None


def _probe_images(paths: Sequence[str], verify: bool, alive: Callable[[int], None]) -> dict[str, Any]:
    size = stored = None
    for n, path in enumerate(paths if verify else paths[:1]):
        now, turned = _shown(_image(path), None)
        if size is not None and turned != stored:
            raise Damage(f"{os.path.basename(path)} is of {_said(turned)}, the frames before it of {_said(stored)}")
        size, stored = now, turned
        alive(n)
    return {
        "stamps": list(range(len(paths))), "end": len(paths), "keys": [], "ordered": True, "tick": [1, 1],
        "size": size, "stored": stored,
    }  # fmt: skip


# Pixels


def read(
    paths: Sequence[str],
    due: Sequence[int],
    out: np.ndarray,
    ordered: bool = False,
    seek: int | None = None,
    alive: Callable[[int], None] = no_sign,
) -> None:
    """Fills `out`, K rows columns 3 of uint8, with frames, which rise; raises Damage.

    due: the stamp of each frame, or its place where they are `ordered`; every one must be there. seek: the stamp of a
    key frame to start from, by default the beginning.
    """
    if len(paths) > 1 or _format(paths[0]).endswith("_pipe"):
        paint = VideoReformatter()
        for place, n in zip(out, due, strict=True):
            _paint(_image(paths[n]), paint, place)
            alive(n)
        return
    if seek is not None:
        try:
            return _read(paths[0], due, out, ordered, seek, alive)
        except (Damage, av.error.FFmpegError):
            pass  # not every key frame can be entered at: from the beginning, then
    _read(paths[0], due, out, ordered, None, alive)


def _read(
    path: str, due: Sequence[int], out: np.ndarray, ordered: bool, seek: int | None, alive: Callable[[int], None]
) -> None:
    filled, paint = 0, VideoReformatter()
    with _opened(path) as (container, stream):
        if seek is not None:
            container.seek(seek, stream=stream, backward=True)
        for n, frame in enumerate(container.decode(stream)):
            here = n if ordered else frame.pts
            alive(n)
            if here is None or here < due[filled]:
                continue
            if here > due[filled]:
                raise Damage(f"the frame of time stamp {due[filled]} is missing")
            if frame.is_corrupt:
                raise Damage(f"damaged at time stamp {here}")
            _paint(frame, paint, out[filled])
            filled += 1
            if filled == len(due):
                return
    raise Damage(f"ends before the frame of time stamp {due[filled]}")


def _paint(frame: Any, paint: VideoReformatter, place: np.ndarray) -> None:
    """One frame as RGB into its place, turned as it is to be shown."""
    plane = paint.reformat(frame, format="rgb24").planes[0]
    pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width * 3]
    pixels = _turned(pixels.reshape(plane.height, plane.width, 3), _turn(frame))
    if pixels.shape != place.shape:
        raise Damage(f"is of {_said(pixels.shape[:2])} where {_said(place.shape[:2])} was found before")
    place[...] = pixels


def _turn(frame: Any) -> tuple[int, bool]:
    """Quarter turns anticlockwise, after a mirroring of columns, from the display matrix.

    The matrix holds (a, b, c, d) at places 0, 1, 3, 4 and sends (x, y) to (a x + c y, b x + d y), y downwards.
    """
    try:
        side = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 gives up on frames with EXIF data, and then knows only the angle
        return round(frame.rotation / 90) % 4, False
    if side is None:
        return 0, False
    m = np.frombuffer(bytes(side), "<i4" if sys.byteorder == "little" else ">i4")
    a, b, c, d = (int(m[i]) for i in (0, 1, 3, 4))
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if abs(a) >= abs(b):
        return (0 if a >= 0 else 2), mirrored
    return (3 if b > 0 else 1), mirrored


def _turned(pixels: np.ndarray, turn: tuple[int, bool]) -> np.ndarray:
    quarters, mirrored = turn
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)


def _shown(frame: Any, stream: Any) -> tuple[list[int], list[int]]:
    """Rows and columns as shown, in square pixels, and as `read` gives them."""
    rows, columns = frame.height, frame.width
    aspect = Fraction((stream.sample_aspect_ratio if stream is not None else None) or 1)
    wide = max(1, round(columns * aspect)) if Fraction(1, 8) < aspect < 8 else columns
    turned = _turn(frame)[0] % 2 == 1
    return ([wide, rows], [columns, rows]) if turned else ([rows, wide], [rows, columns])


# Files


class _opened:
    """A container of a known kind and its video, which decodes in one thread and conceals nothing."""

    def __init__(self, path: str, options: dict[str, str] | None = None) -> None:
        self.container: Any = av.open(path, format=_format(path), options=options or {})

    def __enter__(self) -> tuple[Any, Any]:
        if not self.container.streams.video:
            sound = bool(self.container.streams.audio)
            self.container.close()
            raise Damage("has no video, only sound" if sound else "has no video")
        stream = self.container.streams.video[0]
        if stream.codec_context is None:
            self.container.close()
            raise Damage("its video is in no format that can be decoded")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = STRICT
        return self.container, stream

    def __exit__(self, *raised: object) -> None:
        self.container.close()


def _image(path: str) -> Any:
    """The one frame of an image; opened as a file, since libavformat takes a % in a name for a pattern."""
    if not _format(path).endswith("_pipe"):
        raise Damage(f"{os.path.basename(path)} is not an image")
    _check_image_ends(path)
    with open(path, "rb") as file, av.open(file, format=_format(path)) as container:
        context = container.streams.video[0].codec_context
        if context is not None:
            context.thread_count, context.options = 1, STRICT
        for frame in container.decode(video=0):
            if frame.is_corrupt:
                break
            return frame
    raise Damage(f"{os.path.basename(path)} is damaged")


def _format(path: str) -> str:
    """The demultiplexer for a file, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise Damage("is empty")
    if head[4:8] in ATOMS:
        return "mov"
    for offset, word, name in MAGIC:
        if head[offset : offset + len(word)] == word:
            if name == "gif":
                _check_end(path, b";")
            return name
    raise Damage("is not a video or image of a known kind")


def _check_image_ends(path: str) -> None:
    """Decoders fill up what a cut JPEG lacks without a word."""
    if _format(path) == "jpeg_pipe":
        _check_end(path, b"\xff\xd9", within=65536)


def _check_end(path: str, mark: bytes, within: int = 0) -> None:
    """Whether a file ends with a mark, followed by at most `within` bytes and zeros."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - within - 4096))
        tail = file.read().rstrip(b"\0")
    if not (tail.endswith(mark) or (within and mark in tail[2:])):
        raise Damage("cut short: its end mark is missing")


def _said(size: Any) -> str:
    return f"{size[0]} x {size[1]}"


# The child


class Shared:
    """The memory that pixels go out through; mapped again only when it has grown: mapping costs a fault a page."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.map: mmap.mmap | None = None

    def pixels(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        if self.map is None or len(self.map) < count:
            self.map = mmap.mmap(self.file, os.fstat(self.file).st_size)
        return np.frombuffer(self.map, np.uint8, count).reshape(shape)


def _answer(job: dict[str, Any], shared: Shared, alive: Callable[[int], None]) -> dict[str, Any]:
    if job["do"] == "probe":
        return probe(job["paths"], job["verify"], alive)
    out = shared.pixels((len(job["due"]), *job["stored"], 3))
    read(job["paths"], job["due"], out, job["ordered"], job["seek"], alive)
    return {}


def reason(error: BaseException) -> str:
    """What went wrong with a file, in a few words."""
    if isinstance(error, Damage):
        return str(error)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == 12:
        return "needs more memory than it may have"
    if isinstance(error, av.error.FFmpegError):
        return f"cannot be decoded: {error.strerror or type(error).__name__}"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or type(error).__name__}"
    return f"cannot be decoded: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _jobs() -> Iterator[dict[str, Any]]:
    for line in sys.stdin.buffer:
        yield json.loads(line)


def main() -> None:
    """Answers jobs until standard input ends. Arguments: the shared memory, and most bytes of address space."""
    shared, most = Shared(int(sys.argv[1])), int(sys.argv[2])
    if most:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no answer
    av.logging.set_level(av.logging.ERROR)
    told = 0.0

    def alive(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > HEARTBEAT:
            told = now
            answers.write(b'{"alive": %d}\n' % done)

    for job in _jobs():
        told = time.monotonic()
        try:
            answer = {"ok": _answer(job, shared, alive)}
        except Exception as error:
            answer = {"damage": reason(error)}
        answers.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
