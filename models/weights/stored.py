"""What a file of weights holds: its tensors, and what it says of its detector."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from gapl.calibration import BALANCED, Calibration
from gapl.labels import Label
from gapl.verdict import decision_rule
from models.cascade import Cascade
from models.config import DetectorConfig
from models.weights.names import FORMS

LABELS = {label.word: int(label) for label in Label}  # as headers and the released trainer's files spell them
THRESHOLD = 0.5  # the score from which a detector that states no threshold calls an image fake
RELEASED_FORM, PROJECTION = "released", "projection"  # forms of released files, beside our own FORMS


@dataclass(kw_only=True)
class DetectorInfo:
    """What a detector file says of its detector, beside the tensors; the JSON header of our files holds it.

    backbone_fingerprint   of the tower without LoRA, see models.weights.backbone.fingerprint
    threshold    the score from which an image is called fake
    notice       what a user must know of its verdicts, or nothing
    provenance   prototypes (method, sources, seed), recipe, training data, seed
    form         adapter, full or merged; released or projection for a released file
    versions     of the packages that made the file
    calibration  makes scores of logits, and verdicts that may be "unsure"; None: a score is the logit's sigmoid
    fast_calibration   the same for the logits that the view "whole" gives alone
    """

    config: DetectorConfig
    backbone_fingerprint: str
    threshold: float = THRESHOLD
    notice: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    form: str = "adapter"
    versions: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None
    fast_calibration: Calibration | None = None

    def fast(self) -> Self:
        """Return the same for a detector that looks at the whole image alone.

        Raises ValueError when it was not trained for that.
        """
        if not self.config.whole_layers:
            raise ValueError("this detector has one view: --views fast and auto are for detectors with several")
        return replace(
            self,
            config=replace(self.config, pixel=self.config.pixel.fast()),
            calibration=self.fast_calibration,
            threshold=THRESHOLD if self.fast_calibration is None else self.fast_calibration.threshold(BALANCED),
        )

    def cascade(self) -> Cascade:
        """Return how the detector judges by the whole image alone where that is clear, and else by all views.

        Raises ValueError when it was not trained or calibrated for that.
        """
        full, fast = self.calibration, self.fast().calibration
        single = self.config.pixel.num_views == 1
        if single or full is None or fast is None or not decision_rule(fast).has_band:
            raise ValueError(
                "--views auto needs several views, their calibration and that of fast, with an unsure band"
            )
        return Cascade(full, fast)

    def __post_init__(self) -> None:
        if self.form not in (*FORMS, RELEASED_FORM, PROJECTION):
            raise ValueError(f"unknown form {self.form!r}; choose from {', '.join(FORMS)}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"its threshold is {self.threshold}; a score is between 0 and 1")
        if not self.notice.isprintable():
            raise ValueError("its notice is not one printable line")


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
