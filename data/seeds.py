"""Derive seeds from a run's seed, so that what is random does not depend on the order or the process."""

from __future__ import annotations

import random


def draw_seed(*parts: int) -> int:
    """Return one seed from several numbers (run, epoch, image); seeds of close numbers are far apart."""
    return random.Random(":".join(map(str, parts))).getrandbits(63)
