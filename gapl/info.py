"""What a detector file says of its detector, beside the tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from gapl.calibration import BALANCED, Calibration
from gapl.cascade import Cascade
from gapl.config import DetectorConfig
from gapl.labels import Label
from gapl.names import AUTO, DTYPES, FAST, FORMS
from gapl.schema import build_spec
from gapl.verdict import decision_rule

LABELS = {label.word: int(label) for label in Label}  # as headers and the released trainer's files spell them
THRESHOLD = 0.5  # the score from which a detector that states no threshold calls an image fake
RELEASED_FORM, PROJECTION = "released", "projection"  # forms of released files, beside our own FORMS
FORMAT = "gapl-detector-1"  # of detector files
CALIBRATIONS = ("calibration", "fast_calibration")
_IN_NO_FILE = "full_calibration"
_CONVERSIONS = {"scale": "shown", "clip": "pillow"}  # of `grey16`, what older files have instead


@dataclass(kw_only=True)
class DetectorInfo:
    """What a detector file says of its detector, beside the tensors; the JSON header of our files holds it.

    backbone_fingerprint   of the tower without LoRA, see gapl/fingerprint.py
    threshold    the score from which an image is called fake
    notice       what a user must know of its verdicts, or nothing
    provenance   prototypes (method, sources, seed), recipe, training data, seed
    form         adapter, full or merged; released or projection for a released file
    versions     of the packages that made the file
    calibration  makes scores of logits, and verdicts that may be "unsure"; None: a score is the logit's sigmoid
    fast_calibration   the same for the logits that the view "whole" gives alone
    full_calibration   after `fast`: what `calibration` was before, that of all views. It is in no file
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
    full_calibration: Calibration | None = None

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
            full_calibration=self.calibration,
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

    def looking_at(self, views: str) -> tuple[Self, Cascade | None]:
        """Return what the detector is that looks at "full", "fast" or "auto" views, and how "auto" judges.

        Raises ValueError when it was not trained or calibrated for these.
        """
        return self.fast() if views == FAST else self, self.cascade() if views == AUTO else None

    def __post_init__(self) -> None:
        if self.form not in (*FORMS, RELEASED_FORM, PROJECTION):
            raise ValueError(f"unknown form {self.form!r}; choose from {', '.join(FORMS)}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"its threshold is {self.threshold}; a score is between 0 and 1")
        if not self.notice.isprintable():
            raise ValueError("its notice is not one printable line")


def header_of(info: DetectorInfo, *, dtype: str = "float32") -> dict[str, Any]:
    """Return the JSON header of a file with this detector, its tower in that type."""
    header = {each.name: getattr(info, each.name) for each in fields(DetectorInfo) if each.name != _IN_NO_FILE}
    header |= {name: header[name] and asdict(header[name]) for name in ("config", *CALIBRATIONS)}
    return header | {"labels": LABELS, "dtype": dtype}


def info_of(header: dict[str, Any]) -> tuple[DetectorInfo, str]:
    """Return what the header of a detector file says, and the type of its tower.

    Raises ValueError that names what is missing or wrong in it.
    """
    stated = {name: value for name, value in header.items() if name not in ("labels", "dtype")}
    _rename_conversion(stated)
    labels, dtype = header.get("labels"), header.get("dtype")
    if labels != LABELS:
        raise ValueError(f"its labels are {labels!r}; a detector's are {LABELS}")
    if dtype not in DTYPES:
        raise ValueError(f"its tower is of type {dtype!r}; expected {', '.join(DTYPES)}")
    optional = (*CALIBRATIONS, _IN_NO_FILE)  # old files have none
    expected = [each.name for each in fields(DetectorInfo) if each.name not in optional]
    if missing := [name for name in expected if name not in stated]:
        raise ValueError(f"field {missing[0]!r} of DetectorInfo is missing")
    info: DetectorInfo = build_spec(DetectorInfo, stated)
    if info.form not in FORMS:
        raise ValueError(f"its form is {info.form!r}; expected {', '.join(FORMS)}")
    return info, dtype


def _rename_conversion(stated: dict[str, Any]) -> None:
    """Give the conversion of a PixelSpec its name of today; older files speak of 16-bit grey alone."""
    config = stated.get("config")
    pixel = config.get("pixel") if isinstance(config, dict) else None
    if isinstance(config, dict) and isinstance(pixel, dict) and (was := str(pixel.get("grey16"))) in _CONVERSIONS:
        others = {name: value for name, value in pixel.items() if name != "grey16"}
        stated["config"] = config | {"pixel": others | {"conversion": _CONVERSIONS[was]}}
