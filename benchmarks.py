"""Scores detectors on every benchmark below a folder: per-image scores to parquet, then tables.

    python benchmarks.py --model_path runs/stage2/detector.safetensors --data-root DIR
    python benchmarks.py run --model_path A.safetensors B.safetensors --data-root DIR --benchmarks GenImage,UFD
    python benchmarks.py list --data-root DIR           what is there, beside what was published
    python benchmarks.py verify --data-root DIR         every image read: broken and doubled ones, formats, sizes
    python benchmarks.py merge OUT1 OUT2 --out OUT      the parts of `run --shard 1/2` and `--shard 2/2`
    python benchmarks.py report scores.parquet          tables of this or another tool's scores
    python benchmarks.py report scores.parquet --html report.html
    python benchmarks.py compare A.parquet B.parquet    two detectors on the same images
    python benchmarks.py audit --data-root DIR          what file format, size and compression tell of the label
    python benchmarks.py card scores.parquet --model_path FILE --licence mit --out README.md
    python benchmarks.py calibrate scores.parquet --model_path A.safetensors --out B.safetensors

A data root with a folder `bench` is searched there. `run`, which is meant when no command is named, scores every
image of every subset: <out>/scores.parquet has a row for each, <out>/metrics.csv, .md and .tex the table. A run
that was stopped is continued by the same command; under torchrun the processes share the images.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

import cli
from data.benchmarks import verify as verification
from data.benchmarks.find import Absent, Benchmark, apply_protocol, find_benchmarks
from data.choices import PROTOCOLS
from data.images.degrade import CLEAN, SUITE, parse_degradation
from data.images.variants import Degrade
from evaluation import commands
from evaluation.scoring.cluster import score_on_ray
from evaluation.scoring.job import IMAGES, JOB, PARTS, TABLE, JobFolder, finish, make_job
from evaluation.scoring.score import ScoredModel, score_job
from evaluation.tables.scores import tell_apart
from gapl.calibration import METHODS
from models.precision import PRECISIONS, resolve_precision
from models.weights.names import MODEL_HELP
from models.weights.versions import PACKAGES

DEFAULT_WORKERS = 2  # processes that decode images
Found = list[Benchmark | Absent]


def main() -> None:
    words = sys.argv[1:]
    if not words or (words[0] not in COMMANDS and words[0] not in ("-h", "--help")):
        words = ["run", *words]
    args = parse_arguments(words)
    COMMANDS[args.command](args)


# ---------------------------------------------------------------------------------------------------------
# run


def run(args: argparse.Namespace) -> None:
    found = find(args)
    benchmarks = [apply_protocol(each, args.protocol) for each in require_some(found, args)]
    degradations = {name: None if name == CLEAN else parse_degradation(name) for name in args.degrade}
    device = cli.pick_device(args.device)  # before the weights are read: there may be no such device
    precision = resolve_precision(args.precision, device=device)
    models = load_models(args)
    job = make_job(
        benchmarks,
        models={model.name: model.sha256 for model in models},
        degradations=list(degradations),
        protocol=args.protocol,
        batch_size=args.batch_size,
        details=args.details,
        precision=precision,
        about=describe(found, benchmarks, models),
    )
    with processes(args.device) as (rank, world, device, wait_for_all):
        if args.overwrite and rank == 0:
            remove_results(args.out)
        wait_for_all()
        folder = JobFolder(args.out, job)
        was_complete = folder.is_complete()
        if args.ray:
            score_on_cluster(args, folder, models)
        else:
            score(args, folder, models, degradations, device=device, rank=rank, world=world)
        wait_for_all()
        if rank == 0:
            conclude(args, folder, models, was_complete=was_complete)


def score(
    args: argparse.Namespace,
    folder: JobFolder,
    models: Sequence[ScoredModel],
    degradations: Mapping[str, Degrade | None],
    *,
    device: str,
    rank: int,
    world: int,
) -> None:
    """This process's part of this shard's images."""
    for model in models:
        model.place(device=device, precision=folder.job.precision)
    number, num_shards = args.shard
    score_job(
        *(folder, models),
        degradations=degradations,
        device=device,
        num_workers=DEFAULT_WORKERS if args.num_workers is None else args.num_workers,
        part=number * world + rank,
        num_parts=num_shards * world,
        quiet=rank > 0,
    )


def score_on_cluster(args: argparse.Namespace, folder: JobFolder, models: Sequence[ScoredModel]) -> None:
    score_on_ray(
        folder,
        [(model.name, model.path) for model in models],
        num_actors=args.ray,
        device=cli.pick_device(args.device),
        allow_tiny=args.allow_tiny,
        address=args.ray_address,
    )


def conclude(
    args: argparse.Namespace, folder: JobFolder, models: Sequence[ScoredModel], *, was_complete: bool
) -> None:
    """The table and what it shows, when all parts are there."""
    if was_complete:
        print(f"[INFO] {args.out / TABLE} holds these scores; --overwrite scores anew")
    elif missing := folder.missing():
        shard, total = args.shard[0] + 1, folder.job.num_batches
        print(f"[INFO] shard {shard}/{args.shard[1]}: {total - len(missing)} of {total} batches are scored here")
        print(f"[INFO] with all shards: python benchmarks.py merge {args.out} ... --out OUT")
        return
    else:
        finish(folder.folder)
    commands.show_run(args.out)
    for notice in dict.fromkeys(model.notice for model in models if model.notice):
        print(f"note: {notice}")


@contextmanager
def processes(device: str) -> Iterator[tuple[int, int, str, Callable[[], None]]]:
    """(rank, how many, device, barrier) under torchrun, or this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1, cli.pick_device(device), lambda: None
        return
    from training.processes import share_of, start_processes

    with start_processes(device=cli.pick_device(device)) as accelerator:
        share = share_of(accelerator)
        yield share.rank, share.world, str(accelerator.device), accelerator.wait_for_everyone


