"""Score every image of every benchmark by one or more detectors, and show the tables."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.names import tell_apart
from commands.roots import add_manifest_columns, add_root, find_some, present
from commands.tables import show_run
from data.choices import PROTOCOLS
from data.images.degrade import CLEAN, SETS, parse_degradation
from gapl.files.refusal import check_is_file
from gapl.names import DETECTOR_FILE, DETECTOR_NAME, FULL, MODEL_HELP, RELEASED_FILE, VIEWS, VIEWS_HELP
from models.device import DEVICES, pick_device
from models.precision import PRECISIONS, resolve_precision
from models.weights.hub import find_model
from models.weights.versions import package_versions

if TYPE_CHECKING:
    from data.benchmarks.benchmark import Absent, Benchmark
    from data.loading.plan import Rank
    from evaluation.scoring.folder import JobFolder
    from evaluation.scoring.job import Job
    from evaluation.scoring.score import ScoredModel

DEFAULT_WORKERS = 2  # processes that decode images
WHOLE = (0, 1)  # the only part, when the images are not dealt to several machines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_path", "--model-path", nargs="+", required=True, help=MODEL_HELP)
    add_root(parser)
    add_manifest_columns(parser)
    text = f"its file's, or its folder's for {DETECTOR_NAME} and {RELEASED_FILE}"
    parser.add_argument(
        "--out", type=Path, help=f"default: runs/benchmarks/NAME, the name of the first detector ({text})"
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="all", help="which images are scored (default: all)"
    )
    text = "such as none jpeg:75; suite: the robustness matrix; deliveries: the ways in which people meet pictures"
    parser.add_argument("--degrade", nargs="+", default=[CLEAN], metavar="NAME", help=text)
    parser.add_argument("--views", choices=VIEWS, default=FULL, help=VIEWS_HELP)
    parser.add_argument("--details", action="store_true", help="store embeddings and attention to prototypes too")
    parser.add_argument(
        "--shard", type=_shard, default=WHOLE, metavar="I/N", help="score only the I-th of N parts"
    )
    parser.add_argument(
        "--ray", type=int, metavar="N", help="score on a Ray cluster with N workers (needs ray[data])"
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="address of the cluster; default: start one here")
    parser.add_argument("--overwrite", action="store_true", help="replace the scores in --out")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    text = "precision of the tower (default: fp32, as in verdicts; auto: bf16 where it is fast)"
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=text)
    text = "images per forward pass (default: 32, or as many as have room in all degradations and views)"
    parser.add_argument("--batch-size", type=int, help=text)
    text = f"processes that decode images (default: {DEFAULT_WORKERS}), without --ray"
    parser.add_argument("--num-workers", type=int, help=text)
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")


def _shard(text: str) -> tuple[int, int]:
    """Parse "2/8" to (1, 8)."""
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f"{text!r}; expected I/N with 1 <= I <= N, such as 2/8")
    return int(number) - 1, int(count)


def run(args: argparse.Namespace) -> None:
    _refuse_without_effect(args)
    job, models, out = _prepare(args)
    from evaluation.scoring.folder import JobFolder

    with _processes(args.device) as (rank, device, wait_for_all):
        if args.overwrite and rank.index == 0:
            _remove_results(out)
        wait_for_all()
        folder = JobFolder(out, job)
        was_complete = folder.is_complete()
        if args.ray:
            from evaluation.scoring.cluster import score_on_ray

            score_on_ray(
                folder,
                num_actors=args.ray,
                device=pick_device(args.device),
                allow_tiny=args.allow_tiny,
                address=args.ray_address,
            )
        else:
            from evaluation.scoring.score import score_job

            for model in models:
                model.place(device=device, precision=job.precision)
            score_job(
                folder,
                models,
                device=device,
                num_workers=DEFAULT_WORKERS if args.num_workers is None else args.num_workers,
                part=args.shard[0] * rank.world_size + rank.index,
                num_parts=args.shard[1] * rank.world_size,
                quiet=rank.index > 0,
            )
        wait_for_all()
        if rank.index == 0:
            _conclude(folder, models, shard=args.shard, was_complete=was_complete)


def _refuse_without_effect(args: argparse.Namespace) -> None:
    """Raise ValueError for an option that another one, or its absence, leaves without effect."""
    if args.ray is not None:
        if args.ray < 1:
            raise ValueError(f"--ray takes the number of workers, at least 1, not {args.ray}")
        if args.shard != WHOLE:
            raise ValueError("--ray and --shard exclude each other: Ray deals out the images itself")
        if args.num_workers is not None:
            raise ValueError("--ray and --num-workers exclude each other: Ray's workers decode their images")
    if args.ray_address and not args.ray:
        raise ValueError("--ray-address needs --ray N")


def _prepare(args: argparse.Namespace) -> tuple[Job, list[ScoredModel], Path]:
    """Find the benchmarks and load the detectors; refuse what can be refused without torch before its import."""
    from data.benchmarks.benchmark import apply_protocol

    names = [name if args.views == FULL else f"{name}-{args.views}" for name in _names(args.model_path)]
    out = args.out or Path("runs/benchmarks", names[0])
    degradations = _degradations(args.degrade)
    found = find_some(args, columns=args.columns)
    benchmarks = [apply_protocol(each, args.protocol) for each in present(found)]
    files = [find_model(path) for path in args.model_path]
    for file in files:
        check_is_file(file, what=DETECTOR_FILE)
    device = pick_device(args.device)  # before the weights are read: there may be no such device
    precision = resolve_precision(args.precision, device=device)
    from evaluation.scoring.folder import batch_size_of
    from evaluation.scoring.job import Job, place_images
    from evaluation.scoring.score import ScoredModel, fitting_batch_size

    models = []
    for name, path, file in zip(names, args.model_path, files, strict=True):
        print(f"[INFO] Loading model from {path}...", flush=True)
        models.append(ScoredModel.load(name, path, file, views=args.views, allow_tiny=args.allow_tiny))
    batch_size = args.batch_size
    if batch_size is None and not args.overwrite:
        batch_size = batch_size_of(out)  # of the run that goes on
    if batch_size is None:
        batch_size = fitting_batch_size(models, num_degradations=len(degradations))
    job = Job(
        images=place_images(benchmarks),
        models={model.name: model.about for model in models},
        degradations=degradations,
        protocol=args.protocol,
        batch_size=batch_size,
        details=args.details,
        precision=precision,
        about=_describe(found, benchmarks),
    )
    return job, models, out


def _names(paths: Sequence[str]) -> list[str]:
    """Return the name of each detector: the file's, or its folder's where each run has a file of that name.

    If they are the same, as much of the path as tells them apart.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(f"--model_path names a file twice: {' '.join(paths)}")
    files = [Path(path).resolve() for path in paths]
    names = tell_apart(
        [file.parent if file.name in (DETECTOR_NAME, RELEASED_FILE) else file.with_suffix("") for file in files]
    )
    return names if len(set(names)) == len(names) else list(paths)


