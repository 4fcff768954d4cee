"""Judge a folder of mixed files with inference.py: its rate, its memory, and what a kill costs.

    python timing/judging.py --model_path pretrained/gapl-vit-b16-open.safetensors --files 2000
    python timing/judging.py --model_path FILE --files 2000 --views fast --kills 3

The files are made on the spot, from seeded noise: photographs of 12 megapixels, PNG, WebP, TIFF of 50 megapixels,
broken ones, and copies; and a zip of small images beside them. The command runs in a process of its own. Peak
memory is that of its tree of processes, each page once, looked at every half second. Then the command is killed
(SIGKILL) --kills times at random moments, each time started again; its table must have every image once and be
that of the undisturbed run. With --ray, one of its workers is killed instead.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

PROJECT = Path(__file__).resolve().parent.parent
KINDS = {  # of every 100 files: how many, their (width, height) in pixels and suffix
    "photographs": (35, (4000, 3000), ".jpg"),
    "screenshots": (25, (1920, 1080), ".png"),
    "small": (20, (800, 600), ".webp"),
    "scans": (2, (8660, 5774), ".tif"),
    "broken": (8, (1200, 900), ".jpg"),
}  # and the rest are copies
PATTERN_PX = 500
IN_ZIP = 20
EVERY_S = 0.5


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--workers", type=int, help="of inference.py (default: its own)")
    parser.add_argument("--ray", type=int, help="of inference.py; its workers are killed, and not the command")
    parser.add_argument("--views", default="full")
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-tiny", action="store_true")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    num_images = make_files(folder / "in", args.files, seed=args.seed)
    size = sum(path.stat().st_size for path in (folder / "in").iterdir())
    print(f"{args.files} files of {size / 1e9:.2f} GB with {num_images} images", flush=True)
    command = [sys.executable, "inference.py", "--model_path", args.model_path, "--views", args.views]
    command += ["--allow-tiny"] * args.allow_tiny
    command += [] if args.workers is None else ["--workers", str(args.workers)]
    named = [str(folder / "in"), str(folder / "in/more.zip"), "--out"]

    began = time.monotonic()
    peak = run(watched([*command, *named, str(folder / "alone.parquet")]))
    seconds = time.monotonic() - began
    expected = read_rows(folder / "alone.parquet")
    print(
        f"undisturbed: {seconds:.1f} s, {num_images / seconds:.2f} images/s, peak {peak / 1e9:.2f} GB of memory",
        flush=True,
    )
    require_all(expected, num_images)

    out = folder / "killed.parquet"
    rng = random.Random(args.seed)
    on_ray = ["--ray", str(args.ray)] if args.ray else []
    kill_at = [rng.uniform(0.1, 0.9) * seconds for _ in range(args.kills)]
    for number, after_s in enumerate(kill_at, 1):
        kept = kill([*command, *on_ray, *named, str(out)], after_s, workers=bool(args.ray))
        print(f"kill {number} after {after_s:.1f} s: {kept} results were kept", flush=True)
    if not out.exists():
        run(watched([*command, *on_ray, *named, str(out)]))
    found = read_rows(out)
    require_all(found, num_images)
    same = sum(is_same(expected[name], found[name]) for name in expected)
    print(f"after {args.kills} kills: {len(found)} rows, none lost or doubled, {same} as undisturbed")


def make_files(folder: Path, num_files: int, *, seed: int) -> int:
    """Write the files, and return how many images are in them."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    noise = np.random.default_rng(seed)
    kinds = [kind for kind, (share, _, _) in KINDS.items() for _ in range(share)]
    kinds += ["copies"] * (100 - len(kinds))
    random.Random(seed).shuffle(kinds)
    written: list[Path] = []
    for number in range(num_files):
        kind = kinds[number % 100]
        if kind == "copies" and written:
            source = noise.choice(len(written))
            (folder / f"{number:05}{written[source].suffix}").write_bytes(written[source].read_bytes())
            continue
        _, (width, height), suffix = KINDS.get(kind, KINDS["small"])
        pattern = noise.integers(0, 256, (PATTERN_PX, PATTERN_PX, 3), dtype=np.uint8)
        image = Image.fromarray(pattern).resize((width, height))
        path = folder / f"{number:05}{suffix}"
        image.save(path)
        if kind == "broken":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            written.append(path)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for number in range(IN_ZIP):
            pattern = noise.integers(0, 256, (300, 400, 3), dtype=np.uint8)
            image_path = folder / "in_zip.png"
            Image.fromarray(pattern).save(image_path)
            archive.write(image_path, f"{number}.png")
        image_path.unlink()
    return num_files + IN_ZIP


def watched(command: list[str]) -> subprocess.Popen[bytes]:
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=PROJECT, stdout=silent, stderr=silent, start_new_session=True)


def run(process: subprocess.Popen[bytes]) -> int:
    """Wait for the command, and return the most bytes that its processes had at a time."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        time.sleep(EVERY_S)
    if process.returncode not in (0, 1):
        raise ValueError(f"inference.py ended with {process.returncode}")
    return peak


def tree_bytes(pid: int) -> int:
    """Return the memory of a process and those below it, each shared page once."""
    import psutil

    found = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for each in tree:
        try:
            found += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it has just ended
            continue
    return found


def kill(command: list[str], after_s: float, *, workers: bool) -> int:
    """Kill the command, or one of its Ray workers, so long after its start. Return how many results were kept."""
    import psutil

    process = watched(command)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < after_s:
        time.sleep(0.05)
    journal = Path(f"{command[-1]}.part")
    kept = max(0, len(journal.read_bytes().splitlines()) - 1) if journal.exists() else 0
    if process.poll() is None and not workers:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    elif process.poll() is None:
        tree = psutil.Process(process.pid).children(recursive=True)
        for victim in [each for each in tree if any("MapWorker" in word for word in each.cmdline())][:1]:
            victim.kill()
        run(process)
    return kept


def read_rows(path: Path) -> dict[str, dict[str, object]]:
    """Return the rows of a table by their paths. Raises ValueError when a path has two."""
    from pyarrow import parquet

    rows = parquet.read_table(path).to_pylist()
    by_path = {str(row["path"]): row for row in rows}
    if len(by_path) < len(rows):
        raise ValueError(f"{path}: {len(rows) - len(by_path)} rows are there twice")
    return by_path


def require_all(rows: dict[str, dict[str, object]], num_images: int) -> None:
    if len(rows) != num_images:
        raise ValueError(f"{len(rows)} rows of {num_images} images")


def is_same(one: dict[str, object], other: dict[str, object]) -> bool:
    """Tell whether two rows have one verdict; what is judged in another batch differs in its last digits."""
    names = ("sha256", "label", "error", "warnings")
    logits = [float(str(row["logit"] or 0)) for row in (one, other)]
    return all(one[name] == other[name] for name in names) and abs(logits[0] - logits[1]) < 1e-4


if __name__ == "__main__":
    cli.run(main)
