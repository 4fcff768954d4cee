"""Ask a service from many clients at once: its rate, how long answers take, what it refuses, and its memory.

    python timing/serving.py --seconds 60 --clients 8
    python timing/serving.py --model_path FILE --views fast --clients 32 --serve "--workers 4 --batch-size 8"

Each client has an image of its own, JPEG from seeded noise, and sends it again as soon as it is answered, or when
Retry-After has passed. Its score must be that of the detector in this process, to the bit. The service is started
for this, on this machine, and told to end at the end. Memory is that of its processes, each page once. Exit code 1
says that a score was wrong, an answer neither 200 nor 503, or the service did not end in order.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

PROJECT = Path(__file__).resolve().parent.parent
OK, REFUSED = 200, 503
LOOK_S = 0.02  # from one look at the log to the next


@dataclass
class Found:
    """What clients found: answers by status, the seconds of those with a verdict, and how many were wrong."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0


@dataclass
class Answer:
    """What a client got: the status, after how many seconds it may ask again, and the body."""

    status: int
    retry_after_s: float
    body: bytes


def main() -> int:
    args = parse_arguments()
    images = [make_image(seed, megapixels=args.megapixels) for seed in range(args.clients)]
    scores = expected_scores(images, args)
    with TemporaryDirectory() as folder:
        process, port = start(args, Path(folder))
        try:
            found, memory = asyncio.run(ask(port, process.pid, images, scores, seconds=args.seconds))
            process.send_signal(signal.SIGTERM)
            code = process.wait(args.seconds + 60)
        finally:
            process.kill()
    report(found, memory, seconds=args.seconds)
    print(f"\nexit code of the service: {code}")
    return int(bool(code or found.wrong or set(found.statuses) - {OK, REFUSED}))


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", help="as of gapl serve (default: the detector that ships)")
    parser.add_argument("--views", default="full", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=8, help="at a time (default: %(default)s)")
    parser.add_argument("--megapixels", type=float, default=1, help="of each image (default: %(default)s)")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="further options of gapl serve")
    return parser.parse_args()


def make_image(seed: int, *, megapixels: float) -> bytes:
    """Return a JPEG, three as wide as two high, of noise in blocks, which is as large as that of a photograph."""
    import numpy as np
    from PIL import Image

    height = int((megapixels * 1e6 / 1.5) ** 0.5)
    blocks = np.random.default_rng(seed).integers(
        0, 256, (height // 8 + 1, height * 3 // 16 + 1, 3), dtype=np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(blocks).resize((height * 3 // 2, height)).save(file, format="JPEG", quality=90)
    return file.getvalue()


def expected_scores(images: list[bytes], args: argparse.Namespace) -> list[float]:
    """Return the scores of the images, by the detector in this process."""
    from gapl.detector import Detector

    detector = Detector.load(args.model_path, views=args.views)
    return [detector(image).score for image in images]


# ---------------------------------------------------------------------------------------------------------
# The service


def start(args: argparse.Namespace, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a service, and return its process and port when it is ready."""
    model = ["--model_path", args.model_path] if args.model_path else []
    options = ["--port", "0", "--jobs", str(folder / "jobs"), "--views", args.views, *model, *args.serve.split()]
    line = [sys.executable, "-m", "gapl", "serve", *options]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(line, cwd=PROJECT, stderr=log, text=True)
    started, events = time.perf_counter(), dict[str, dict[str, Any]]()
    while "ready" not in events:
        time.sleep(LOOK_S)
        lines = (folder / "log").read_text(encoding="utf-8").splitlines()
        if process.poll() is not None:
            raise ValueError(f"the service ended: {lines[-1] if lines else 'no message'}")
        for each in map(json.loads, lines):
            if each["event"] not in events:
                print(f"{each['event']} after {time.perf_counter() - started:.2f} s")
            events[each["event"]] = each
    print()
    return process, events["listening"]["port"]


def memory_mb(pid: int) -> float:
    """Return the memory of a process and those that it has started."""
    import psutil

    process = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in (process, *process.children())) / 1e6


# ---------------------------------------------------------------------------------------------------------
# The clients


async def ask(
    port: int, pid: int, images: list[bytes], scores: list[float], *, seconds: float
) -> tuple[Found, list[float]]:
    """Have all clients ask for so many seconds; return what they found, and the memory at start, middle, end."""
    found = Found()
    memory = [memory_mb(pid)]
    end = time.perf_counter() + seconds
    clients = [
        asyncio.create_task(run_client(port, image, score, end=end, found=found))
        for image, score in zip(images, scores, strict=True)
    ]
    await asyncio.sleep(seconds / 2)
    memory.append(memory_mb(pid))
    await asyncio.gather(*clients)
    return found, [*memory, memory_mb(pid)]


async def run_client(port: int, image: bytes, score: float, *, end: float, found: Found) -> None:
    """Send an image again and again, and check its score."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(image)}\r\n\r\n"
    while time.perf_counter() < end:
        started = time.perf_counter()
        writer.write(head.encode() + image)
        answer = await read_answer(reader)
        found.statuses[answer.status] += 1
        if answer.status == OK:
            found.seconds.append(time.perf_counter() - started)
            found.wrong += json.loads(answer.body)[0]["score"] != score
        elif answer.retry_after_s:
            await asyncio.sleep(answer.retry_after_s)
    writer.close()
    await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read an answer that says how long it is."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split()[1]), float(headers.get("retry-after", 0)), body)


# ---------------------------------------------------------------------------------------------------------
# What is printed


def report(found: Found, memory: list[float], *, seconds: float) -> None:
    """Print the figures as a table."""
    asked = found.statuses.total()
    others = asked - found.statuses[OK] - found.statuses[REFUSED]
    cuts = statistics.quantiles(found.seconds, n=100) if len(found.seconds) > 1 else [float("nan")] * 99
    print("| requests | images/s | p50 s | p99 s | 503 | others | wrong scores | MB at start, middle, end |")
    print("|---|---|---|---|---|---|---|---|")
    shown = ", ".join(f"{each:.0f}" for each in memory)
    print(
        f"| {asked} | {found.statuses[OK] / seconds:.1f} | {cuts[49]:.3f} | {cuts[98]:.3f} "
        f"| {found.statuses[REFUSED] / max(1, asked):.1%} | {others} | {found.wrong} | {shown} |"
    )


if __name__ == "__main__":
    cli.run(main)
