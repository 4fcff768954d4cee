"""What a file of weights holds: its tensors, and what it says of its detector."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gapl.info import DetectorInfo


@dataclass(frozen=True)
class Stored:
    """A file of weights that was read and checked, but not built.

    described   what the log and `inspect` call it
    tensors     of a detector, by the names of its modules; `project.weight` alone of the released stage 1;
                `prototypes_PE` alone of released prototypes
    info        of a detector; None for the released stage 1 and prototypes, which have no tower
    """

    described: str
    tensors: dict[str, Tensor]
    info: DetectorInfo | None = None
