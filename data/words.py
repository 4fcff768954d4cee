"""What people call classes and splits, in one table each. gapl/columns.py has what they call columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from gapl.columns import normalise
from gapl.labels import Label

# A folder with one of these names holds a class; so may 0 and 1 before them. They are labels in manifests, too.
CLASSES = {
    Label.REAL: ("real", "reals", "nature", "natural", "genuine", "authentic", "human made"),
    Label.FAKE: ("fake", "fakes", "ai", "ai generated", "generated", "machine generated", "synthetic"),
}
# Ordinary names: a folder so called holds a class only beside a folder of the other class. So does one that is
# called "real images", "ai art" and so on.
CLASSES_BESIDE = {
    Label.REAL: (
        "human",
        "humans",
        "human generated",
        "original",
        "originals",
        "photo",
        "photos",
        "not ai",
        "non ai",
    ),
    Label.FAKE: ("machine", "machines", "artificial", "ai made", "gen ai", "deepfake", "deepfakes"),
}
_IMAGES = "images?|imgs?|pictures?|pics|photos?|faces?|art|data"

# Labels in manifests, beside the words above.
NUMBERS = {
    Label.REAL: ("0", "0.0", "false"),
    Label.FAKE: ("1", "1.0", "true"),
}
LABELS_EXPECTED = "0, 1, real or fake"

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def _table(words: Mapping[Label, tuple[str, ...]]) -> dict[str, Label]:
    return {normalise(word): label for label, of_label in words.items() for word in of_label}


_SURE = _table(CLASSES)
_BESIDE = _table(CLASSES_BESIDE)
_OF_IMAGES = re.compile(f"(.+?)(?:{_IMAGES})+")
_NUMBERS = {text: label for label, texts in NUMBERS.items() for text in texts}
_SPLITS = {word: split for split, words in SPLITS.items() for word in words}


@cache
def class_of(name: str) -> Label | None:
    """Return the class that a folder of this name holds, whatever is beside it, or None."""
    return _SURE.get(re.sub("^[01](?=.)", "", normalise(name)))


def classes_of(names: Iterable[str]) -> dict[str, Label]:
    """Return which of the names of folders that lie side by side are classes."""
    sure = {name: label for name in names if (label := class_of(name)) is not None}
    possible = sure | {name: label for name in names if (label := class_word(name)) is not None}
    return possible if len(set(possible.values())) == len(Label) else sure


def class_word(name: str) -> Label | None:
    """Return the class that this word stands for where a class must be meant, or None."""
    plain = re.sub("^[01](?=.)", "", normalise(name))
    without = match[1] if (match := _OF_IMAGES.fullmatch(plain)) else plain
    return next((words[w] for w in (plain, without) for words in (_SURE, _BESIDE) if w in words), None)


def split_of(name: str) -> str | None:
    """Return the split that a folder, file or value of this name stands for, or None."""
    return _SPLITS.get(normalise(name))


def parse_label(value: Any) -> Label | None:
    """Return the label that a value of a file stands for: 0, 1, true, false, or a word for a class; else None."""
    return _parse_text(str(value))


@cache
def _parse_text(text: str) -> Label | None:
    number = _NUMBERS.get(text.strip().lower())
    return class_word(text) if number is None else number
