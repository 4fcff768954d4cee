"""Score the batches of a job on a Ray cluster; the table is that of one process.

Every machine of the cluster must see the images and the detector files under the same paths. Ray gives the batch
of a worker that died to another one; what has come back is on disk and is not scored again.
"""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from evaluation.scoring.folder import JobFolder
from evaluation.scoring.job import Job
from evaluation.scoring.score import ScoredModel, load_batches, score_batch
from gapl.cluster import connected
from models.weights.hub import find_model


class Scorer:
    """A worker, which loads the detectors once and then scores the batches that it is given."""

    def __init__(self, job: Job, *, device: str, allow_tiny: bool) -> None:
        self.job, self.device = job, device
        self.models = [
            ScoredModel.load(name, entry.path, find_model(entry.path), views=entry.views, allow_tiny=allow_tiny)
            for name, entry in job.models.items()
        ]
        for model in self.models:
            model.place(device=device, precision=job.precision)

    def __call__(self, numbers: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the rows of these batches, or the error of a detector that gives no number."""
        mine = [int(number) for number in numbers["batch"]]
        batches = load_batches(self.job, mine, self.models, num_workers=0)
        rows: list[Any] = []
        try:
            for number, batch in zip(mine, batches, strict=True):
                rows.append(score_batch(self.job, number, batch, self.models, device=self.device))
        except ValueError as error:  # Ray would wrap it in a traceback
            return {"rows": [[]], "error": [str(error)]}
        return {"rows": rows, "error": [""] * len(rows)}


def score_on_ray(
    folder: JobFolder, *, num_actors: int, device: str, allow_tiny: bool = False, address: str | None = None
) -> None:
    """Score what is missing of a job with `num_actors` workers.

    device   cpu, or cuda: a GPU for each worker
    address  of the cluster; None starts one here

    Raises ValueError when Ray is not installed, the cluster fails, or a detector gives no number.
    """
    if folder.missing():
        with connected(address):
            _score_missing(folder, num_actors=num_actors, device=device, allow_tiny=allow_tiny)


def _score_missing(folder: JobFolder, *, num_actors: int, device: str, allow_tiny: bool) -> None:
    """Write the rows of every missing batch as they come back from the workers."""
    import ray

    missing = folder.missing()
    numbers = ray.data.from_items([{"batch": number} for number in missing], override_num_blocks=len(missing))
    scored = numbers.map_batches(
        Scorer,
        fn_constructor_args=(folder.job,),
        fn_constructor_kwargs={"device": device, "allow_tiny": allow_tiny},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_gpus=1 if device == "cuda" else 0,
    )
    with tqdm(total=len(missing), desc="score", unit="batch", dynamic_ncols=True) as bar:
        for row in scored.iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            folder.write(list(row["rows"]))
            bar.update()
