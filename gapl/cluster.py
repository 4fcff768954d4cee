"""Judge images on a Ray cluster; what is found is what one process finds.

Every machine of the cluster must see the images and the detector file under the same paths. Ray gives the images
of a worker that died to another one.
"""

from __future__ import annotations

import argparse
import importlib.util
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gapl.batches import judge_files
from gapl.decode import allow_pixels
from gapl.detector import Detector, Judged
from gapl.inputs.input import Input
from gapl.options import trusted_certificates
from gapl.results import Result
from gapl.workers import Besides, Limits, Workers

MIN_BATCH = 16  # images that a worker is given at a time
END_S = 10.0  # that a thread may take to end


@dataclass(frozen=True)
class Cluster:
    """Where images are judged.

    load           loads the detector, in each worker
    num_workers    each with a detector of its own
    num_processes  that decode for each of them
    num_gpus       of each worker
    address        of the cluster; None starts one here
    explain        also read what each file says about its origin
    trusted        certificates in PEM, of those whose signatures are trusted
    """

    load: Callable[[], Detector]
    num_workers: int
    num_processes: int = 1
    num_gpus: int = 0
    address: str | None = None
    explain: bool = False
    trusted: str = ""

    def judge(
        self, images: list[Input], *, batch_size: int, limits: Limits, known: dict[str, Judged]
    ) -> Generator[Result]:
        """Yield what is found of each image, in their order. The same content gets one verdict.

        known   what was judged, by the SHA-256 of files; what is found is added to it

        Raises ValueError when Ray is not installed, the cluster gives up, or a detector gives no number.
        """
        size = max(batch_size, MIN_BATCH)
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        with connected(self.address):
            for results in self._deal(batches, batch_size, limits, known):
                for result in results:
                    if result.verdict is None:
                        yield result
                    else:  # two workers may have judged the same content
                        judged = known.setdefault(result.sha256, Judged(result.verdict, result.explanation))
                        yield replace(result, **judged._asdict())

    def _deal(self, batches: list[list[Input]], *arguments: Any) -> Iterator[list[Result]]:
        """Yield the results of each batch, in their order."""
        import ray

        ray.data.DataContext.get_current().execution_options.preserve_order = True
        items = [{"images": ray.cloudpickle.dumps(batch)} for batch in batches]
        judged = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Judge,
            fn_constructor_args=(self.load, self.num_processes, self.explain, self.trusted, *arguments),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.num_workers),
            num_gpus=self.num_gpus,
        )
        for row in judged.iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            yield ray.cloudpickle.loads(row["results"])


def chosen_cluster(args: argparse.Namespace, load: Callable[[], Detector]) -> Cluster | None:
    """Return the cluster that a command line asks for. Raises ValueError for options that exclude each other."""
    if not args.ray:
        if args.ray_address:
            raise ValueError("--ray-address needs --ray N")
        return None
    if args.gallery or args.sheets or args.sort_into:
        others = "--gallery, --sheets and --sort-into"
        raise ValueError(f"--ray makes a table; make {others} without it, by the same --out")
    num_processes = 1 if args.workers is None else args.workers
    trusted = trusted_certificates(args)
    return Cluster(load, args.ray, num_processes, address=args.ray_address, explain=args.explain, trusted=trusted)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at an address, or to one that is started here, in the block.

    Raises ValueError when Ray is not installed, or gives up.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError('--ray needs the package ray: pip install "ray[data]"')
    import ray

    ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    try:
        yield
    except ray.exceptions.RayError as error:
        raise ValueError(f"the Ray cluster gave up: {str(error).strip().splitlines()[-1]}") from error
    finally:
        _wait_for_readers()
        ray.shutdown()


def _wait_for_readers() -> None:
    """Wait for the threads that read ahead: one that asks a cluster which is shut down ends this process."""
    for thread in threading.enumerate():
        if thread.name == "iter_threaded":  # as Ray Data calls them; they end soon after what they read for
            thread.join(END_S)


class _Judge:
    """A worker, which loads the detector once and then judges the batches that it is given."""

    def __init__(
        self,
        load: Callable[[], Detector],
        num_processes: int,
        explain: bool,
        trusted: str,
        batch_size: int,
        limits: Limits,
        known: dict[str, Judged],
    ) -> None:
        allow_pixels(limits.megapixels)
        self._detector, self._batch_size, self._known = load(), batch_size, dict(known)
        self._explain = explain
        self._workers = Workers(
            num_processes,
            pixel=self._detector.pixel,
            limits=limits,
            known=known,
            explain=explain,
            besides=Besides(trusted=trusted),
        )

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the results of a batch, or the error of a detector that gives no number."""
        from ray import cloudpickle

        (encoded,) = rows["images"]
        images, size = cloudpickle.loads(encoded), self._batch_size
        judged = judge_files(
            self._detector, images, self._workers, batch_size=size, known=self._known, explain=self._explain
        )
        try:
            return {"results": [cloudpickle.dumps(list(judged))], "error": [""]}
        except ValueError as error:  # Ray would wrap it in a traceback
            return {"results": [b""], "error": [str(error)]}
