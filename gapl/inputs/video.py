"""Frames of a video, evenly spread over its time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from gapl.decode import UnreadableImage, most_pixels, too_many_pixels
from gapl.files.refusal import first_line
from gapl.inputs.input import Input, inputs_in, require

# What is tried. ffmpeg knows formats besides these that are lists of other files and of URLs.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": ""}


def list_video(path: Path, *, frames: int) -> list[Input]:
    """Return frames of a video, called "<path>#t=<seconds>": those shown in the middle of equal parts of its time.

    frames  how many; fewer where two of them would be at the same hundredth of a second

    Raises ValueError when PyAV is missing or it cannot be read; OSError when it cannot be opened.
    """
    require("av", "av", what=f"{path}: a video")
    if not path.stat().st_size:
        raise UnreadableImage(f"{path}: an empty file")
    with _video(path) as (container, stream):
        seconds = _seconds(container, stream)
    if seconds is None:
        raise ValueError(f"{path}: a video without frames")
    times = sorted({round(seconds * (i + 0.5) / frames, 2) for i in range(frames)})
    return inputs_in([(f"{path}#t={time:.2f}", time) for time in times], partial(_open_video, path))


@contextmanager
def _video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video, and its first stream of pictures. Whatever PyAV raises in the block is UnreadableImage."""
    import av

    av.logging.set_level(None)
    try:
        with path.open("rb") as file, av.open(file, options=_OPTIONS) as container:
            if not container.streams.video:
                raise UnreadableImage(f"{path}: a video without pictures")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise UnreadableImage(f"{path}: damaged, or no video that is read ({first_line(error)})") from error


def _seconds(container: Any, stream: Any) -> float | None:
    """Return the length of a video, by its packets where it does not say it; None when it has no frame."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration / 1_000_000)
    ends = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
    return float((max(ends) - min(ends)) * stream.time_base) if ends else None


@contextmanager
def _open_video(path: Path) -> Iterator[Callable[[float], bytes]]:
    with _video(path) as (container, stream):
        yield partial(_read_frame, container, stream)


def _read_frame(container: Any, stream: Any, time: float) -> bytes:
    """Return the frame that is shown at a time, upright, as a PPM file."""
    import av

    if stream.width * stream.height > most_pixels():
        raise UnreadableImage(too_many_pixels())
    wanted = (stream.start_time or 0) + math.floor(Fraction(round(time * 100), 100) / stream.time_base)
    try:
        container.seek(wanted, stream=stream)
        frame = None
        for following in container.decode(stream):
            if frame is not None and following.pts is not None and following.pts > wanted:
                break
            frame = following
    except (av.FFmpegError, MemoryError) as error:
        raise UnreadableImage(f"damaged video: {first_line(error)}") from error
    if frame is None:
        raise UnreadableImage("damaged video: no frame at this time")
    picture = frame.to_image().rotate(frame.rotation, expand=True)
    file = io.BytesIO()
    picture.save(file, "PPM")
    return file.getvalue()
