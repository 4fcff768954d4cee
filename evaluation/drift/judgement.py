"""How the images of a table were judged."""

from __future__ import annotations

from dataclasses import dataclass

from gapl.verdict import DecisionRule


@dataclass(frozen=True)
class Judgement:
    """How the images of a stream were judged; two streams are compared only if it is the same.

    sha256     of the detector file
    explainer  SHA-256 of the explainer file; empty where the table names none
    """

    sha256: str
    views: str
    operating_point: str
    rule: DecisionRule
    explainer: str = ""
