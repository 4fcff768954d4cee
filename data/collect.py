"""Collect the pictures of the open corpus: download what the list names from public git hosting.

The project ships the list and no pictures (data/open_corpus/README.md). Example:

    $ python -m data.collect --out corpus --part bench/modern
    947 pictures are in corpus, 12 are missing: corpus/missing.csv says why

The images are in class folders, which all commands read: corpus/train, corpus/bench/modern and so on.
corpus/manifest.csv says what each is. The same command goes on where it was stopped. Pictures whose SHA-256 is not
the one of the list are not taken.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tqdm import tqdm

from data.open_corpus.collection import MISSING, Collection, Missing
from data.open_corpus.host import GITHUB, Gone, Host, HostFailed, clear_scratch
from data.open_corpus.listing import PARTS, SHIPPED, Listing, Origin, Picture, by_origin, read_listing
from data.open_corpus.rendering import render
from data.open_corpus.repository import GitFailed, Repository, find_in_mirror, require_git
from gapl import cli
from gapl.decode import UnreadableImage
from gapl.files.lock import alone_in

REMOVED = "removed on request"


def collect(listing: Listing, collection: Collection, *, host: Host, mirror: Path | None) -> list[Missing]:
    """Collect the pictures of a list that the collection lacks, repository by repository; return what is missing.

    A repository that `mirror` has is read there, any other is downloaded. After each, the manifest is saved.
    """
    missing = [Missing(each, REMOVED) for each in listing.pictures if listing.is_removed(each)]
    wanted = [each for each in listing.pictures if not listing.is_removed(each) and not collection.has(each)]
    with tqdm(total=len(wanted), desc="collect", unit="picture", dynamic_ncols=True) as bar:
        for origin, pictures in by_origin(wanted).items():
            bar.set_postfix_str(origin.repository)
            try:
                for picture, reason in _collect_origin(origin, pictures, collection, host=host, mirror=mirror):
                    if reason:
                        missing.append(Missing(picture, reason))
                    bar.update()
            finally:
                collection.save()
    return missing


def _collect_origin(
    origin: Origin, pictures: list[Picture], collection: Collection, *, host: Host, mirror: Path | None
) -> Iterator[tuple[Picture, str]]:
    """Collect pictures of one repository; yield each with the reason why it is missing, or with an empty text."""
    try:
        with _open(origin, pictures, scratch=collection.folder, host=host, mirror=mirror) as repository:
            files = repository.files()
            for picture in pictures:
                yield picture, _collect_picture(picture, repository, files, collection)
    except (Gone, HostFailed) as error:
        yield from ((picture, str(error)) for picture in pictures)


def _open(
    origin: Origin, pictures: list[Picture], *, scratch: Path, host: Host, mirror: Path | None
) -> AbstractContextManager[Repository]:
    found = find_in_mirror(mirror, origin) if mirror else None
    if found is not None:
        return nullcontext(found)
    return host.fetch(origin, [picture.path for picture in pictures], scratch=scratch)


def _collect_picture(
    picture: Picture, repository: Repository, files: dict[str, str], collection: Collection
) -> str:
    """Collect one picture; return the reason why it is missing, or an empty text."""
    if picture.path not in files:
        return "path not there"
    try:
        encoded = repository.read(files[picture.path])
    except GitFailed:
        return "not in the mirror, which has the commit without this file"
    if hashlib.sha256(encoded).hexdigest() != picture.sha256:
        return "another hash"
    try:
        collection.add(picture, render(encoded, sha256=picture.sha256))
    except UnreadableImage as error:
        return f"not decodable: {error}"
    return ""


def main() -> None:
    parser = cli.Parser(__doc__, prog="python -m data.collect")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="parts to collect (default: all)")
    parser.add_argument("--mirror", type=Path, metavar="DIR", help="read DIR/OWNER+NAME/repo instead, where it is")
    parser.add_argument("--host", default=GITHUB, metavar="URL", help="git hosting (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=1, metavar="S", help="seconds between repositories (1)")
    parser.add_argument("--timeout", type=float, default=900, metavar="S", help="seconds for one request (900)")
    parser.add_argument("--list", type=Path, default=SHIPPED, metavar="DIR", help="another list than the one here")
    args = parser.parse_args()
    require_git()
    if args.mirror and not args.mirror.is_dir():
        raise ValueError(f"{args.mirror}: no such folder; expected a mirror with OWNER+NAME/repo in it")
    everything = read_listing(args.list)
    listing = everything.of_parts(args.part)
    with alone_in(args.out):
        clear_scratch(args.out)
        collection = Collection(args.out)
        collection.prune(everything)
        host = Host(args.host, timeout_s=args.timeout, pause_s=args.pause)
        missing = collect(listing, collection, host=host, mirror=args.mirror)
        collection.save()
        collection.save_missing(missing)
    there = len(listing.pictures) - len(missing)
    if not there:
        raise ValueError(_nothing(missing))
    told = f": {args.out / MISSING} says why" if missing else ""
    print(f"{there} pictures are in {args.out}, {len(missing)} are missing{told}")


def _nothing(missing: list[Missing]) -> str:
    """Return why no picture could be had: the reason of most of them."""
    if not missing:
        return "the list names no picture of these parts"
    reason, times = Counter(each.reason for each in missing).most_common(1)[0]
    return f"no picture could be had; {times} of {len(missing)}: {reason}"


if __name__ == "__main__":
    cli.run(main)
