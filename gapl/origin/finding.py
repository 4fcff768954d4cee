"""What one place of a file says about the image's origin, and the sentence about all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapl.cli import printable

# What a finding says
GENERATED = "made by a generator"
EDITED = "edited with a generator"
CAMERA = "taken by a camera"
SCANNED = "digitised by a scanner"
SOFTWARE = "made or saved with software"
UNCLEAR = "unclear"
SAYS = (GENERATED, EDITED, CAMERA, SCANNED, SOFTWARE, UNCLEAR)

# Where it was found
C2PA, IPTC, XMP, EXIF, PNG_TEXT, COMMENT = "c2pa", "iptc", "xmp", "exif", "png_text", "comment"
KINDS = (C2PA, IPTC, XMP, EXIF, PNG_TEXT, COMMENT)

# The state of a signature
TRUSTED = "trusted"
UNKNOWN_SIGNER = "unknown signer"
DOUBTFUL = "doubtful"
BROKEN = "broken"
NOT_READ = "not read"
OF_SIGNATURE = {
    TRUSTED: "signed by a trusted signer",
    UNKNOWN_SIGNER: "signed, but not by a signer who is known to be trusted",
    DOUBTFUL: "its signature is doubtful",
    BROKEN: "its signature is broken: the file was changed after it was signed",
    NOT_READ: "its signature was not read",
}

_IN_WORDS = {
    GENERATED: "that a generator made it",
    EDITED: "that a generator edited it",
    CAMERA: "that a camera took it",
    SCANNED: "that a scanner digitised it",
}

MAX_TEXT = 240  # characters
MAX_NAME = 80

NO_RECORD = (
    "the file has no record of its origin, which means nothing: most copies have lost theirs, and watermarks in "
    "the pixels, such as SynthID, cannot be read here"
)


@dataclass(frozen=True)
class Finding:
    """What one place of a file says about the image's origin. Make it with `found`.

    kind       one of KINDS
    where      the chunk, segment or field
    says       one of SAYS
    name       the generator, camera or program that is named there; may be empty
    text       what stands there, shortened and without control characters; may be empty
    signature  of C2PA: trusted, unknown signer, doubtful, broken or not read; else empty
    """

    kind: str
    where: str
    says: str
    name: str = ""
    text: str = ""
    signature: str = ""

    def line(self) -> str:
        """Return the finding for a reader."""
        named = f": {self.name}" if self.name else ""
        signed = f", {OF_SIGNATURE[self.signature]}" if self.signature else ""
        text = f' "{self.text}"' if self.text and self.text != self.name else ""
        return f"{self.kind}, {self.where}: {self.says}{named}{signed}{text}"


def found(kind: str, where: str, says: str, *, name: str = "", text: str = "", signature: str = "") -> Finding:
    """Return a finding whose texts, which are the file's, are shortened and escaped."""
    assert kind in KINDS
    assert says in SAYS
    return Finding(
        kind, shown(where, MAX_NAME), says, shown(name, MAX_NAME), shown(text, MAX_TEXT), signature=signature
    )


def shown(text: str, limit: int) -> str:
    """Return a text of a file in one line of at most `limit` characters, with control characters escaped."""
    line = printable(" ".join(text[: 2 * limit].split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def describe(findings: Sequence[Finding]) -> str:
    """Return one sentence on what a file says about its origin, and what that is worth."""
    if not findings:
        return NO_RECORD
    told = {says: [each for each in findings if each.says == says] for says in _IN_WORDS}
    parts = [_part(says, own) for says, own in told.items() if own]
    if not parts:
        names = _names([each for each in findings if each.says == SOFTWARE])
        program = f", and names the software that made or saved it ({names})" if names else ""
        return f"the file does not say whether a generator made it{program}"
    vouched = all(any(each.signature == TRUSTED for each in own) for own in told.values() if own)
    worth = "and a trusted signer says so" if vouched else "which is no proof: anyone can write, copy or remove it"
    return f"the file says {' and '.join(parts)}, {worth}"


def _part(says: str, own: Sequence[Finding]) -> str:
    names = _names(own)
    said = _IN_WORDS[says] + (f" ({names})" if names else "")
    return f"{said} under a broken signature" if all(each.signature == BROKEN for each in own) else said


def _names(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(each.name for each in findings if each.name))
