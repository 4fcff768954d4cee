"""What is to be scored, and its scores on disk: what was scored once is never scored again.

A job is cut in batches that depend on nothing but the job, so that a run that was killed, several processes and
several machines give the numbers of one run; to the last bit on a CPU, with as many threads. In its folder are

    job.json          what was asked for; another job is refused
    images.parquet    the images, in order
    parts/            scores of whole batches, each file written whole or not at all
    scores.parquet    the table, when all parts are there; then the two above it are gone
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.benchmarks.find import Benchmark
from data.images.degrade import CLEAN
from data.records import Record, list_sha256, relative_uri
from data.shards.rows import reading_order
from evaluation.tables.scores import COLUMNS, DETAILS, FORMAT, METADATA_KEY, DetectorEntry
from files.atomic import replacing
from gapl.calibration import score_of
from gapl.labels import Label

TABLE, JOB, IMAGES, PARTS = "scores.parquet", "job.json", "images.parquet", "parts"

_PART = pa.schema(
    [
        *(("batch", pa.int32()), ("image", pa.int32()), ("model", pa.string()), ("degradation", pa.string())),
        *(("logit", pa.float64()), ("content_sha256", pa.string()), ("width", pa.int32()), ("height", pa.int32())),
        *(("format", pa.string()), ("num_bytes", pa.int64()), ("error", pa.string())),
        *(("embedding", pa.list_(pa.float32())), ("attention", pa.list_(pa.float32()))),
    ]
)


@dataclass(frozen=True)
class ScoredImage:
    """An image and where it counts: (benchmark, its subsets), more than one when benchmarks share a file."""

    record: Record
    places: tuple[tuple[str, tuple[str, ...]], ...]
    name: str  # of the file below the benchmark's root, the same on every machine


@dataclass(frozen=True)
class Job:
    """What is to be scored.

    images      each once, see `place_images`
    models      the detectors by name
    precision   of the towers: "fp32", "bf16" or "fp16"
    details     whether the table has embeddings and attention too
    about       goes into the table's metadata as it is, beside what is known of the detectors

    Raises ValueError for a batch size below 1.
    """

    images: Sequence[ScoredImage]
    models: Mapping[str, DetectorEntry]
    degradations: Sequence[str] = (CLEAN,)
    protocol: str = "all"
    batch_size: int = 32
    precision: str = "fp32"
    details: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"a batch has at least 1 image, not {self.batch_size}")

    @property
    def num_batches(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def images_of(self, batch: int) -> range:
        """Return the positions of a batch's images."""
        return range(batch * self.batch_size, min(len(self.images), (batch + 1) * self.batch_size))


def place_images(benchmarks: Sequence[Benchmark]) -> list[ScoredImage]:
    """Return every image once, whatever subsets and benchmarks share it.

    They are sorted by benchmark, and in it as they are read fastest.
    """
    places: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    records: dict[str, tuple[Record, str]] = {}
    for benchmark in benchmarks:
        subsets: dict[str, list[str]] = {}
        for subset in benchmark.subsets:
            for record in subset.manifest:
                subsets.setdefault(record.uri, []).append(subset.name)
                records.setdefault(record.uri, (record, relative_uri(record.uri, benchmark.root)))
        for uri, names in subsets.items():
            places.setdefault(uri, []).append((benchmark.name, tuple(names)))
    images = [ScoredImage(record, tuple(places[uri]), name) for uri, (record, name) in records.items()]
    return sorted(images, key=lambda image: (image.places[0][0], *reading_order(image.record)))


# ---------------------------------------------------------------------------------------------------------
# The folder of a job


class JobFolder:
    """Scores of a job on disk.

    Raises ValueError when the folder holds another job's, OSError when it cannot be written.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        asked = _identity(job)
        if (folder / JOB).exists():
            _require_same(folder, _read_json(folder / JOB), asked)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / TABLE).exists():
            with replacing(folder / IMAGES) as scratch:
                pq.write_table(_image_table(job), scratch)
        with replacing(folder / JOB) as scratch:
            scratch.write_text(json.dumps(asked, indent=1), encoding="utf-8")

    def is_complete(self) -> bool:
        return (self.folder / TABLE).exists()

    def missing(self) -> list[int]:
        """Batches without scores, ascending."""
        if self.is_complete():
            return []
        done = set(_read_parts([self.folder], columns=["batch"])["batch"].unique().to_pylist())
        return [number for number in range(self.job.num_batches) if number not in done]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Rows of whole batches."""
        name = f"{rows[0]['batch']:06d}-{rows[-1]['batch']:06d}.parquet"
        with replacing(self.folder / PARTS / name) as scratch:
            pq.write_table(pa.Table.from_pylist(rows, schema=_PART), scratch)


