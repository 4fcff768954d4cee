"""A matplotlib figure -> SVG inside a page, whose ink is the colour of the page's text."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from markupsafe import Markup, escape

from reporting.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the colour of the text around the picture
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Text stays text, and a name with a dollar sign is no formula. There is no background, so a page may be dark.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}

_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r'(\bid="|url\(#|href="#)')
_FONT = re.compile(r"(font: (?:[\w.]+ )*[\d.]+px) [^;\"]*|font-family: [^;\"]*")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_SIZE = re.compile(r' (?:width|height)="[\d.]+pt"')


def to_picture(figure: Figure, *, label: str, caption: str, is_wide: bool = False) -> Picture:
    """Return the figure for a page on which no other picture has the same label."""
    prefix = f"p{zlib.crc32(label.encode()):08x}"
    return Picture(to_svg(figure, label=label, prefix=prefix), label, caption, is_wide)


def to_svg(figure: Figure, *, label: str, prefix: str) -> Markup:
    """Return the figure as SVG.

    label    what it shows, in words
    prefix   of its ids, which must differ from those of the page's other pictures
    """
    drawn = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A character that matplotlib's font lacks is drawn by the fonts of the reader's system.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
    text = drawn.getvalue()
    text = _METADATA.sub("", text[text.index("<svg") :])
    # Escaped text has no angle brackets, so that only what matplotlib wrote is changed.
    text = _TAG.sub(lambda tag: _adapt(tag.group(), prefix), text)
    begin = f'<svg role="img" aria-label="{escape(label)}"'
    return Markup(text.replace("<svg", begin, 1))


def _adapt(tag: str, prefix: str) -> str:
    if "base64," in tag:
        return _ID.sub(rf"\g<1>{prefix}-", tag)
    tag = _ID.sub(rf"\g<1>{prefix}-", tag).replace(INK, "currentColor")
    tag = _FONT.sub(lambda found: f"{found[1]} {FONT}" if found[1] else f"font-family: {FONT}", tag)
    return _SIZE.sub("", tag) if tag.startswith("<svg") else tag
