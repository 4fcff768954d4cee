"""Keep the scores of a job on disk: what was scored once is never scored again.

A run that was killed, several processes and several machines give the numbers of one run, on a CPU with as many
threads to the last bit. In the folder of a job are

    job.json          what was asked for; another job is refused
    images.parquet    the images, in order
    parts/            scores of whole batches, each file written whole or not at all
    scores.parquet    the table, once all parts are there; images.parquet and parts/ are then deleted
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.records import list_sha256
from evaluation.scoring.job import Job
from evaluation.tables.scores import BY_WHOLE, COLUMNS, DETAILS, FORMAT, METADATA_KEY, DetectorEntry
from gapl.calibration import score_of
from gapl.files.atomic import replacing
from gapl.labels import Label
from gapl.names import AUTO
from gapl.schema import build_spec

TABLE, JOB, IMAGES, PARTS = "scores.parquet", "job.json", "images.parquet", "parts"

_TYPES = {
    "batch": pa.int32(),
    "image": pa.int32(),
    "model": pa.string(),
    "degradation": pa.string(),
    "logit": pa.float64(),
    "content_sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "format": pa.string(),
    "num_bytes": pa.int64(),
    "error": pa.string(),
    "embedding": pa.list_(pa.float32()),
    "attention": pa.list_(pa.float32()),
    BY_WHOLE: pa.bool_(),
}


class JobFolder:
    """The folder of a job; it is made when it is not there.

    Raises ValueError when the folder holds another job's, or files of these names that are no job's; OSError when
    it cannot be written.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        asked = _identity(job)
        _require_own(folder)
        if (folder / JOB).exists():
            _require_same(folder, _read_json(folder / JOB), asked)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / JOB, asked)
        if not (folder / TABLE).exists():
            with replacing(folder / IMAGES) as scratch:
                pq.write_table(_image_table(job), scratch)

    def is_complete(self) -> bool:
        """Return whether the table is there."""
        return (self.folder / TABLE).exists()

    def missing(self) -> list[int]:
        """Return the numbers of the batches without scores, ascending."""
        if self.is_complete():
            return []
        done = set(_read_parts([self.folder], columns=["batch"])["batch"].unique().to_pylist())
        return [number for number in range(self.job.num_batches) if number not in done]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows of whole batches."""
        name = f"{rows[0]['batch']:06d}-{rows[-1]['batch']:06d}.parquet"
        with replacing(self.folder / PARTS / name) as scratch:
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(_TYPES.items())), scratch)


def batch_size_of(folder: Path) -> int | None:
    """Return how many images a batch of the run in a folder has; None where there is no run."""
    return int(_read_json(folder / JOB)["batch_size"]) if (folder / JOB).exists() else None


def finish(folder: Path, *, parts_of: Sequence[Path] = ()) -> None:
    """Write scores.parquet to `folder` from its parts, or from those of other folders of the same job.

    Raises ValueError when a folder is of another job, or batches are missing: none is skipped in silence.
    """
    if (folder / TABLE).exists():
        raise ValueError(f"{folder / TABLE} is there already; give another --out")
    _require_own(folder)
    sources = list(parts_of) or [folder]
    asked = _read_same([*sources, folder] if (folder / JOB).exists() else sources)
    with_parts = [each for each in sources if (each / IMAGES).exists()]
    if not with_parts:
        raise ValueError(f"{sources[0]}: {TABLE} is complete; there is nothing to merge")
    images = pq.read_table(with_parts[0] / IMAGES)
    scored = _read_parts(with_parts)
    _require_all_batches(scored, num_batches=asked["num_batches"])
    with replacing(folder / TABLE) as scratch:
        pq.write_table(_join(images, scored, asked, where=str(sources[0] / JOB)), scratch)
    _write_json(folder / JOB, asked)
    # Scratch files are of processes that were killed while they wrote one.
    if (folder / PARTS).exists():
        shutil.rmtree(folder / PARTS)
    for path in [folder / IMAGES, *folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)


def _read_same(folders: Sequence[Path]) -> dict[str, Any]:
    """Return what was asked for in all of these folders. Raises ValueError when it differs."""
    for each in folders:
        if not (each / JOB).exists():
            raise ValueError(f"{each}: no {JOB}; expected a folder that benchmarks.py run has written")
    asked = _read_json(folders[0] / JOB)
    for each in folders[1:]:
        _require_same(each, _read_json(each / JOB), asked)
    return asked


def _require_all_batches(scored: pa.Table, *, num_batches: int) -> None:
    if missing := set(range(num_batches)) - set(scored["batch"].unique().to_pylist()):
        raise ValueError(
            f"{len(missing)} of {num_batches} batches have no scores, the first is {min(missing)}: "
            "give the folders of all shards, or run the missing ones"
        )


# ---------------------------------------------------------------------------------------------------------
# Files


def _identity(job: Job) -> dict[str, Any]:
    """Return what job.json says of a job. All but `about` tells jobs apart."""
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
        "about": {**job.about, "models": {name: asdict(model) for name, model in job.models.items()}},
    }


def _require_own(folder: Path) -> None:
    """Raise ValueError when a folder has files that a job would replace, and is no job's."""
    found = [name for name in (TABLE, IMAGES, f"{PARTS}/*") if any(folder.glob(name))]
    if found and not (folder / JOB).exists():
        raise ValueError(f"{next(folder.glob(found[0]))} is there, without the {JOB} of a run; give another --out")


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


def _write_json(path: Path, asked: dict[str, Any]) -> None:
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(asked, indent=1), encoding="utf-8")


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
    schema = pa.schema([(name, _TYPES[name]) for name in columns or _TYPES])
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default")  # old parts lack columns


# ---------------------------------------------------------------------------------------------------------
# The table


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
    models = {name: build_spec(DetectorEntry, stored.get(name), where=where) for name, _ in asked["models"]}
    order = {"model": list(models), "degradation": asked["degradations"]}
    frame = scored.to_pandas()
    # Two processes that were started by mistake for the same batches have written the same numbers.
    frame = frame.drop_duplicates(["image", "model", "degradation"])
    frame = images.to_pandas().merge(frame, on="image")
    frame = frame.sort_values(
        ["image", "benchmark", "model", "degradation"],
        key=lambda column: column.map(order[column.name].index) if column.name in order else column,
    )
    frame = frame.assign(score=_scores(frame, models), protocol=asked["protocol"])
    columns = [*COLUMNS, *(DETAILS if asked["details"] else ())]
    columns += [BY_WHOLE] * any(model.views == AUTO for model in models.values())
    table = pa.Table.from_pandas(frame[columns], preserve_index=False).replace_schema_metadata()
    about = {"format": FORMAT, **asked["about"]} | {k: asked[k] for k in ("protocol", "batch_size", "precision")}
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
