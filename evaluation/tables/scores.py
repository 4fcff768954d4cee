"""A file of scores, ours or another detector's -> a checked table: a row for each image, model and degradation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import logit

from data.images.degrade import CLEAN
from data.words import LABELS_EXPECTED, parse_label
from gapl.calibration import Calibration, score_of
from gapl.columns import COLUMNS as MANIFEST_COLUMNS
from gapl.columns import is_parquet, normalise
from gapl.files.refusal import check_is_file
from gapl.labels import Label
from gapl.schema import build_spec
from gapl.verdict import DecisionRule, decision_rule

METADATA_KEY = b"gapl_scores"
FORMAT = "gapl-scores-1"
ROW_KEY = ("uri", "model", "degradation", "benchmark")
TEXT = ("uri", "content_sha256", "generator", "source", "benchmark", "protocol", "model", "degradation", "format")
NUMBERS = ("logit", "score")
COUNTS = ("width", "height", "num_bytes")
COLUMNS = (
    "uri",
    "content_sha256",
    "label",
    "generator",
    "source",
    "benchmark",
    "subsets",
    "protocol",
    "model",
    "degradation",
    "logit",
    "score",
    "width",
    "height",
    "format",
    "num_bytes",
    "error",
)
DETAILS = ("embedding", "attention")  # of `benchmarks.py run --details`
BY_WHOLE = "by_whole"  # of `benchmarks.py run --views auto`
# What other detectors call their columns, the usual one first; compared normalised.
USUAL_NAMES = {
    "uri": ("filename", *MANIFEST_COLUMNS["filename"]),
    "label": (*MANIFEST_COLUMNS["label"], "y_true", "typ"),
    "score": ("prob", "pred", "probability"),
    "logit": ("llr",),
}
# The lists of ClipBased and B-Free name the generator here, and real images "real".
GENERATOR_LABELS = ("typ",)
DEFAULT_THRESHOLD = 0.5
NO_NUMBER = ("", "nan", "NaN", "NA", "None")
EPSILON = float(np.finfo(np.float64).eps)  # a score of 0 or 1 has this distance from it when its logit is taken


@dataclass(frozen=True)
class DetectorEntry:
    """What a table of scores says of a detector.

    path, sha256  of its file
    threshold     the score from which an image is called fake
    prototypes    what the file says of its prototypes
    views         "full"; "fast" for the whole image alone; "auto" for that first, and all where it is not clear
    """

    path: str
    sha256: str
    threshold: float = DEFAULT_THRESHOLD
    calibration: Calibration | None = None
    prototypes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    views: str = "full"


@dataclass(frozen=True)
class ScoreTable:
    """Scores and what is known of them.

    frame   a row for each image, model, degradation and benchmark; the columns are COLUMNS and, in some tables,
            DETAILS and BY_WHOLE, whether the whole image alone decided. `subsets` is a tuple; `score` is P(fake);
            both numbers are NaN where `error` says why
    about   "benchmarks": name -> {"absent", "missing_subsets", "note", "file_list_sha256", "n_images"};
            "command", "versions". Empty for another tool's file
    detectors   what is known of the detectors, by the name in the column `model`. Empty for another tool's file
    """

    frame: pd.DataFrame
    about: dict[str, Any]
    detectors: Mapping[str, DetectorEntry] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The names of the detectors, in the order of the rows."""
        return list(dict.fromkeys(self.frame["model"]))

    def threshold(self, model: str) -> float:
        """Return the threshold of a detector's file; 0.5 for a detector whose file is not known."""
        known = self.detectors.get(model)
        return DEFAULT_THRESHOLD if known is None else known.threshold

    def rule(self, model: str) -> DecisionRule:
        """Return the rule of a detector: the band of its calibration, or its plain threshold without one."""
        return decision_rule(self.calibration(model), threshold=self.threshold(model))

    def readable(self, model: str, *, benchmark: str | None = None) -> pd.DataFrame:
        """Return a model's clean images that have a score: of one benchmark, or of all, each once."""
        frame = self.frame
        rows = frame[(frame["model"] == model) & (frame["degradation"] == CLEAN) & (frame["error"] == "")]
        return rows.drop_duplicates("uri") if benchmark is None else rows[rows["benchmark"] == benchmark]

    def calibration(self, model: str) -> Calibration | None:
        """Return the calibration of a detector's file; None where it has none or is not known."""
        known = self.detectors.get(model)
        return None if known is None else known.calibration


