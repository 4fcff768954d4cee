"""Bars and scales as SVG. Places on them are percentages, so they are as wide as the page lets them."""

from __future__ import annotations

from gapl.verdict import Verdict

NARROW = 0.13  # a part of the scale that is too small for its name, and for two numbers


def score_scale(verdict: Verdict) -> str:
    """Return the score of a verdict on a scale from 0 to 1, which says what scores are called."""
    below, fake = verdict.real_below, verdict.threshold
    parts = [("real", 0.0, below), ("unsure", below, fake), ("fake", fake, 1.0)]
    zones = "".join(_zone(*part) for part in parts if part[2] > part[1])
    ends = [below, fake] if fake - below > NARROW else [(below + fake) / 2]
    numbers = [f"{below:.2f}", f"{fake:.2f}"] if len(ends) == 2 else [_range(below, fake)]
    edges = "".join(_text(end, 66, number, "edge") for end, number in zip(ends, numbers, strict=True))
    said = f"Score {verdict.score:.3f} on a scale from 0, real, to 1, fake"
    unsure = f"; from {below:.3f} to {fake:.3f} it is unsure" if fake > below else f"; fake from {fake:.3f} on"
    return (
        f'<svg class="score" role="img" aria-label="{said}{unsure}">{zones}{edges}'
        f'<line class="mark" x1="{_at(verdict.score)}" x2="{_at(verdict.score)}" y1="20" y2="52"/>'
        f"{_text(verdict.score, 14, f'{verdict.score:.3f}', 'value')}</svg>"
    )


def small_scale(score: float, verdict: Verdict) -> str:
    """Return a score on a thin scale that has the unsure band of a verdict."""
    band = verdict.threshold - verdict.real_below
    return (
        '<svg class="thin" aria-hidden="true"><rect class="track" y="4" width="100%" height="4"/>'
        f'<rect class="band" x="{_at(verdict.real_below)}" y="2" width="{_at(band)}" height="8"/>'
        f'<circle class="dot" cx="{_at(score)}" cy="6" r="4"/></svg>'
    )


def pull(value: float, *, most: float) -> str:
    """Return a bar from the middle towards real, to the left, or towards fake.

    most   the value whose bar is as long as can be
    """
    length = 0.5 * min(1.0, abs(value) / most) if most else 0.0
    side, start = ("fake", 0.5) if value > 0 else ("real", 0.5 - length)
    return (
        '<svg class="pull" aria-hidden="true">'
        f'<rect class="{side}" x="{_at(start)}" y="2" width="{_at(length)}" height="10"/>'
        '<line class="middle" x1="50%" x2="50%" y1="0" y2="14"/></svg>'
    )


def share(part: float) -> str:
    """Return a bar for a share in [0, 1]."""
    return (
        '<svg class="share" aria-hidden="true"><rect class="track" y="4" width="100%" height="6"/>'
        f'<rect class="filled" y="4" width="{_at(part)}" height="6"/></svg>'
    )


def _zone(name: str, start: float, end: float) -> str:
    """Return a part of the scale, and its name where that fits in."""
    title = f'<text class="zone" x="{_at((start + end) / 2)}" y="41">{name}</text>' if end - start > NARROW else ""
    return f'<rect class="{name}" x="{_at(start)}" y="24" width="{_at(end - start)}" height="24"/>{title}'


def _range(low: float, high: float) -> str:
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def _text(place: float, y: int, text: str, kind: str) -> str:
    anchor = "start" if place < 0.08 else "end" if place > 0.92 else "middle"
    return f'<text class="{kind}" x="{_at(place)}" y="{y}" text-anchor="{anchor}">{text}</text>'


def _at(place: float) -> str:
    return f"{100 * min(1.0, max(0.0, place)):.2f}%"
