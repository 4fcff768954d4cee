"""Compare the verdicts of the web page of export.py with those of gapl, in a chromium, and time the first one.

    python export.py --format web --model_path pretrained/gapl-vit-b16-open.safetensors --out site
    python timing/browser.py site --images DIR --count 50

The images are drawn from all below DIR with a seed, as many of each class where folders are called 0_real and
1_fake. It needs playwright and a chromium of the system. Exit code 1: a label differs, or a score by more than
--tolerance.
"""

from __future__ import annotations

import functools
import http.server
import random
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import Detector, cli
from gapl.inputs.scan import scan_images

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 600_000
DONE = "#verdict:not([hidden]), #error:not(:empty)"


@dataclass(frozen=True)
class Shown:
    """What the page shows of one image: its verdict, or an error."""

    score: float
    label: str
    warnings: tuple[str, ...]
    error: str
    seconds: float


def find_chromium() -> str | None:
    """Return the path of a chromium of the system, or None."""
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder as any plain web server would, and yield its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def open_page(browser: Any, address: str, **options: Any) -> Any:
    """Open the page in a browser without a past, and wait until its detector is ready."""
    view = browser.new_page(**options)
    view.goto(address)
    view.wait_for_selector("body[data-threads]", timeout=WAIT_MS)
    return view


def judge(view: Any, image: str | dict[str, Any]) -> Shown:
    """Choose an image, a path or {name, mimeType, buffer}, and return what the page then shows."""
    started = time.perf_counter()
    view.set_input_files("#file", image)
    view.wait_for_selector(DONE, timeout=WAIT_MS)
    seconds = time.perf_counter() - started
    if error := view.text_content("#error"):
        return Shown(float("nan"), "", (), error, seconds)
    score, label = (view.get_attribute("#verdict", f"data-{name}") for name in ("score", "label"))
    return Shown(float(score), label, tuple(view.locator("#warnings li").all_text_contents()), "", seconds)


def draw(folder: Path, count: int) -> list[Path]:
    """Draw images with a seed, half of them from folders called 1_fake where there are such."""
    images = [Path(image.name) for image in scan_images([folder]).images]
    random.Random(0).shuffle(images)
    fakes = [path for path in images if "1_fake" in path.parts]
    others = [path for path in images if "1_fake" not in path.parts]
    half = min(count // 2, len(fakes))
    return [*fakes[:half], *others[: count - half]]


def compare(view: Any, images: Sequence[Path], detector: Detector) -> tuple[list[float], int, list[float]]:
    """Judge images by both. Return differences of P(fake), the number of other labels, and the page's seconds."""
    differences, others, seconds = [], 0, []
    for path in images:
        shown, expected = judge(view, str(path)), detector(path)
        differences.append(abs(shown.score - expected.score))
        seconds.append(shown.seconds)
        if shown.label != expected.label or not differences[-1] < 0.001:
            print(f"{path}: {shown}, expected {expected}", flush=True)
        others += shown.label != expected.label
    return differences, others, seconds


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("site", type=Path, help="folder that export.py wrote")
    parser.add_argument("--images", type=Path, required=True, help="folder with images")
    parser.add_argument("--count", type=int, default=50, help="how many of them; default: %(default)s")
    parser.add_argument("--model_path", "--model-path", type=Path, help="default: the detector that ships")
    parser.add_argument("--tolerance", type=float, default=0.02, help="of P(fake); default: %(default)s")
    args = parser.parse_args()
    images, detector = draw(args.images, args.count), Detector.load(args.model_path)
    executable = find_chromium()
    if executable is None:
        raise ValueError(f"none of {', '.join(CHROMIUM)} is installed")
    from playwright.sync_api import sync_playwright

    with serving(args.site) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        view = open_page(browser, address)
        differences, others, seconds = compare(view, images, detector)
        first = float(view.get_attribute("body", "data-first"))
        threads = view.get_attribute("body", "data-threads")
        print(f"chromium {browser.version}, {threads} threads")
        browser.close()
    print(f"{len(images)} images, {others} labels differ")
    print(f"P(fake) differs by at most {max(differences):.1e}, {statistics.mean(differences):.1e} in the mean")
    print(
        f"first verdict {first:.1f} s after the page was opened; median of all {statistics.median(seconds):.1f} s"
    )
    if others or not max(differences) <= args.tolerance:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
