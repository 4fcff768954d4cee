"""Treat a service badly, and see that it answers all the same: hostile files, and clients that never finish.

    python timing/abuse.py files                     each of timing/hostile_files.py, alone and in a job of all
    python timing/abuse.py connections --seconds 60  slow and lying clients, while others ask
    python timing/abuse.py connections --model_path FILE --times 2 --serve "--workers 4"

The service is started for this, on this machine. Exit code 1 says that a file got neither a verdict nor a problem
document, or that a client who asked properly got no verdict, or a wrong one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from timing.hostile_files import hostile_files
from timing.service import END_S, memory_mb, start
from timing.serving import OK, Answer, expected_scores, make_image, read_answer

BOUNDARY = "a-boundary-of-forms"
AT_ONCE = 4  # hostile files that are sent at a time
PAUSE_S = 1.0  # of a slow client, after a byte
JOB_S = 600  # that the job of all files may take
HOST = "127.0.0.1"


def main() -> int:
    args = parse_arguments()
    what: Callable[..., Coroutine[Any, Any, bool]] = send_files if args.what == "files" else hold_connections
    images = [make_image(seed, megapixels=0.3) for seed in range(args.clients)]
    given = list(zip(images, expected_scores(images, args), strict=True))
    with TemporaryDirectory() as folder:
        process, port = start(args, Path(folder))
        try:
            is_good = asyncio.run(what(port, process, given, args))
            process.send_signal(signal.SIGTERM)
            code = process.wait(END_S)
        finally:
            process.kill()
    print(f"\nexit code of the service: {code}")
    return int(not is_good or bool(code))


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("what", choices=("files", "connections"))
    parser.add_argument("--model_path", "--model-path", help="as of gapl serve (default: the detector that ships)")
    parser.add_argument("--views", default="full", help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=30, help="of clients who ask properly (default: %(default)s)"
    )
    parser.add_argument("--clients", type=int, default=4, help="of them (default: %(default)s)")
    parser.add_argument("--times", type=int, default=1, help="bad clients, that many times as many")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="further options of gapl serve")
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------
# One request


def head(port: int, *lines: str) -> bytes:
    """Return the beginning of a request."""
    return "\r\n".join(["POST /v1/detect HTTP/1.1", f"Host: {HOST}:{port}", *lines, "", ""]).encode()


async def ask(port: int, body: bytes) -> Answer:
    """Send an image by a connection of its own, and return the answer. Raises OSError or EOFError without one."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(head(port, f"Content-Length: {len(body)}") + body)
        return await read_answer(reader)
    finally:
        writer.close()


def is_problem(answer: Answer) -> bool:
    """Tell whether an answer is the problem document of its status, of something that the client can mend."""
    document = json.loads(answer.body)
    known = str(document["type"]).startswith("urn:gapl:problem:") and document["status"] == answer.status
    return known and 400 <= answer.status < 500


# ---------------------------------------------------------------------------------------------------------
# Files


async def send_files(
    port: int, process: subprocess.Popen[str], given: list[tuple[bytes, float]], args: argparse.Namespace
) -> bool:
    """Send each hostile file alone, and then all of them as a job. Return whether each had an outcome."""
    files, outcomes, bad = hostile_files(), Counter[str](), list[str]()
    before, places = memory_mb(process.pid), asyncio.Semaphore(AT_ONCE)

    async def send(name: str, content: bytes) -> None:
        async with places:
            try:
                answer = await ask(port, content)
            except (OSError, EOFError) as error:
                bad.append(f"{name}: {type(error).__name__}")
                return
        outcomes[f"{answer.status}"] += 1
        if answer.status != OK and not is_problem(answer):
            bad.append(f"{name}: {answer.status} {answer.body[:200]!r}")

    started = time.perf_counter()
    await asyncio.gather(*(send(name, content) for name, content in files.items()))
    seconds = time.perf_counter() - started
    job, rows = await asyncio.to_thread(do_job, port, files)
    missing = set(files) - {row["path"].partition("/")[0] for row in rows}
    image, score = given[0]
    is_right = json.loads((await ask(port, image)).body)[0]["score"] == score
    print(f"{len(files)} files in {seconds:.0f} s: {dict(outcomes)}")
    print(f"as one job: {job['state']}, {job['found']} rows, {job['unreadable']} of them without a verdict")
    print(f"MB before and after: {sum(before):.0f}, {sum(memory_mb(process.pid)):.0f}")
    print(f"then an image has its score: {is_right}")
    print(*(f"BAD {line}" for line in [*bad, *(f"{name}: no row" for name in sorted(missing))]), sep="\n")
    return not bad and not missing and is_right and job["state"] == "done"