def load_models(args: argparse.Namespace) -> list[ScoredModel]:
    models = []
    for name, path in zip(model_names(args.model_path), args.model_path, strict=True):
        print(f"[INFO] Loading model from {path}...", flush=True)
        models.append(ScoredModel.load(name, path, allow_tiny=args.allow_tiny))
    return models


def model_names(paths: Sequence[str]) -> list[str]:
    """Of each its folder's name, or as much of the path as tells them apart."""
    if len(set(paths)) < len(paths):
        raise ValueError(f"--model_path names a file twice: {' '.join(paths)}")
    names = tell_apart([Path(path).resolve().parent for path in paths])
    return names if len(set(names)) == len(names) else list(paths)


def describe(found: Found, benchmarks: Sequence[Benchmark], models: Sequence[ScoredModel]) -> dict[str, Any]:
    """What the table says of itself."""
    about: dict[str, Any] = {
        each.name: {"absent": each.reason.partition(":")[0], "missing_subsets": [], "note": "", "n_images": 0}
        for each in found
        if isinstance(each, Absent)
    }
    for each in benchmarks:
        about[each.name] = {
            "absent": None,
            "missing_subsets": list(each.missing_subsets),
            "note": each.spec.note if each.spec else "",
            "n_images": len(each.images()),
            "file_list_sha256": each.file_list_sha256(),
        }
    return {
        "command": shlex.join(["python", "benchmarks.py", *sys.argv[1:]]),
        "models": {model.name: about_model(model) for model in models},
        "benchmarks": about,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def about_model(model: ScoredModel) -> dict[str, Any]:
    calibration = model.calibration and model.calibration.to_dict()
    return {
        "path": model.path,
        "sha256": model.sha256,
        "threshold": model.threshold,
        "calibration": calibration,
        "prototypes": model.prototypes,
    }


def remove_results(out: Path) -> None:
    for pattern in (JOB, IMAGES, TABLE, f"{PARTS}/*", "metrics.*", "robustness.csv"):
        for path in out.glob(pattern):
            path.unlink()


# ---------------------------------------------------------------------------------------------------------
# The other commands


def merge(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    finish(args.out, parts_of=args.folders)
    commands.show_run(args.out)


def list_benchmarks(args: argparse.Namespace) -> None:
    print(verification.to_text([verification.verify(each, read=False) for each in find(args)]))


def verify(args: argparse.Namespace) -> None:
    found = find(args)
    require_some(found, args)
    verified = [verification.verify(each, num_workers=args.num_workers) for each in found]
    print(verification.to_text(verified))
    if args.out:
        rows = pd.DataFrame(verification.to_problems(verified), columns=["benchmark", "subset", "uri", "problem"])
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(args.out, index=False)
        print(f"{len(rows)} problems in {args.out}")


def find(args: argparse.Namespace) -> Found:
    if args.data_root is None:
        raise ValueError("no benchmarks to look for: give --data-root or set GAPL_DATA_ROOT")
    names = args.benchmarks.split(",") if args.benchmarks else None
    inner = Path(args.data_root) / "bench"
    root = inner if inner.is_dir() else Path(args.data_root)
    return find_benchmarks(root, names=names, catalog=args.catalog)


def require_some(found: Found, args: argparse.Namespace) -> list[Benchmark]:
    benchmarks = [each for each in found if isinstance(each, Benchmark)]
    if not benchmarks:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in found if isinstance(each, Absent))
        raise ValueError(f"{args.data_root}: no benchmark found ({reasons})")
    return benchmarks


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": run,
    "list": list_benchmarks,
    "verify": verify,
    "merge": merge,
    "report": lambda args: commands.report(
        args.tables,
        columns=args.columns,
        out=args.out,
        html=args.html,
        benchmarks=require_some(find(args), args) if args.audit else [],
        thumbnails=not args.no_thumbnails,
        num_workers=args.num_workers,
    ),
    "card": lambda args: commands.card(
        args.tables,
        model_path=args.model_path,
        out=args.out,
        licence=args.licence,
        licence_link=args.licence_link,
        datasets=args.datasets,
    ),
    "compare": lambda args: commands.compare(args.tables, columns=args.columns, models=args.models),
    "audit": lambda args: commands.audit(
        require_some(find(args), args),
        tables=args.scores,
        model=args.model,
        train=args.train,
        out=args.out,
        num_workers=args.num_workers,
    ),
    "calibrate": lambda args: commands.calibrate(
        args.tables,
        model_path=args.model_path,
        out=args.out,
        method=args.method,
        alpha=args.alpha,
        against=args.against,
    ),
}


