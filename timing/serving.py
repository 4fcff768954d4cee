"""Ask a service from many clients at once: its rate, how long answers take, what it refuses, and its memory.

    python timing/serving.py --seconds 60 --clients 8
    python timing/serving.py --requests 20000 --clients 4
    python timing/serving.py --seconds 120 --clients 64 --rate 50
    python timing/serving.py --model_path FILE --views fast --clients 32 --serve "--workers 4 --batch-size 8"

Each client has an image of its own, JPEG from seeded noise, and sends it again as soon as it is answered, or when
Retry-After has passed. With --rate, requests come at so many a second instead, each by a connection of its own,
whether or not those before are answered: ten times what the service can do is an overload. The score of an image
must be that of the detector in this process, to the bit.

The service is started for this, on this machine, and told to end at the end. Memory is that of its processes, each
page once: the one that answers has the detector, the others decode. Images/s per core are those for each second
that the service computed, also where others use the machine. Exit code 1 says that a score was wrong, that a
request was lost or answered neither by 200 nor 503, or that the service did not end in order.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from timing.service import END_S, LOOK_S, computed_s, memory_mb, start

OK, REFUSED = 200, 503
LOST_S = 120  # after which an answer does not come any more


@dataclass
class Found:
    """What clients found.

    statuses  answers by status
    seconds   of those with a verdict
    wrong     verdicts with another score
    lost      requests without an answer
    lasted_s  all of it
    cpu_s     that the service took for it
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    lasted_s: float = 0
    cpu_s: float = 0

    @property
    def asked(self) -> int:
        return self.statuses.total() + self.lost


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
            found, memory = asyncio.run(ask(port, process.pid, images, scores, args))
            process.send_signal(signal.SIGTERM)
            code = process.wait(END_S)
        finally:
            process.kill()
    report(found, memory)
    print(f"\nexit code of the service: {code}")
    return int(bool(code or found.wrong or found.lost or set(found.statuses) - {OK, REFUSED}))


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", help="as of gapl serve (default: the detector that ships)")
    parser.add_argument("--views", default="full", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--requests", type=int, help="end after so many, instead")
    parser.add_argument("--rate", type=float, help="requests a second that come, whatever happens to the others")
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
# The clients


async def ask(
    port: int, pid: int, images: list[bytes], scores: list[float], args: argparse.Namespace
) -> tuple[Found, list[list[float]]]:
    """Ask as the options say; return what clients found, and the memory at start, middle, end."""
    found, memory = Found(), [memory_mb(pid)]
    before_s, started = computed_s(pid), time.perf_counter()

    def done() -> float:
        """Return which part of it is done."""
        return found.asked / args.requests if args.requests else (time.perf_counter() - started) / args.seconds

    given = list(zip(images, scores, strict=True))
    asking: asyncio.Future[Any]
    if args.rate:
        asking = asyncio.ensure_future(ask_at_rate(port, given, rate=args.rate, done=done, found=found))
    else:
        clients = (run_client(port, image, score, done=done, found=found) for image, score in given)
        asking = asyncio.ensure_future(asyncio.gather(*clients))
    while done() < 0.5 and not asking.done():
        await asyncio.sleep(LOOK_S)
    memory.append(memory_mb(pid))
    await asking
    found.lasted_s, found.cpu_s = time.perf_counter() - started, computed_s(pid) - before_s
    return found, [*memory, memory_mb(pid)]


async def run_client(port: int, image: bytes, score: float, *, done: Callable[[], float], found: Found) -> None:
    """Send an image again and again by one connection, and check its score."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while done() < 1:
        answer = await send(reader, writer, image, score, port=port, found=found)
        if answer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        elif answer.status != OK and answer.retry_after_s:
            await asyncio.sleep(answer.retry_after_s)
    writer.close()


async def ask_at_rate(
    port: int, given: list[tuple[bytes, float]], *, rate: float, done: Callable[[], float], found: Found
) -> None:
    """Send images at a rate, in turn, each by a connection of its own."""
    started, asked = time.perf_counter(), set[asyncio.Task[None]]()

    async def send_one(image: bytes, score: float) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            found.lost += 1
            return
        await send(reader, writer, image, score, port=port, found=found)
        writer.close()

    for number, (image, score) in enumerate(itertools.cycle(given)):
        await asyncio.sleep(max(0, started + number / rate - time.perf_counter()))
        if done() >= 1:
            break
        task = asyncio.create_task(send_one(image, score))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)


async def send(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    image: bytes,
    score: float,
    *,
    port: int,
    found: Found,
) -> Answer | None:
    """Send an image, check its score, and return the answer; None: there was none."""
    started = time.perf_counter()
    head = f"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(image)}\r\n\r\n"
    try:
        writer.write(head.encode() + image)
        answer = await asyncio.wait_for(read_answer(reader), LOST_S)
    except (OSError, EOFError, TimeoutError):
        found.lost += 1
        writer.close()
        return None
    found.statuses[answer.status] += 1
    if answer.status == OK:
        found.seconds.append(time.perf_counter() - started)
        found.wrong += json.loads(answer.body)[0]["score"] != score
    return answer


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read an answer that says how long it is."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split()[1]), float(headers.get("retry-after", 0)), body)


# ---------------------------------------------------------------------------------------------------------
# What is printed


def report(found: Found, memory: list[list[float]]) -> None:
    """Print the figures as a table, and whose memory it is."""
    others = found.statuses.total() - found.statuses[OK] - found.statuses[REFUSED]
    cuts = statistics.quantiles(found.seconds, n=100) if len(found.seconds) > 1 else [float("nan")] * 99
    print(
        "| requests | images/s | images/s per core | p50 s | p99 s | 503 | others | lost | wrong scores "
        "| MB at start, middle, end |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    totals = ", ".join(f"{sum(each):.0f}" for each in memory)
    refused = found.statuses[REFUSED] / max(1, found.asked)
    rates = f"{found.statuses[OK] / found.lasted_s:.1f} | {found.statuses[OK] / found.cpu_s:.1f}"
    print(
        f"| {found.asked} | {rates} | {cuts[49]:.3f} | {cuts[98]:.3f} "
        f"| {refused:.1%} | {others} | {found.lost} | {found.wrong} | {totals} |"
    )
    answers, *decode = (f"{each:.0f}" for each in memory[-1])
    print(f"\nMB at the end: {answers} of the process that answers, {', '.join(decode)} of those that decode")


if __name__ == "__main__":
    cli.run(main)