def read_scores(
    path: str | Path, *, columns: Mapping[str, str] | None = None, model: str | None = None
) -> ScoreTable:
    """Read our scores.parquet, or a CSV, TSV or parquet table of another detector.

    columns   our name of a column -> its name in the file. Other columns are found by our own names and by the
              usual ones of other detectors (USUAL_NAMES)
    model     the detector's name where the file has none; None means the file's name

    A score or a logit is enough: the one is the sigmoid of the other. Other missing columns are filled: the
    benchmark has the file's name, the subset of a fake is its generator, and those of a real image are all
    generators of its benchmark.

    Raises ValueError, one line, when the file or a column is missing or a row makes no sense.
    """
    path = Path(path)
    check_is_file(path, what="a table of scores")
    found, about = _read(path)
    detectors = {
        name: build_spec(DetectorEntry, stored, where=f"{path}, detector {name}")
        for name, stored in about.pop("models", {}).items()
    }
    if found.empty:
        raise ValueError(f"{path}: the table has no rows; expected one for each image")
    frame = _rename(found, columns or {}, where=str(path))
    details = [name for name in (*DETAILS, BY_WHOLE) if name in found]
    frame[details] = found[details]
    frame = _fill_text(frame, benchmark=path.stem, model=model or path.stem)
    frame = _fill_numbers(frame, str(path))
    _check_rows(frame, str(path))
    return ScoreTable(frame[[*COLUMNS, *details]], about, detectors)


def join_tables(tables: Sequence[ScoreTable]) -> ScoreTable:
    """Return all rows in one table. A benchmark is absent if it is absent in every table that knows of it.

    Raises ValueError when two tables hold the same row, or different detectors under one name.
    """
    if not tables:
        raise ValueError("no table of scores to join; expected at least one")
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    _check_doubles(frame, "the joined tables")
    detectors: dict[str, DetectorEntry] = {}
    benchmarks: dict[str, Any] = {}
    for table in tables:
        for name, detector in table.detectors.items():
            known = detectors.setdefault(name, detector)
            if known.sha256 != detector.sha256:
                raise ValueError(f"two detectors are called {name!r}: {known.path} and {detector.path}")
        for name, benchmark in table.about.get("benchmarks", {}).items():
            benchmarks[name] = _join_benchmark(benchmarks.get(name), benchmark)
    commands = [command for table in tables if (command := table.about.get("command"))]
    versions = {key: value for table in tables for key, value in table.about.get("versions", {}).items()}
    about = {"format": FORMAT, "command": " ; ".join(commands), "benchmarks": benchmarks}
    return ScoreTable(frame, about | {"versions": versions}, detectors)