# ---------------------------------------------------------------------------------------------------------
# Arguments


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    of_run = subparsers.add_parser("run", help="score detectors (the default)")
    of_run.add_argument("--model_path", "--model-path", nargs="+", required=True, help=MODEL_HELP)
    add_root(of_run)
    of_run.add_argument("--out", type=Path, help="default: runs/benchmarks/<name of the first detector's folder>")
    of_run.add_argument("--protocol", choices=PROTOCOLS, default="all", help="which images count (default: all)")
    of_run.add_argument(
        "--degrade", nargs="+", default=[CLEAN], metavar="NAME", help="such as none jpeg:75; or suite, for all"
    )
    of_run.add_argument("--details", action="store_true", help="keep embeddings and prototype attention too")
    of_run.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="only the I-th of N parts")
    of_run.add_argument("--ray", type=int, metavar="N", help="on a Ray cluster, with N workers (needs ray[data])")
    of_run.add_argument("--ray-address", metavar="ADDRESS", help="of the cluster; default: start one here")
    of_run.add_argument("--overwrite", action="store_true", help="lose the scores that --out holds")
    of_run.add_argument("--device", choices=cli.DEVICES, default="auto")
    of_run.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the tower (default: fp32, as in verdicts; auto: bf16 where it is fast)",
    )
    of_run.add_argument("--batch-size", type=int, default=32, help="images a forward pass")
    of_run.add_argument(
        "--num-workers",
        type=int,
        help=f"processes that decode images (default: {DEFAULT_WORKERS}), without --ray",
    )
    of_run.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")

    of_list = subparsers.add_parser("list", help="what is there")
    add_root(of_list)
    of_verify = subparsers.add_parser("verify", help="read every image")
    add_root(of_verify)
    of_verify.add_argument("--out", type=Path, help="a CSV of all broken and doubled images")
    of_verify.add_argument("--num-workers", type=int, default=2, help="processes that decode images")

    of_merge = subparsers.add_parser("merge", help="parts of several machines -> a table")
    of_merge.add_argument("folders", nargs="+", type=Path)
    of_merge.add_argument("--out", type=Path, required=True)
    for name, text in (("report", "tables of scores"), ("compare", "two detectors on the same images")):
        of_tables = subparsers.add_parser(name, help=text)
        of_tables.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="parquet or CSV")
        about_columns = "names of another tool's columns, such as score=prob label=target"
        of_tables.add_argument(
            "--columns", type=column, nargs="+", default=[], metavar="OURS=THEIRS", help=about_columns
        )
        if name == "report":
            of_tables.add_argument("--out", type=Path, help="folder for metrics.csv, .md and .tex")
            of_tables.add_argument(
                "--html", type=Path, metavar="FILE", help="a page with all figures, in one file"
            )
            of_tables.add_argument("--no-thumbnails", action="store_true", help="name the worst mistakes only")
            of_tables.add_argument(
                "--audit", action="store_true", help="audit the benchmarks below --data-root too"
            )
            of_tables.add_argument("--num-workers", type=int, default=2, help="processes that read images")
            add_root(of_tables)
        else:
            of_tables.add_argument("--models", nargs=2, metavar="NAME", help="which two, of more")
    of_audit = subparsers.add_parser("audit", help="what format, size and compression tell of the label")
    add_root(of_audit)
    of_audit.add_argument("--scores", nargs="+", type=Path, default=[], metavar="TABLE", help="of a detector")
    of_audit.add_argument("--model", metavar="NAME", help="which detector of the tables; default: the first")
    of_audit.add_argument("--train", nargs="+", default=[], metavar="DATA", help="images to look for copies of")
    of_audit.add_argument("--out", type=Path, help="a JSON file")
    of_audit.add_argument("--num-workers", type=int, default=2, help="processes that read images")
    of_calibrate = subparsers.add_parser("calibrate", help="thresholds and probabilities, from held-out scores")
    of_calibrate.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="of images seen by nobody")
    of_calibrate.add_argument("--model_path", "--model-path", type=Path, required=True)
    of_calibrate.add_argument("--out", type=Path, required=True, help="the detector file with its calibration")
    of_calibrate.add_argument("--method", choices=METHODS, default="platt")
    of_calibrate.add_argument("--alpha", type=float, default=0.05, help="error rate outside of `unsure`")
    of_calibrate.add_argument(
        "--against", nargs="+", type=Path, default=[], help="tables of benchmarks that must share no image"
    )
    of_card = subparsers.add_parser("card", help="a model card for the Hugging Face hub")
    of_card.add_argument("tables", nargs="+", type=Path, metavar="TABLE")
    of_card.add_argument("--model_path", "--model-path", type=Path, required=True)
    of_card.add_argument("--out", type=Path, required=True, help="such as README.md")
    of_card.add_argument("--licence", required=True, help="identifier of the hub, such as mit or cc-by-nc-4.0")
    of_card.add_argument("--licence-link", default="", metavar="URL")
    of_card.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="on the hub, of training")
    args = parser.parse_args(words)
    refuse_without_effect(args)
    if args.command == "run":
        suite = [each.name for each in SUITE]
        named = [name for given in args.degrade for name in (suite if given == "suite" else [given])]
        args.degrade = list(dict.fromkeys(named))
        args.out = args.out or Path("runs/benchmarks") / model_names(args.model_path)[0]
    if args.command in ("report", "compare"):
        args.columns = dict(args.columns) or None
    return args


