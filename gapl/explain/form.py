"""The form of an explanation: those of a table may have been edited by anybody."""

from __future__ import annotations

from typing import Any

from gapl.files.form import count, entries, fields, listed, named, number, one_of, or_null, sha256, text, truth
from gapl.origin.finding import KINDS, OF_SIGNATURE, SAYS
from gapl.schema import MAX_SIZE
from gapl.verdict import LABELS


def _explainer(at: str, value: Any) -> None:
    if value != "":  # there is none
        sha256(at, value)


_SHARE, _POSITIVE = number(0, 1), number(1e-9)
_FINDING = fields(
    {
        "kind": one_of(*KINDS),
        "where": text,
        "says": one_of(*SAYS),
        "name": text,
        "text": text,
        "signature": one_of("", *OF_SIGNATURE),
    }
)
_PROTOTYPE = fields(
    {
        "index": count(MAX_SIZE),
        "label": one_of("real", "fake"),
        "attention": _SHARE,
        "contribution": number(),
        "described_as": text,
    }
)
_TILES = fields(
    {
        "reduced_by": number(1),
        "side": _POSITIVE,
        "tiles": listed(entries(number(), number(), _SHARE), least=1),
    }
)
_PATCHES = fields(
    {
        "box": entries(number(), number(), _POSITIVE, _POSITIVE),
        "map": listed(listed(number(), least=2), least=2),
    }
)
_STABLE = fields(
    {
        "resaves": listed(fields({"name": text, "score": _SHARE, "label": one_of(*LABELS)})),
        "holds": count(),
        "label": one_of(*LABELS),
    }
)
_EXPLANATION = fields(
    {
        "origin": listed(_FINDING),
        "origin_in_words": text,
        "prototypes": listed(_PROTOTYPE),
        "bias": or_null(number()),
        "explainer_sha256": _explainer,
        "in_words": listed(text),
    },
    optional={
        "note": text,
        "family": or_null(fields({"name": text, "probabilities": named(_SHARE)})),
        "unlike": fields({"distance": number(), "cut": number(), "is_unlike": truth}),
        "where": fields({"tiles": _TILES, "patches": _PATCHES}),
        "stable": _STABLE,
    },
)


def check_explanation(at: str, value: Any) -> None:
    """Raise ValueError, one line that names the place, for what is no explanation of docs/result.schema.json."""
    _EXPLANATION(at, value)
    if value["prototypes"] and value["bias"] is None:
        raise ValueError(f"{at}.bias cannot be null where there are prototypes")
    if not value["prototypes"] and "note" not in value:
        raise ValueError(f"{at}.note is missing; it says why there are no prototypes")
    map_HW = value["where"]["patches"]["map"] if "where" in value else []
    if any(len(row) != len(map_HW) for row in map_HW):
        raise ValueError(f"{at}.where.patches.map is no square")