def _degradations(given: Sequence[str]) -> list[str]:
    """Return the names, a name of SETS replaced by what it stands for. Raises ValueError for an unknown one."""
    found = [each for name in given for each in (SETS[name] if name in SETS else (parse_degradation(name),))]
    return list(dict.fromkeys(each.name for each in found))


@contextmanager
def _processes(device: str) -> Iterator[tuple[Rank, str, Callable[[], None]]]:
    """Yield the rank, device and barrier of this process: under torchrun among others, else alone."""
    from data.loading.plan import ALONE

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, pick_device(device), lambda: None
        return
    from training.processes import rank_of, start_processes

    with start_processes(device=pick_device(device)) as accelerator:
        yield rank_of(accelerator), str(accelerator.device), accelerator.wait_for_everyone


def _remove_results(out: Path) -> None:
    from evaluation.scoring.folder import IMAGES, JOB, PARTS, TABLE

    for pattern in (JOB, IMAGES, TABLE, f"{PARTS}/*", "metrics.*", "robustness.csv"):
        for path in out.glob(pattern):
            path.unlink()


def _conclude(
    folder: JobFolder, models: Sequence[ScoredModel], *, shard: tuple[int, int], was_complete: bool
) -> None:
    """Make the table and show it when all parts are there; else say how to get there."""
    from evaluation.scoring.folder import TABLE, finish

    out = folder.folder
    if was_complete:
        print(f"[INFO] {out / TABLE} holds these scores; --overwrite scores anew")
    elif missing := folder.missing():
        number, total = shard[0] + 1, folder.job.num_batches
        print(f"[INFO] shard {number}/{shard[1]}: {total - len(missing)} of {total} batches are scored here")
        print(f"[INFO] with all shards: python benchmarks.py merge {out} ... --out OUT")
        return
    else:
        finish(out)
    show_run(out)
    for notice in dict.fromkeys(model.notice for model in models if model.notice):
        print(f"note: {notice}")


# ---------------------------------------------------------------------------------------------------------
# What the table says of itself


def _describe(found: Sequence[Benchmark | Absent], benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
    from data.benchmarks.benchmark import Absent

    about = {each.name: _about_absent(each) for each in found if isinstance(each, Absent)}
    about |= {each.name: _about_benchmark(each) for each in benchmarks}
    return {
        "command": shlex.join(["python", "benchmarks.py", *sys.argv[1:]]),
        "benchmarks": about,
        "versions": package_versions(),
    }


def _about_absent(benchmark: Absent) -> dict[str, Any]:
    reason = benchmark.reason.partition(":")[0]
    return {"absent": reason, "missing_subsets": [], "note": "", "n_images": 0}


def _about_benchmark(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "absent": None,
        "missing_subsets": list(benchmark.missing_subsets),
        "note": benchmark.spec.note if benchmark.spec else "",
        "n_images": len(benchmark.images()),
        "file_list_sha256": benchmark.file_list_sha256(),
    }
