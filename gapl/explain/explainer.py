"""What a detector can say of its verdicts: which prototypes answered, like what, by whom, and how near training.

Shape suffixes: B batch, E embedding, P prototypes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gapl.config import DetectorConfig
from gapl.engine import Outcome
from gapl.explain.background import SUFFIX, Background, read_background
from gapl.explain.head import TENSORS, Head, Shares
from gapl.explain.words import in_words
from gapl.files import tensorfile
from gapl.files.checksum import sha256_of
from gapl.fingerprint import fingerprint
from gapl.info import FORMAT, DetectorInfo
from gapl.labels import Label
from gapl.verdict import Verdict

STAGE_1 = "this detector has no prototypes: it is of stage 1"
NO_HEAD = "which prototypes answered is not known: that takes a detector file of this project"


@dataclass(frozen=True)
class Explainer:
    """Explains the verdicts of one detector. Threads may share it.

    info        of the detector
    head        None: `missing` says why there is none
    background  what is known of its training images; None: nothing
    sha256      of the explainer file that says so; empty: there is none
    """

    info: DetectorInfo
    head: Head | None
    background: Background | None = None
    missing: str = ""
    sha256: str = ""

    def explain(self, outcome: Outcome, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
        """Return for each image of a batch the object `explanation` of docs/result.schema.json, but its origin."""
        if self.head is None or outcome.embedding_BE is None:
            found: list[dict[str, Any]] = [
                {"prototypes": [], "bias": None, "note": self.missing} for _ in verdicts
            ]
        else:
            found = self._answers(outcome, self.head.shares(outcome.embedding_BE))
            if self.background:
                known = self._known(self.background, outcome, [each.label for each in verdicts])
                found = [each | more for each, more in zip(found, known, strict=True)]
        return [each | {"explainer_sha256": self.sha256, "in_words": in_words(each)} for each in found]

    def _known(self, background: Background, outcome: Outcome, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return what training tells of each image: its family, and how far it is from training.

        It was learnt from all views, so that nothing is told of an image that the whole alone decided.
        """
        assert outcome.embedding_BE is not None
        known: list[dict[str, Any]] = [{} for _ in labels]
        if self.info.config.whole_layers and self.info.config.pixel.num_views == 1:
            return known
        if background.families and outcome.feature_BD is not None:
            for each, family in zip(known, background.families.name(outcome.feature_BD, labels), strict=True):
                each["family"] = family
        if background.memory:
            for each, unlike in zip(known, background.memory.compare(outcome.embedding_BE), strict=True):
                each["unlike"] = unlike
        by_whole_B = np.zeros(len(known), dtype=bool) if outcome.by_whole_B is None else outcome.by_whole_B
        return [{} if by_whole else each for each, by_whole in zip(known, by_whole_B, strict=True)]

    def _answers(self, outcome: Outcome, shares: Shares) -> list[dict[str, Any]]:
        """Return the prototypes of each image: contributions and `bias` add up to its logit."""
        contribution_BP, bias_B = self._as_stated(outcome, shares.contribution_BP, shares.bias)
        rows = zip(shares.attention_BP, contribution_BP, bias_B, strict=True)
        return [
            {"prototypes": self._prototypes(attention_P, contribution_P), "bias": float(bias)}
            for attention_P, contribution_P, bias in rows
        ]

    def _as_stated(
        self, outcome: Outcome, contribution_BP: np.ndarray, bias: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (contribution_BP, bias_B) of the logits that are stated.

        Of an image that the whole alone decided, that is its fast logit on the scale of all views.
        """
        bias_B = np.full(len(contribution_BP), bias)
        if outcome.by_whole_B is None:
            return contribution_BP, bias_B
        as_full = self.info.cascade().as_full
        constant = float(as_full(np.zeros(1)).item())
        slope = float(as_full(np.ones(1)).item()) - constant
        scaled_BP = np.where(outcome.by_whole_B[:, None], slope * contribution_BP, contribution_BP)
        return scaled_BP, np.where(outcome.by_whole_B, slope * bias_B + constant, bias_B)

    def _prototypes(self, attention_P: np.ndarray, contribution_P: np.ndarray) -> list[dict[str, Any]]:
        """Return all prototypes, those that moved the logit most first."""
        described = self.background.spec.described if self.background else ()
        num_real = self._num_real(len(attention_P))
        return [
            {
                "index": int(index),
                "label": (Label.REAL if index < num_real else Label.FAKE).word,
                "attention": float(attention_P[index]),
                "contribution": float(contribution_P[index]),
                "described_as": str(described[index]) if described else "",
            }
            for index in np.argsort(-np.abs(contribution_P), kind="stable")
        ]

    def _num_real(self, num: int) -> int:
        """Return how many of the prototypes are real: as the file says; in released files, the first half."""
        stated = self.info.provenance.get("prototypes")
        num_real = stated.get("num_real") if isinstance(stated, Mapping) else None
        return num_real if isinstance(num_real, int) else num // 2


def _fits(background: Background, config: DetectorConfig) -> bool:
    """Tell whether a background has as many prototypes, and is of as wide features, as a detector."""
    families, memory = background.families, background.memory
    return (
        len(background.spec.described) in (0, config.num_prototypes)
        and (families is None or families.width == config.feature_width)
        and (memory is None or memory.width == config.embed_dim)
    )


def read_explainer(file: Path, info: DetectorInfo, tensors: Mapping[str, np.ndarray] | None = None) -> Explainer:
    """Return what explains the verdicts of a detector file, with the explainer file beside it, if there is one.

    tensors   of the detector's head; None: they are read from the file, where that is possible

    Raises ValueError, one line, when a file is damaged or the explainer file belongs to another detector.
    """
    if info.config.stage == 1:
        return Explainer(info, None, missing=STAGE_1)
    if tensors is None:
        if file.suffix != ".safetensors":
            return Explainer(info, None, missing=NO_HEAD)
        _, tensors = tensorfile.read(file, format=FORMAT)
    head = Head(tensors, num_heads=info.config.num_heads)
    beside = file.with_suffix(SUFFIX)
    if not os.path.lexists(beside):  # a link to nothing is there, too, and is refused
        return Explainer(info, head)
    background = read_background(beside)
    own = fingerprint({name: tensors[name] for name in TENSORS})
    if background.spec.head != own or not _fits(background, info.config):
        raise ValueError(f"{beside}: it belongs to another detector than {file}; remove it, or make it anew")
    return Explainer(info, head, background, sha256=sha256_of(beside))
