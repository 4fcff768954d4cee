"""Choose the images that validate: a random part of each class, and sources that are held out whole."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, TypeVar

from data.records import Images
from gapl.labels import Label, Source

SomeImages = TypeVar("SomeImages", bound=Images)


@dataclass(frozen=True)
class Split(Generic[SomeImages]):
    """Three sets without an image in common.

    training   what is trained on
    random     a part of each class
    heldout    all, or a capped number, of the images of the sources in `held`, of which `training` has none
    """

    training: SomeImages
    random: SomeImages
    heldout: SomeImages
    held: tuple[Source, ...]


def split_images(
    images: SomeImages, *, fraction: float, holdout: float, names: Sequence[str], max_images: int, seed: int
) -> Split[SomeImages]:
    """Split off a random `fraction` of each class, and whole sources: `names`, or a `holdout` fraction of all.

    max_images   of either validation set; 0: no limit

    Raises ValueError as choose_sources does.
    """
    held = choose_sources(images.sources(), fraction=holdout, names=names, seed=seed)
    rest, heldout = images.partition(held)
    training, drawn = rest.split(fraction, max_images=max_images, seed=seed)
    return Split(training, drawn, heldout.draw(max_images, seed=seed) if max_images else heldout, held)


def choose_sources(
    counts: Mapping[Source, int], *, fraction: float, names: Sequence[str], seed: int
) -> tuple[Source, ...]:
    """Return the sources of these names, or else a seeded draw of `fraction` of each class's sources.

    It is at least one of each class when fraction > 0, and never all of a class.

    names   "cats" are the real images and the fakes of that name, where both have it; "real:cats" or "fake:cats"
            those of a class

    Raises ValueError for a name that no image has, and when the named ones leave a class nothing to train on.
    """
    forms = {each: {each.name, str(each)} for each in counts}
    if unknown := sorted(set(names).difference(*forms.values())):
        names_of_all = sorted({each.name for each in counts})
        similar = (
            get_close_matches(unknown[0].rpartition(":")[2], names_of_all, n=8, cutoff=0.4) or names_of_all[:8]
        )
        raise ValueError(
            f"--holdout {unknown[0]}: no image is of that generator or real source; there are "
            f"{len(names_of_all)}, such as {', '.join(similar)}"
        )
    held: list[Source] = []
    for label in Label:
        of_class = sorted(each for each in counts if each.label == label)
        if names:
            chosen = [each for each in of_class if forms[each].intersection(names)]
        else:
            count = max(1, round(fraction * len(of_class))) if fraction else 0
            count = min(count, max(0, len(of_class) - 1))  # a class of one source keeps it
            chosen = random.Random(f"{seed}:{label}").sample(of_class, count)
        if chosen and len(chosen) == len(of_class):
            kind = "generators" if label is Label.FAKE else "real sources"
            names_of_class = ", ".join(each.name for each in chosen)
            raise ValueError(f"to hold out {names_of_class} leaves no {kind} to train on")
        held += sorted(chosen)
    return tuple(held)