def finish(folder: Path, *, parts_of: Sequence[Path] = ()) -> Path:
    """Parts -> scores.parquet in `folder`; `parts_of` are folders of the same job that hold some of them.

    Raises ValueError when one is of another job, or batches are missing: none is skipped in silence.
    """
    sources = list(parts_of) or [folder]
    if (folder / TABLE).exists():
        raise ValueError(f"{folder / TABLE} is there already; give another --out")
    for each in sources:
        if not (each / JOB).exists():
            raise ValueError(f"{each}: no {JOB}; expected a folder that benchmarks.py run has written")
    asked = _read_json(sources[0] / JOB)
    for each in sources[1:]:
        _require_same(each, _read_json(each / JOB), asked)
    with_parts = [each for each in sources if (each / IMAGES).exists()]
    if not with_parts:
        raise ValueError(f"{sources[0]}: {TABLE} is complete; there is nothing to merge")
    images = pq.read_table(with_parts[0] / IMAGES)
    scored = _read_parts(with_parts)
    missing = set(range(asked["num_batches"])) - set(scored["batch"].unique().to_pylist())
    if missing:
        raise ValueError(
            f"{len(missing)} of {asked['num_batches']} batches have no scores, the first is {min(missing)}: "
            "give the folders of all shards, or run the missing ones"
        )
    with replacing(folder / TABLE) as scratch:
        pq.write_table(_join(images, scored, asked, where=str(sources[0] / JOB)), scratch)
    with replacing(folder / JOB) as scratch:
        scratch.write_text(json.dumps(asked, indent=1), encoding="utf-8")
    # Scratch files are of processes that were killed while they wrote one.
    if (folder / PARTS).exists():
        shutil.rmtree(folder / PARTS)
    for path in [folder / IMAGES, *folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)
    return folder / TABLE


def _identity(job: Job) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "images": _names_sha256(job),
        "num_images": len(job.images),
        "num_batches": job.num_batches,
        "batch_size": job.batch_size,
        "models": [[name, model.sha256] for name, model in job.models.items()],
        "degradations": list(job.degradations),
        "protocol": job.protocol,
        "details": job.details,
        "precision": job.precision,
        "about": {**job.about, "models": {name: model.to_dict() for name, model in job.models.items()}},
    }


def _require_same(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    different = [name for name in asked if name != "about" and found.get(name) != asked[name]]
    if different:
        raise ValueError(
            f"{folder} holds scores of another run (different: {', '.join(different)}); "
            "give another --out, or --overwrite to lose them"
        )


def _names_sha256(job: Job) -> str:
    placed = (
        (f"{image.name}\t{image.record.generator}\t{image.places}", image.record.label) for image in job.images
    )
    return list_sha256(placed)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove the folder, or give another --out") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is not of the form {FORMAT}")
    return found


def _image_table(job: Job) -> pa.Table:
    rows = [
        {
            "image": number,
            "uri": image.record.uri,
            "label": int(image.record.label),
            "generator": image.record.generator if image.record.label is Label.FAKE else "",
            "source": image.record.generator,
            "benchmark": benchmark,
            "subsets": list(subsets),
        }
        for number, image in enumerate(job.images)
        for benchmark, subsets in image.places
    ]
    return pa.Table.from_pylist(rows)


def _read_parts(folders: Sequence[Path], *, columns: list[str] | None = None) -> pa.Table:
    paths = sorted(path for folder in folders for path in (folder / PARTS).glob("[!.]*.parquet"))
    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path, columns=columns))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it, its images are scored anew") from error
    schema = _PART if columns is None else pa.schema([_PART.field(name) for name in columns])
    return pa.concat_tables([schema.empty_table(), *tables])


def _scores(frame: pd.DataFrame, models: Mapping[str, DetectorEntry]) -> pd.Series:
    """Return the score of each row, by the calibration of its detector."""
    scores = pd.Series(math.nan, frame.index)
    for name, model in models.items():
        rows = frame["model"] == name
        scores[rows] = score_of(frame.loc[rows, "logit"].to_numpy(), model.calibration)
    return scores


def _join(images: pa.Table, scored: pa.Table, asked: dict[str, Any], *, where: str) -> pa.Table:
    """Return the table: a row for each image, model, degradation and benchmark, in the order of the images.

    Raises ValueError, which begins with `where`, when the job was not written by this program.
    """
    stored = asked["about"].get("models", {})
    models = {name: DetectorEntry.from_dict(stored.get(name), where=where) for name, _ in asked["models"]}
    model_rank = {name: rank for rank, (name, _) in enumerate(asked["models"])}
    degradation_rank = {name: rank for rank, name in enumerate(asked["degradations"])}
    frame = scored.to_pandas()
    # Two processes that were started for the same batches by mistake have written the same numbers.
    frame = frame.drop_duplicates(["image", "model", "degradation"])
    frame = images.to_pandas().merge(frame, on="image")
    ranks = [frame["image"], frame["benchmark"], frame["model"].map(model_rank)]
    order = pd.concat([*ranks, frame["degradation"].map(degradation_rank)], axis=1).sort_values(
        ["image", "benchmark", "model", "degradation"], kind="stable"
    )
    frame = frame.loc[order.index].assign(score=_scores(frame, models), protocol=asked["protocol"])
    columns = [*COLUMNS, *(DETAILS if asked["details"] else ())]
    table = pa.Table.from_pandas(frame[columns], preserve_index=False).replace_schema_metadata()
    about = {"format": FORMAT, **asked["about"], "protocol": asked["protocol"], "batch_size": asked["batch_size"]}
    about["precision"] = asked["precision"]
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