def refuse_without_effect(args: argparse.Namespace) -> None:
    """Raises ValueError for an option that another one, or its absence, leaves without effect."""
    if args.command == "run" and args.ray is not None:
        if args.ray < 1:
            raise ValueError(f"--ray takes the number of workers, at least 1, not {args.ray}")
        if args.shard != (0, 1):
            raise ValueError("--ray and --shard exclude each other: Ray deals out the images itself")
        if args.num_workers is not None:
            raise ValueError("--ray and --num-workers exclude each other: Ray's workers decode their images")
    if args.command == "run" and args.ray_address and not args.ray:
        raise ValueError("--ray-address needs --ray N")
    if args.command == "report" and not args.html and (args.audit or args.no_thumbnails):
        raise ValueError("--audit and --no-thumbnails are about the page of --html FILE")
    if args.command == "report" and not args.audit and (args.benchmarks or args.catalog):
        raise ValueError("--benchmarks and --catalog are for --audit; a report is of all rows of its tables")
    if args.command == "audit" and args.model and not args.scores:
        raise ValueError("--model names a detector of the tables of --scores, and there are none")


def add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root", default=os.environ.get("GAPL_DATA_ROOT") or None, help="default: GAPL_DATA_ROOT"
    )
    parser.add_argument("--benchmarks", help="names, separated by commas; default: all that are found")
    parser.add_argument("--catalog", type=Path, help="folder of further benchmarks' YAML files")


def shard(text: str) -> tuple[int, int]:
    """ "2/8" -> (1, 8)."""
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f"{text!r}; expected I/N with 1 <= I <= N, such as 2/8")
    return int(number) - 1, int(count)


def column(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals or not ours or not theirs:
        raise argparse.ArgumentTypeError(f"{text!r}; expected OURS=THEIRS, such as score=prob")
    return ours, theirs


if __name__ == "__main__":
    cli.run(main)
