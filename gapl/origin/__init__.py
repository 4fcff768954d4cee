"""What an image file says about its own origin: C2PA, IPTC, XMP, EXIF and texts of generators.

    from gapl.origin import describe, read_origin
    findings = read_origin(Path("photo.jpg").read_bytes())
    print(describe(findings))

It is evidence beside the verdict and never part of the score: such records are easily forged, copied and lost.
"""

from gapl.origin.finding import Finding, describe
from gapl.origin.reading import read_origin

__all__ = ["Finding", "describe", "read_origin"]
