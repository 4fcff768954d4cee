"""The two classes of an image, and the sources that images are from."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Label(IntEnum):
    """The truth about an image: whether a generator made it (FAKE) or not (REAL).

    The numbers are those of the released code.
    """

    REAL = 0
    FAKE = 1

    @property
    def word(self) -> str:
        """Return `real` or `fake`, as files and tables spell it."""
        return self.name.lower()


class Source(NamedTuple):
    """Where images are from: a real source or a generator. The same name may stand for one of each."""

    label: Label
    name: str

    def __str__(self) -> str:
        return f"{self.label.word}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read what `str` wrote, `real:NAME` or `fake:NAME`, or the form with a space of older detector files.

        Raises ValueError for anything else.
        """
        for label in Label:
            if text.startswith((f"{label.word}:", f"{label.word} ")):
                return cls(label, text[len(label.word) + 1 :])
        raise ValueError(f"{text!r} is no source; expected real:NAME or fake:NAME")
