"""What the files of the open corpus say about their own origin: by generator, and what disagrees with the label.

    python studies/origin.py --originals DIR --out docs/study

DIR holds pictures as their owners published them, each named by its SHA-256; those that data/open_corpus does not
list are left out. origin.csv has a row for each generator, one for photographs and one for non-photographs. It is
printed, with the signers of C2PA manifests, what disagrees with the label, and the CPU time per file.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.open_corpus.listing import SHIPPED, Picture, read_listing
from gapl import cli
from gapl.labels import Label
from gapl.origin import Finding, read_origin
from gapl.origin.finding import C2PA, CAMERA, EDITED, EXIF, GENERATED, IPTC, PNG_TEXT, XMP

if TYPE_CHECKING:
    import pandas as pd

KINDS = (C2PA, IPTC, XMP, PNG_TEXT, EXIF)


@dataclass(frozen=True)
class Read:
    """A picture, what its file says, and the CPU time that took."""

    picture: Picture
    findings: list[Finding]
    seconds: float

    @property
    def group(self) -> str:
        """Return the row of the table that the picture belongs to."""
        from data.open_corpus.kinds import style_of
        from studies.groups import NO_PHOTOGRAPHS

        if self.picture.label == Label.FAKE:
            return self.picture.generator
        return "non-photographs" if style_of(self.picture.source) in NO_PHOTOGRAPHS else "photographs"

    def says(self, *what: str) -> bool:
        """Tell whether any record says one of these."""
        return any(each.says in what for each in self.findings)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--originals", type=Path, required=True, metavar="DIR", help="files named by their SHA-256"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of origin.csv")
    args = parser.parse_args()
    listed = read_listing(SHIPPED).pictures
    found = [each for each in listed if (args.originals / each.sha256).is_file()]
    if not found:
        raise ValueError(
            f"{args.originals}: no pictures of the open corpus; expected files named by their SHA-256"
        )
    reads = [read(args.originals, each) for each in tqdm(found, unit="file", dynamic_ncols=True)]
    table = by_group(reads)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "origin.csv", index=False, float_format="%.3f")
    print(table.to_string(index=False, float_format="{:.2f}".format))
    tell_signatures(reads)
    tell_disagreements(reads)
    tell_times(reads)


def read(folder: Path, picture: Picture) -> Read:
    encoded = (folder / picture.sha256).read_bytes()
    start = time.process_time()
    findings = read_origin(encoded)
    return Read(picture, findings, time.process_time() - start)


def by_group(reads: list[Read]) -> pd.DataFrame:
    """Return a row for each group, the largest first: shares of its files with a record of each kind, and so on.

    generator  says that a generator made or edited it
    camera     says that a camera took it
    none       no record at all
    """
    import pandas as pd

    rows = [
        {
            "group": each.group,
            "files": 1,
            **{kind: any(finding.kind == kind for finding in each.findings) for kind in KINDS},
            "generator": each.says(GENERATED, EDITED),
            "camera": each.says(CAMERA),
            "none": not each.findings,
        }
        for each in reads
    ]
    groups = pd.DataFrame(rows).groupby("group", as_index=False)
    shares = groups.mean(numeric_only=True).assign(files=groups["files"].sum()["files"])
    return shares.sort_values(["files", "group"], ascending=[False, True])


def tell_signatures(reads: list[Read]) -> None:
    """Print how many C2PA manifests each signer has, by the state of their signatures."""
    manifests = [finding for each in reads for finding in each.findings if finding.text.startswith("signed by ")]
    signers = Counter((each.text.removeprefix("signed by ").split(", ")[0], each.signature) for each in manifests)
    faults = Counter(fault for each in manifests for fault in each.text.split("; ")[-1].split(", "))
    print(f"\n{len(manifests)} C2PA manifests that were read:")
    for (signer, signature), count in sorted(signers.items()):
        print(f"  {signer}: {count} {signature}")
    print("what is wrong with them:", ", ".join(f"{count} x {fault}" for fault, count in faults.most_common()))


def tell_disagreements(reads: list[Read]) -> None:
    """Print how many files say what the label says, and which say otherwise."""
    generator, camera = (GENERATED, EDITED), (CAMERA,)
    for label, right, wrong in ((Label.REAL, camera, generator), (Label.FAKE, generator, camera)):
        own = [each for each in reads if each.picture.label == label]
        odd = [each for each in own if each.says(*wrong)]
        said = sum(each.says(*right) for each in own)
        print(f"\nof {len(own)} {label.word} pictures, {said} say so, and {len(odd)} say otherwise:")
        for each in odd:
            print(f"  {each.picture.sha256[:12]} {each.picture.source}")
            print(*(f"    {finding.line()}" for finding in each.findings if finding.says in wrong), sep="\n")


def tell_times(reads: list[Read]) -> None:
    """Print the CPU time per file, with and without a C2PA manifest."""
    import numpy as np

    manifest = np.array([any(each.signature for each in one.findings) for one in reads])
    milliseconds = np.array([each.seconds for each in reads]) * 1000
    for name, some in (("with C2PA", manifest), ("without", ~manifest)):
        if some.any():
            middle, late = np.percentile(milliseconds[some], (50, 99))
            print(
                f"{some.sum()} files {name}: {middle:.2f} ms of CPU time (median), {late:.2f} ms (99th percentile)"
            )


if __name__ == "__main__":
    cli.run(main)
