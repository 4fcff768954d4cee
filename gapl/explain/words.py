"""An explanation in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gapl.explain.families import UNKNOWN

SHOWN = 3  # prototypes of each direction
ALIKE = 0.9  # the effective share of the prototypes from which they answered alike


def in_words(explanation: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each part of the object `explanation` of docs/result.schema.json."""
    said = [_prototypes(explanation)]
    if family := explanation.get("family"):
        said.append(_family(family))
    if explanation.get("unlike", {}).get("is_unlike"):
        said.append("Unlike anything in training: less certain.")
    return said


def _prototypes(explanation: Mapping[str, Any]) -> str:
    if not explanation["prototypes"]:
        return f"{explanation['note'].capitalize()}."
    attention = [each["attention"] for each in explanation["prototypes"]]
    if effective_number(attention) > ALIKE * len(attention):
        return f"All {len(attention)} prototypes answered alike, so they do not tell what the image is like."
    towards_fake = _strongest(explanation["prototypes"], sign=1)
    towards_real = _strongest(explanation["prototypes"], sign=-1)
    return f"Towards fake: {towards_fake}. Towards real: {towards_real}."


def effective_number(attention: Sequence[float]) -> float:
    """Return among how many prototypes the attention is spread: the exponential of its entropy."""
    return math.exp(-sum(each * math.log(each) for each in attention if each > 0))


def _strongest(prototypes: Sequence[Mapping[str, Any]], *, sign: int) -> str:
    """Return what moved the logit most in one direction, and how far all of it did."""
    own = [each for each in prototypes if sign * each["contribution"] > 0]
    if not own:
        return "nothing"
    total = sum(each["contribution"] for each in own)
    return f"{total:+.2f}, most by {'; '.join(map(_named, own[:SHOWN]))}"


def _named(prototype: Mapping[str, Any]) -> str:
    described = f" ({prototype['described_as']})" if prototype["described_as"] else ""
    return f"{prototype['label']} prototype {prototype['index']}{described} {prototype['contribution']:+.2f}"


def _family(family: Mapping[str, Any]) -> str:
    likeliest, probability = next(iter(family["probabilities"].items()))
    if family["name"] == UNKNOWN:
        return "Family of generators: not known."
    return f"Family of generators: {likeliest} ({probability:.0%})."
