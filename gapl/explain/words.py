"""An explanation in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gapl.explain.families import UNKNOWN
from gapl.explain.stability import LEAST_HOLDING

SHOWN = 3  # prototypes of each direction
ALIKE = 0.9  # the effective share of the prototypes from which they answered alike
TELLS_NOTHING = "so they do not tell what the image is like"
THIRD = 1 / 3  # of an image's side
APART = 0.1  # the scores of tiles, from where it matters which is the highest
SHIFTED = 0.02  # the logits of covered patches, from where two digits tell them apart


def in_words(explanation: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each part of the object `explanation` of docs/result.schema.json."""
    said = [_prototypes(explanation)]
    if family := explanation.get("family"):
        said.append(_family(family))
    if explanation.get("unlike", {}).get("is_unlike"):
        said.append("Unlike anything in training: less certain.")
    if where := explanation.get("where"):
        said += [_tiles(where["tiles"]), _patches(where["patches"])]
    if stable := explanation.get("stable"):
        said.append(_stable(stable))
    return said


def _prototypes(explanation: Mapping[str, Any]) -> str:
    if not explanation["prototypes"]:
        return f"{explanation['note'].capitalize()}."
    if answered_alike(explanation["prototypes"]):
        return f"All {len(explanation['prototypes'])} prototypes answered alike, {TELLS_NOTHING}."
    towards_fake = _strongest(explanation["prototypes"], sign=1)
    towards_real = _strongest(explanation["prototypes"], sign=-1)
    return f"Towards fake: {towards_fake}. Towards real: {towards_real}."


def answered_alike(prototypes: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the attention is spread over nearly all prototypes: then none of them says anything."""
    return effective_number([each["attention"] for each in prototypes]) > ALIKE * len(prototypes)


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
    return f"Family of generators, if one made it: {likeliest} ({probability:.0%})."


def _tiles(tiles: Mapping[str, Any]) -> str:
    """Return how the tiles of an image differ, and where the most suspicious one is."""
    found = tiles["tiles"]
    scores = [score for _, _, score in found]
    low, high = min(scores), max(scores)
    if len(found) == 1:
        return f"The image is a single tile: P(fake) {high:.0%}."
    left, top, _ = found[scores.index(high)]
    lefts, tops = ([each[axis] for each in found] for axis in (0, 1))
    place = (
        f"highest {_place(_share(left, lefts), _share(top, tops))}" if high - low >= APART else "none stands out"
    )
    return f"P(fake) of the tiles: {low:.0%} to {high:.0%}, {place}."


def _patches(patches: Mapping[str, Any]) -> str:
    """Return where the logit falls most, and where least, as parts of the view are covered.

    No place is named where the view is of so few pixels that patches have none of their own, as in strips.
    """
    map_HW = patches["map"]
    last = len(map_HW) - 1
    drops = [
        (drop, column / last, row / last) for row, each in enumerate(map_HW) for column, drop in enumerate(each)
    ]
    differs = max(drops)[0] - min(drops)[0] >= SHIFTED
    has_places = differs and min(patches["box"][2:]) >= len(map_HW)
    most, least = (
        f"{round(-drop, 2) + 0.0:+.2f}" + (f" ({_place(*at)})" if has_places else "")  # + 0.0: never -0.00
        for drop, *at in (max(drops), min(drops))
    )
    apart = "" if differs else ", none stands out"
    return f"Covered parts of the view change the logit by {most} to {least}{apart}."


def _share(value: float, values: Sequence[float]) -> float:
    """Return where a value is between the least (0) and the greatest (1); in the middle where all are the same."""
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0.5


def _place(across: float, down: float) -> str:
    """Return in words where something is, given as shares of the width and the height."""
    row = "top" if down < THIRD else "bottom" if down > 1 - THIRD else ""
    column = "left" if across < THIRD else "right" if across > 1 - THIRD else ""
    return f"at the {' '.join(filter(None, (row, column)))}" if row or column else "in the middle"


def _stable(stable: Mapping[str, Any]) -> str:
    said = f"The verdict holds in {stable['holds']} of {len(stable['resaves'])} re-saves"
    return f"{said}: take it as unsure." if stable["holds"] < LEAST_HOLDING else f"{said}."
