"""Judge the images that a user names, and write a line or lines for each: for readers, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from gapl.decode import UnreadableImage
from gapl.detector import Detector, ImageInput, open_image
from gapl.verdict import Verdict

Result = tuple[Path, Verdict | str]  # an image, and the verdict on it or the reason why it could not be read


def write_verdicts(
    detector: Detector,
    paths: list[Path],
    *,
    where: Path,
    show: Callable[..., str],
    batch_size: int = 1,
    write: Callable[[str], object] = print,
    watch: Callable[[Iterable[Result]], Iterable[Result]] = iter,
) -> None:
    """Judge the images that `scan_images(where)` found, and write what `show` makes of each result.

    show   to_text, or to_json with a model
    watch  gets the results on their way, such as to show how many there are

    Raises ValueError when `where` is an image that cannot be read, or a folder in which none can.
    """
    if where.is_file():
        write(show(where, _judge_file(detector, where)))
        return
    num_failed = 0
    for path, result in watch(_judge_files(detector, paths, batch_size)):
        num_failed += isinstance(result, str)
        write(show(path, result))
    if num_failed == len(paths):
        raise ValueError(f"{where}: none of its {len(paths)} images could be read")


def _judge_file(detector: Detector, path: Path) -> Verdict:
    try:
        return detector(path)
    except UnreadableImage as error:
        raise ValueError(f"{path}: {error}") from error


def _judge_files(detector: Detector, paths: list[Path], batch_size: int) -> Iterator[Result]:
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        results: dict[Path, Verdict | str] = {}
        images: dict[Path, ImageInput] = {}
        for path in batch:
            try:
                images[path] = open_image(path)
            except (UnreadableImage, OSError) as error:
                results[path] = str(error)
        results |= zip(images, detector(list(images.values())), strict=True)
        yield from ((path, results[path]) for path in batch)


def to_json(path: Path, result: Verdict | str, *, model: str) -> str:
    """Return one line of JSON for a verdict, or for the reason why there is none."""
    shown = {"error": result} if isinstance(result, str) else asdict(result)
    return json.dumps({"path": str(path), **shown, "model": model})


def to_text(path: Path, result: Verdict | str) -> str:
    """Return the lines for a reader about a verdict, or about the reason why there is none."""
    if isinstance(result, str):
        return f"[ERROR] Image: {path}\n  -> {result}"
    unsure = f"Unsure (leans to {result.likelier.capitalize()})"
    prediction = {"fake": "Fake (AI-Generated)", "real": "Real", "unsure": unsure}[result.label]
    lines = [
        f"[RESULT] Image: {path}",
        f"  -> Prediction: {prediction}",
        f"  -> Confidence: {result.confidence:.1%}",
        *(f"  -> Warning: {warning}" for warning in result.warnings),
    ]
    return "\n".join(lines)
