"""Tell whether images are AI-generated, without torch.

    from gapl import Detector
    verdict = Detector.load()("photo.jpg")
    verdict.score, verdict.label

The folder is what `pip install .` installs, and what the rest of the project shares: decoding, views, calibration,
verdicts, files, command lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapl.decode import UnreadableImage
    from gapl.detector import Detector
    from gapl.verdict import Verdict

__all__ = ["Detector", "UnreadableImage", "Verdict"]


def __getattr__(name: str) -> object:
    """Import what has this name when it is first asked for: `gapl --help` needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gapl import decode, detector, verdict

    found = (detector.Detector, decode.UnreadableImage, verdict.Verdict)
    return dict(zip(__all__, found, strict=True))[name]
