"""Tell a service to end while clients ask it, and see that all that it had accepted is answered.

    python timing/ending.py --clients 32 --times 5
    python timing/ending.py --model_path FILE --seconds 20

The service is started for this, on this machine, each time anew. Each client has an image of its own, and sends it
by a new connection as soon as the one before is answered. Exit code 1 says that a request that was sent before
SIGTERM was not answered, or wrongly, or that the service did not end with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from timing.abuse import HOST, head
from timing.service import END_S, start
from timing.serving import OK, expected_scores, make_image, read_answer

LOST = "lost"
WRONG = "wrong score"


def main() -> int:
    args = parse_arguments()
    images = [make_image(seed, megapixels=0.3) for seed in range(args.clients)]
    given = list(zip(images, expected_scores(images, args), strict=True))
    bad = 0
    for number in range(args.times):
        with TemporaryDirectory() as folder:
            process, port = start(args, Path(folder))
            try:
                outcomes, seconds = asyncio.run(end_it(port, process, given, after_s=args.seconds))
            finally:
                process.kill()
        print(
            f"{number + 1}: ended with {process.returncode} after {seconds:.1f} s;", dict(sorted(outcomes.items()))
        )
        bad += process.returncode or sum(num for name, num in outcomes.items() if name.endswith((LOST, WRONG)))
    return int(bad > 0)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", help="as of gapl serve (default: the detector that ships)")
    parser.add_argument("--views", default="full", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5, help="until SIGTERM (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--times", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="further options of gapl serve")
    return parser.parse_args()


async def end_it(
    port: int, process: subprocess.Popen[str], given: list[tuple[bytes, float]], *, after_s: float
) -> tuple[Counter[str], float]:
    """Tell the service to end after so many seconds; return what became of all requests, and how long it took."""
    outcomes, is_told = Counter[str](), False

    async def client(image: bytes, score: float) -> None:
        while process.poll() is None:
            was_in_time = False
            try:
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(head(port, f"Content-Length: {len(image)}") + image)
                await writer.drain()
                was_in_time = not is_told
                answer = await read_answer(reader)
                writer.close()
                is_right = answer.status != OK or json.loads(answer.body)[0]["score"] == score
                outcome = str(answer.status) if is_right else WRONG
            except (OSError, EOFError):
                outcome = LOST if was_in_time or not is_told else "refused"
                await asyncio.sleep(0.1)
            outcomes[f"sent {'before' if was_in_time else 'after'}: {outcome}"] += 1

    clients = [asyncio.create_task(client(*each)) for each in given]
    await asyncio.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    is_told, started = True, time.perf_counter()
    await asyncio.to_thread(process.wait, END_S)
    seconds = time.perf_counter() - started
    await asyncio.gather(*clients)
    return outcomes, seconds


if __name__ == "__main__":
    cli.run(main)
