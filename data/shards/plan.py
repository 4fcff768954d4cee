"""Plan which images of parquet shards to use, and which shards to download for them. Only footers are read.

    python -m data.shards.plan --data hf://datasets/OwensLab/CommunityForensics-Small --per-class 5000 \\
        --max-gb 20 --out plan.json

Expected output: what was chosen of each class, what is missing, and how to download it. A plan is a source
of images like the shards themselves.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.shards.urls import require_place
from gapl import cli
from gapl.labels import Label

if TYPE_CHECKING:
    from data.shards.index import ShardIndex

_HUB = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")


def main() -> None:
    args = parse_arguments()
    for root in args.data:
        require_place(root)
    from data.shards.choose import allowed_rows, choose_rows, class_quotas, generator_quotas, shortfalls
    from data.shards.index import join_indexes
    from data.shards.plan_file import write_plan
    from data.shards.scan import read_index

    indexes = [read_index(root) for root in args.data]
    index = join_indexes(" + ".join(each.name for each in indexes), indexes)
    allowed_N = allowed_rows(index, only=args.only_generators, without=args.without_generators)
    if args.per_generator:
        quotas = generator_quotas(index, allowed_N, each=args.per_generator)
    else:
        num_real = args.per_class or args.images // 2
        quotas = class_quotas(index, allowed_N, real=num_real, fake=args.per_class or args.images - num_real)
    rows_M = choose_rows(index, quotas, max_bytes=args.max_gb * 1e9, seed=args.seed)
    chosen = index.take(rows_M)
    write_plan(args.out, chosen, roots=args.data, seed=args.seed)
    for line in (*report(chosen), *shortfalls(index, rows_M, quotas), f"saved {args.out}"):
        print(line)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__, prog="python -m data.shards.plan")
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="ROOT", help="folders, files or URLs of shards"
    )
    how_many = parser.add_mutually_exclusive_group(required=True)
    how_many.add_argument(
        "--images", type=_positive, metavar="N", help="images to choose in all, half of each class"
    )
    how_many.add_argument("--per-class", type=_positive, metavar="N", help="images of each class")
    text = "fakes of each generator, and as many real images in all"
    how_many.add_argument("--per-generator", type=_positive, metavar="N", help=text)
    text = "largest size of the shards together, in units of 10^9 bytes"
    parser.add_argument("--max-gb", type=float, default=math.inf, metavar="G", help=text)
    parser.add_argument(
        "--only-generators", type=_names, default=[], metavar="A,B", help="take fakes of these generators only"
    )
    parser.add_argument(
        "--without-generators",
        type=_names,
        default=[],
        metavar="C,D",
        help="leave out these generators and real sources",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of images from the shards")
    parser.add_argument("--out", type=Path, required=True, help="the plan to write, a .json file")
    args = parser.parse_args()
    if not args.max_gb > 0:
        parser.error(f"--max-gb {args.max_gb:g}: expected a number above 0")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: expected 0 or more")
    if args.out.suffix.lower() != ".json":
        parser.error(f"--out {args.out}: expected a file name that ends in .json")
    return args


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more images")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def report(chosen: ShardIndex) -> Iterator[str]:
    """Yield lines: the images of each class, the shards that hold them, and how to download these."""
    shards = [chosen.shards[number] for number in np.unique(chosen.shard_N)]
    num_bytes, all_bytes = (sum(shard.num_bytes for shard in some) for some in (shards, chosen.shards))
    sizes = f"{num_bytes / 1e9:,.2f} of {all_bytes / 1e9:,.2f} GB"
    labels = [source.label for source in chosen.sources()]
    yield (
        f"{chosen.name}: {chosen.count(Label.REAL)} real images of {labels.count(Label.REAL)} sources, "
        f"{chosen.count(Label.FAKE)} fakes of {labels.count(Label.FAKE)} generators"
    )
    yield f"in {len(shards)} of {len(chosen.shards)} shards, {sizes}:"
    yield from download_lines([shard.url for shard in shards])


def download_lines(urls: Sequence[str]) -> Iterator[str]:
    """Yield commands that download what is on the hub of data sets, and other files as they are."""
    files_of: dict[tuple[str, str | None], list[str]] = {}
    for url in urls:
        if match := _HUB.fullmatch(url):
            files_of.setdefault((match["repository"], match["revision"]), []).append(match["file"])
        else:
            yield f"  {url}"
    for (repository, revision), files in files_of.items():
        command = ["hf", "download", repository, "--repo-type", "dataset"]
        command += ["--revision", revision] if revision else []
        command += [word for file in files for word in ("--include", file)]
        yield f"  {shlex.join([*command, '--local-dir', repository.partition('/')[2]])}"


if __name__ == "__main__":
    cli.run(main)