def _join_benchmark(known: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    if known is None or known.get("absent"):
        return other
    if other.get("absent") or known.get("file_list_sha256") == other.get("file_list_sha256"):
        return known
    missing = list(dict.fromkeys([*known.get("missing_subsets", []), *other.get("missing_subsets", [])]))
    notes = [note for note in (known.get("note"), "the tables list different images") if note]
    return known | {"missing_subsets": missing, "note": "; ".join(dict.fromkeys(notes))}


# ---------------------------------------------------------------------------------------------------------
# From a file to columns of our names


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table as it is, a CSV as text, and what its metadata says of it."""
    try:
        if not is_parquet(path):
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            return pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False), {}
        table = pq.read_table(path)
    except (pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a table that can be read ({reason}); expected CSV or parquet") from error
    return table.to_pandas(), _about(table.schema.metadata or {}, path)


def _about(metadata: Mapping[bytes, bytes], path: Path) -> dict[str, Any]:
    if METADATA_KEY not in metadata:
        return {}
    try:
        about = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise ValueError(f"{path}: what it says of its scores is damaged ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        given = about.get("format") if isinstance(about, dict) else about
        raise ValueError(f"{path}: format {given!r} of scores; this version reads {FORMAT!r}")
    return about


def _rename(found: pd.DataFrame, columns: Mapping[str, str], *, where: str) -> pd.DataFrame:
    """Return the columns that mean something here under our names, the label as 0 or 1."""
    listed = ", ".join(map(repr, found.columns))
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            raise ValueError(f"--columns {ours}={theirs}: expected one of {', '.join(COLUMNS)} before the =")
        if theirs not in found:
            raise ValueError(f"{where}: no column {theirs!r} (--columns {ours}={theirs}); it has {listed}")
    by_plain = {normalise(str(name)): name for name in reversed(list(found.columns))}
    given = dict(columns)
    for ours in COLUMNS:
        for name in map(normalise, (ours, *USUAL_NAMES.get(ours, ()))):
            if name in by_plain and ours not in given and by_plain[name] not in columns.values():
                given[ours] = by_plain[name]
    for needed in ("uri", "label"):
        if needed not in given:
            raise ValueError(
                f"{where}: no column {needed!r}; it has {listed}; name it with --columns {needed}=THEIRS"
            )
    if "score" not in given and "logit" not in given:
        hint = "name one with --columns score=THEIRS or logit=THEIRS"
        raise ValueError(f"{where}: neither a column 'score' nor 'logit'; it has {listed}; {hint}")
    frame = pd.DataFrame({ours: found[theirs] for ours, theirs in given.items()})
    if given["label"].lower() in GENERATOR_LABELS and "generator" not in given:
        named = frame["label"].astype(str)
        is_real = named.str.lower() == Label.REAL.word
        if named.map(parse_label).isna().any():
            frame["generator"] = named.mask(is_real, "")
            frame["label"] = np.where(is_real, Label.REAL.word, Label.FAKE.word)
    frame["label"] = _labels(frame["label"], where)
    return frame


def _labels(given: pd.Series, where: str) -> pd.Series:
    labels = given.map(parse_label)
    if labels.isna().any():
        wrong = list(dict.fromkeys(given[labels.isna()]))
        raise ValueError(f"{where}: label {wrong[0]!r} in {labels.isna().sum()} rows; expected {LABELS_EXPECTED}")
    return labels.astype(int)


def _fill_text(frame: pd.DataFrame, *, benchmark: str, model: str) -> pd.DataFrame:
    filled = {"benchmark": benchmark, "model": model, "protocol": "all", "degradation": CLEAN}
    for name in (*TEXT, "error"):
        frame[name] = frame[name].fillna("").astype(str) if name in frame else filled.get(name, "")
    frame["source"] = frame["source"].mask((frame["source"] == "") & (frame["label"] == 1), frame["generator"])
    return frame.assign(subsets=_subsets(frame))


def _subsets(frame: pd.DataFrame) -> pd.Series:
    """Return the subsets of each row: as given (a text is split at semicolons), or by generator.

    Without a column of subsets, real images belong to all generators of their benchmark.
    """
    if "subsets" in frame:
        given = (each.split(";") if isinstance(each, str) else each for each in frame["subsets"])
        named = [tuple(name for name in (() if each is None else each) if name) for each in given]
    else:
        named = [(generator,) if generator else () for generator in frame["generator"]]
    of_fakes: dict[str, dict[str, None]] = {}
    for benchmark, subsets in zip(frame["benchmark"], named, strict=True):
        of_fakes.setdefault(benchmark, {}).update(dict.fromkeys(subsets))
    return pd.Series(
        [
            subsets or tuple(of_fakes[benchmark]) or (benchmark,)
            for benchmark, subsets in zip(frame["benchmark"], named, strict=True)
        ],
        index=frame.index,
        dtype=object,
    )


def _fill_numbers(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    for name in (*NUMBERS, *COUNTS):
        if name in frame:
            try:
                given = frame[name].mask(frame[name].isin(NO_NUMBER))
                frame[name] = pd.to_numeric(given).astype(float)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{where}: column {name!r} must hold numbers ({error})") from error
    for name in COUNTS:
        frame[name] = frame[name].fillna(0).astype(int) if name in frame else 0
    if "score" not in frame:
        frame["score"] = score_of(frame["logit"].to_numpy())
    of_score = logit(frame["score"].clip(EPSILON, 1 - EPSILON))
    frame["logit"] = frame["logit"].fillna(of_score) if "logit" in frame else of_score
    frame.loc[frame["error"] != "", list(NUMBERS)] = np.nan
    return frame


# ---------------------------------------------------------------------------------------------------------
# What a row must be


def _check_rows(frame: pd.DataFrame, where: str) -> None:
    scored = frame[frame["error"] == ""]
    nameless = int((frame["uri"] == "").sum())
    if nameless:
        raise ValueError(f"{where}: {nameless} rows without the name of an image (column 'uri')")
    lost = scored[scored["score"].isna()]
    if len(lost):
        first = lost["uri"].iloc[0]
        raise ValueError(f"{where}: no score in {len(lost)} rows without an error, the first of them {first!r}")
    outside = scored[(scored["score"] < 0) | (scored["score"] > 1)]
    if len(outside):
        value, first = outside["score"].iloc[0], outside["uri"].iloc[0]
        raise ValueError(
            f"{where}: score {value:g} of {first!r}, and {len(outside) - 1} more, is outside of [0, 1]; "
            "is it a logit? then --columns logit=THEIRS"
        )
    _check_doubles(frame, where)


def _check_doubles(frame: pd.DataFrame, where: str) -> None:
    doubled = frame[frame.duplicated(list(ROW_KEY))]
    if len(doubled):
        uri, model, degradation, benchmark = doubled[list(ROW_KEY)].iloc[0]
        raise ValueError(
            f"{where}: {len(doubled)} rows are there twice, the first of them {uri!r} "
            f"(model {model!r}, degradation {degradation!r}, benchmark {benchmark!r}); expected one row for each"
        )
