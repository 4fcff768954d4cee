"""What was found of two streams, in plain words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.drift.drift import Change, Drift
from evaluation.drift.label_first import Chosen
from evaluation.drift.properties import SCORE, UNREADABLE, UNSURE, YES
from evaluation.drift.stream import Stream
from evaluation.drift.two_sample import POWER, found_chance, found_share, images_needed
from gapl.cli import printable
from gapl.verdict import LABELS

SCHEMA = "gapl-drift-1"
SHARE, RISEN = 0.10, 0.15  # the example of a change that a table can find
SHOWN = 5  # images to label, on a terminal
CHANGED, UNCHANGED = "CHANGED", "no change found"


def answer(drift: Drift) -> str:
    """Return whether the stream has changed, and in what, in one sentence."""
    moved = [each.property.name for each in drift.changes if each.changed]
    return f"{CHANGED}: {', '.join(moved)}" if moved else UNCHANGED


def promise(drift: Drift) -> str:
    """Return what the answer promises, in one sentence."""
    drawn = "clusters" if drift.is_clustered else "images"
    condition = f"Where nothing changes and {drawn} come independently of each other"
    if drift.looks == 1:
        return f"{condition}, at most {_rate(drift.alpha)} of such comparisons find a change."
    return (
        f"{condition}, the chance of any false alarm in {drift.looks:,} comparisons is at most "
        f"{_rate(drift.alpha)}: each has {_rate(drift.level)}."
    )


def counted(stream: Stream) -> str:
    """Return how many images a stream has, and what they are called."""
    images, readable = stream.images, stream.readable
    label_N = stream.judgement.rule.labels(readable["score"].to_numpy(float))
    shares = ", ".join(f"{(label_N == label).mean():.1%} {label}" for label in LABELS)
    told = [f"{len(images):,} images: {shares}"]
    told += [f"{len(images) - len(readable):,} unreadable"] if len(images) > len(readable) else []
    told += [f"{stream.num_drawn:,} clusters"] if "cluster" in images else []
    told += [f"{stream.duplicates:,} duplicates left out"] if stream.duplicates else []
    return "; ".join(told)


def sentence(change: Change) -> str:
    """Return what has moved, by how much, with the interval of 95 %."""
    effect, name = change.effect, change.property.name
    if change.property.is_number:
        ends = f"[{effect.low:.1%}, {effect.high:.1%}]"
        return (
            f"median {change.before:.3g} before, {change.now:.3g} now; of an image of each, that of now has the "
            f"higher one in {effect.value:.1%} {ends}"
        )
    what = "" if change.moved == YES and name in (UNSURE, UNREADABLE) else f"{printable(change.moved)}: "
    points = f"{100 * effect.value:+.1f} points [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
    return f"{what}{change.before:.1%} before, {change.now:.1%} now, {points}"


def reach(drift: Drift) -> str:
    """Return what change tables of these sizes can find, and what tables a small change takes."""
    sizes = {"num_before": drift.before.num_drawn, "num_now": drift.now.num_drawn}
    level, drawn = drift.level_of_one, drift.before.drawn
    share, chance = found_share(SHARE, **sizes, level=level), found_chance(**sizes, level=level)
    found = [f"a share that rises from {SHARE:.0%} to {share:.0%}"] if share else []
    found += [f"numbers of which now has the higher in {chance:.0%} of pairs, not 50%"] if chance else []
    needed = images_needed(SHARE, RISEN, level=level)
    said = [
        f"With a chance of {POWER:.0%}, tables of these sizes find {', or '.join(found) or 'hardly any change'}.",
        f"A share that rises from {SHARE:.0%} to {RISEN:.0%} takes about {needed:,} {drawn} in each table.",
    ]
    said += ["This is for clusters of equal images, the worst case."] if drift.is_clustered else []
    return " ".join(said)


def to_text(drift: Drift, chosen: Sequence[Chosen]) -> str:
    """Return the lines for a terminal."""
    return "\n".join(_lines(drift, chosen))


def _lines(drift: Drift, chosen: Sequence[Chosen]) -> Iterator[str]:
    yield answer(drift)
    yield f"before: {printable(drift.before.path)}, {counted(drift.before)}"
    yield f"now:    {printable(drift.now.path)}, {counted(drift.now)}"
    if drift.shared:
        yield f"{drift.shared:,} images are in both, which makes a change harder to find"
    for each in drift.changes:
        yield f"  {'*' if each.changed else ' '} {each.property.name}: {sentence(each)}; p {p_text(each.p)}"
    if drift.left_out:
        yield f"not compared, since not both tables have it for all images: {', '.join(drift.left_out)}"
    yield promise(drift)
    yield reach(drift)
    if chosen:
        yield f"label first, of {len(chosen)}:"
        for image in chosen[:SHOWN]:
            yield f"  {printable(image.path)}  {image.score:.3f}, {image.reason}"


def p_text(p: float) -> str:
    """Return an adjusted p as a reader wants it."""
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def _rate(rate: float) -> str:
    return f"{100 * rate:.2g} %"


# ---------------------------------------------------------------------------------------------------------
# JSON


def to_dict(drift: Drift, chosen: Sequence[Chosen]) -> dict[str, Any]:
    """Return all of it as an object of JSON; docs/keep-up.md lists the keys."""
    judgement = drift.before.judgement
    return {
        "schema": SCHEMA,
        "changed": drift.changed,
        "answer": answer(drift),
        "alpha": drift.alpha,
        "looks": drift.looks,
        "level": drift.level,
        "drawn": drift.before.drawn,
        "model_sha256": judgement.sha256,
        "views": judgement.views,
        "operating_point": judgement.operating_point,
        "before": _stream(drift.before),
        "now": _stream(drift.now),
        "in_both": drift.shared,
        "properties": [_property(each) for each in drift.changes],
        "not_compared": list(drift.left_out),
        "reach": reach(drift),
        "label_first": [asdict(each) for each in chosen],
    }


def _stream(stream: Stream) -> dict[str, Any]:
    readable = stream.readable
    label_N = stream.judgement.rule.labels(readable["score"].to_numpy(float))
    return {
        "table": str(stream.path),
        "images": len(stream.images),
        "unreadable": len(stream.images) - len(readable),
        "duplicates": stream.duplicates,
        "labels": {label: int((label_N == label).sum()) for label in LABELS},
        "median_score": float(np.median(readable[SCORE])),
    }


def _property(change: Change) -> dict[str, Any]:
    given, groups = change.property, change.groups
    kind = "higher_now" if given.is_number else "points"
    found: dict[str, Any] = {
        "name": given.name,
        "changed": change.changed,
        "p": change.p,
        "effect": {"kind": kind, "of": change.moved, **asdict(change.effect)},
        "before": change.before,
        "now": change.now,
        "in_words": sentence(change),
    }
    named = zip(groups.names_K, groups.before_K, groups.now_K, strict=True)
    key, write = ("from", float) if given.is_number else ("name", str)
    return found | {"groups": [{key: write(name), "before": int(n), "now": int(m)} for name, n, m in named]}
