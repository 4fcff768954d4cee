"""Read everything that a file says about its origin."""

from __future__ import annotations

from gapl.origin.c2pa import read_c2pa
from gapl.origin.container import metadata_of
from gapl.origin.exif import read_exif
from gapl.origin.finding import UNCLEAR, Finding
from gapl.origin.iptc import read_iptc
from gapl.origin.texts import read_text
from gapl.origin.xmp import read_xmp

MAX_FINDINGS = 20


def read_origin(encoded: bytes, *, trusted: str = "") -> list[Finding]:
    """Return what the bytes of an image file say about its origin; an empty list where they say nothing.

    What is unclear is left out where another finding of the same kind is not.

    trusted  certificates in PEM: signatures of C2PA manifests that go back to one of these are trusted

    Raises ValueError when `trusted` has no certificate.
    """
    if trusted and "-----BEGIN CERTIFICATE-----" not in trusted:
        raise ValueError("trusted: no certificate in PEM; expected the text of a file of trusted signers")
    metadata = metadata_of(encoded)
    findings = [
        *read_c2pa(encoded, trusted=trusted),
        *read_xmp(metadata.xmp),
        *read_iptc(metadata.iptc),
        *(finding for each in metadata.texts if (finding := read_text(*each))),
        *read_exif(metadata.exif),
    ]
    clear = {each.kind for each in findings if each.says != UNCLEAR}
    told = [each for each in findings if each.says != UNCLEAR or each.kind not in clear]
    return list(dict.fromkeys(told))[:MAX_FINDINGS]
