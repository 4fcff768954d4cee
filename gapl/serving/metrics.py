"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from gapl.results import Result

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one service. Threads may share them."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "gapl_requests", "Requests that were answered", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "gapl_request_seconds", "From request to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self.refused = Counter(
            "gapl_refused", "Requests that were refused, by kind of problem", ["kind"], registry=registry
        )
        self.images = Counter("gapl_images", "Images: judged or unreadable", ["outcome"], registry=registry)
        self.batch_images = Histogram(
            "gapl_batch_images", "Images that were judged at once", buckets=SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "gapl_batch_seconds", "That judging them took", buckets=SECONDS, registry=registry
        )

    def note_results(self, results: Iterable[Result]) -> None:
        """Count what was found."""
        for each in results:
            self.images.labels("judged" if each.verdict else "unreadable").inc()

    def note_batch(self, num: int, seconds: float) -> None:
        """Count the images of a batch, and how long it took."""
        self.batch_images.observe(num)
        self.batch_seconds.observe(seconds)

    def watch(self, name: str, help: str, value: Callable[[], float]) -> None:
        """Show what a function returns whenever the metrics are read."""
        Gauge(name, help, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)
