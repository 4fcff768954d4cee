"""What the rows of a table that is there say: verdicts and explanations, checked: anybody may have edited it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gapl.detector import Judged
from gapl.explain.form import check_explanation
from gapl.files.form import fields, listed, number, one_of, sha256, text
from gapl.results import OF_FILE
from gapl.verdict import LABELS, Verdict

Row = dict[str, Any]

_VERDICT = fields(
    {
        "score": number(0, 1),
        "logit": number(),
        "label": one_of(*LABELS),
        "threshold": number(0, 1),
        "real_below": number(0, 1),
        "warnings": listed(text),
    }
)


def read_rows(rows: Sequence[Row], *, explainer: str | None) -> dict[str, Judged]:
    """Return what rows say of verdicts, by the SHA-256 of their files.

    explainer   the SHA-256 of the explainer file that explains now, empty where there is none; None: nothing does

    Raises ValueError that names the row and the field where a row is none of ours, and one that says what is
    there where explanations are not those of the explainer.
    """
    found = {}
    for i, row in enumerate(rows, start=1):
        try:
            judged = _read_row(row)
        except ValueError as error:
            raise ValueError(f"in row {i}, {error}") from error
        if judged:
            found[row["sha256"]] = judged
    if explainer is None and any("explanation" in row for row in rows):
        raise ValueError("it has explanations; give --explain, or --sheets, as before")
    by = {each.explanation["explainer_sha256"] for each in found.values() if each.explanation}
    if not by <= {explainer}:
        raise ValueError("its explanations are by another explainer file")
    return found


def _read_row(row: Row) -> Judged | None:
    """Return what a row says of a verdict; None where it has none."""
    text("path", row.get("path"))
    if "error" in row:
        return None
    named: Row = {name: row.get(name) for name in Verdict.__dataclass_fields__}
    _VERDICT("", named)
    sha256("sha256", row.get("sha256"))
    verdict = Verdict(**named | {"warnings": tuple(named["warnings"])})
    if "explanation" not in row:
        return Judged(verdict)
    check_explanation("explanation", row["explanation"])
    return Judged(verdict, {name: each for name, each in row["explanation"].items() if name not in OF_FILE})