def do_job(port: int, files: dict[str, bytes]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Send files as a job, and return it at its end with its rows."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{{}}"\r\n\r\n'
    parts = [head.format(name).encode() + content + b"\r\n" for name, content in files.items()]
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    url, end = f"http://{HOST}:{port}/v1/batches", time.perf_counter() + JOB_S
    job: dict[str, Any] = json.load(urlopen(Request(url, body, kind)))
    while job["state"] not in ("done", "failed") and time.perf_counter() < end:
        time.sleep(0.5)
        job = json.load(urlopen(f"{url}/{job['id']}"))
    rows = urlopen(f"{url}/{job['id']}/results") if job["state"] == "done" else []
    return job, [json.loads(line) for line in rows]


# ---------------------------------------------------------------------------------------------------------
# Connections


Attack = Callable[[int], Awaitable[bytes]]


async def trickle(port: int, begin: bytes, then: bytes, *, pause_s: float = PAUSE_S) -> bytes:
    """Send something, and then a piece again and again. Return the first line of the answer, if there was one."""
    reader, writer = await asyncio.open_connection(HOST, port)
    answered = asyncio.ensure_future(reader.readline())
    try:
        writer.write(begin)
        while not answered.done() and not writer.is_closing():
            await asyncio.wait([answered], timeout=pause_s)
            writer.write(then)
            await writer.drain()
        return await answered
    finally:
        answered.cancel()
        writer.close()


def attacks(port: int) -> dict[str, tuple[int, Attack]]:
    """Return how clients behave badly: how many do, and what one does until the service ends it."""
    long, chunked = "Content-Length: 60000000", "Transfer-Encoding: chunked"
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    return {
        "say nothing": (600, lambda port: trickle(port, b"", b"")),
        "slow headers": (100, lambda port: trickle(port, head(port)[:-2], b"X-A: b\r\n")),
        "half a header": (50, lambda port: trickle(port, b"POST /v1/de", b"t")),
        "slow body": (30, lambda port: trickle(port, head(port, long), b"x")),
        "body that does not come": (10, lambda port: trickle(port, head(port, long), b"")),
        "slow chunks": (10, lambda port: trickle(port, head(port, chunked), b"1\r\nx\r\n")),
        "chunks without end": (4, lambda port: trickle(port, head(port, chunked), piece, pause_s=0.01)),
        "too large": (
            4,
            lambda port: trickle(port, head(port, "Content-Length: 99999999999"), piece, pause_s=0.01),
        ),
        "absurd length": (4, lambda port: trickle(port, head(port, f"Content-Length: {'9' * 5000}"), b"x")),
        "two lengths": (4, lambda port: trickle(port, head(port, "Content-Length: 3", "Content-Length: 4"), b"x")),
        "no HTTP": (10, lambda port: trickle(port, b"\x16\x03\x01\0\xff" + bytes(99), b"\0")),
    }


async def hold_connections(
    port: int, process: subprocess.Popen[str], given: list[tuple[bytes, float]], args: argparse.Namespace
) -> bool:
    """Attack in all ways at once while clients ask properly. Return whether all of these were answered rightly."""
    calm_s, _ = await ask_properly(port, given, seconds=args.seconds / 4)
    before, ends, running = memory_mb(process.pid), Counter[tuple[str, str]](), True

    async def attack(name: str, one: Attack) -> None:
        while running:
            try:
                line = (await one(port)).decode("latin-1").strip() or "closed"
            except (OSError, EOFError):
                line = "closed"
            ends[name, line] += 1

    attackers = [
        asyncio.create_task(attack(name, one))
        for name, (num, one) in attacks(port).items()
        for _ in range(num * args.times)
    ]
    seconds, statuses = await ask_properly(port, given, seconds=args.seconds)
    after, running = memory_mb(process.pid), False
    for attacker in attackers:
        attacker.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    print("| clients that | ended by | times |\n|---|---|---|")
    print(*(f"| {name} | {line} | {num} |" for (name, line), num in sorted(ends.items())), sep="\n")
    print(f"\nothers, of {len(attackers)} bad clients: {dict(statuses)}")
    print(f"MB before and then: {sum(before):.0f}, {sum(after):.0f}")
    for what, each in (("before", calm_s), ("then", seconds)):
        cuts = statistics.quantiles(each, n=100)
        print(f"{what}: p50 {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s")
    return set(statuses) == {"200"}


async def ask_properly(
    port: int, given: list[tuple[bytes, float]], *, seconds: float
) -> tuple[list[float], Counter[str]]:
    """Send images, each again and again by new connections. Return the seconds of verdicts, and all outcomes."""
    took, statuses, end = list[float](), Counter[str](), time.perf_counter() + seconds

    async def client(image: bytes, score: float) -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                answer = await ask(port, image)
            except (OSError, EOFError) as error:
                statuses[type(error).__name__] += 1
                continue
            is_right = answer.status != OK or json.loads(answer.body)[0]["score"] == score
            statuses[str(answer.status) if is_right else "wrong score"] += 1
            took.append(time.perf_counter() - started)

    await asyncio.gather(*(client(*each) for each in given))
    return took, statuses


if __name__ == "__main__":
    cli.run(main)
