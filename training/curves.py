"""Draw the learning curves of a run from its metrics.jsonl.

Shape suffixes: N steps, V validations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gapl.files.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORST_SOURCES = 8
SIZE_INCHES = (15, 8)
DOTS_PER_INCH = 100
# Set by hand: matplotlib's own layout takes longer than the drawing.
MARGINS = {"left": 0.06, "right": 0.81, "bottom": 0.07, "top": 0.91, "wspace": 0.17, "hspace": 0.17}
MAX_CHARACTERS = 38  # of a name in a legend


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw loss, learning rate and validation against steps as a PNG. It replaces `picture` once it is complete.

    Raises ValueError when a line is not a JSON object with a step, or when there is no line.
    """
    figure = make_figure(read_metrics(metrics), title=metrics.absolute().parent.name)
    with replacing(picture) as scratch:
        figure.savefig(scratch, format="png", dpi=DOTS_PER_INCH)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl: one dictionary per line."""
    records = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(record, dict) or "step" not in record:
                raise ValueError(f"{path}, line {number}: expected an object with a step")
            records.append(record)
    if not records:
        raise ValueError(f"{path} is empty; expected a line for each step of a run")
    return records


def make_figure(records: Sequence[dict[str, Any]], *, title: str = "") -> Figure:
    """Return a figure of four panels."""
    from matplotlib.figure import Figure  # a second to import

    steps = [record for record in records if "loss" in record]
    validations = [record for record in records if "validation" in record]
    figure = Figure(figsize=SIZE_INCHES)
    figure.suptitle(f"{title}, epoch {records[-1]['epoch']}".lstrip(", "))
    (loss, parts), (rate, sources) = figure.subplots(2, 2, sharex=True, gridspec_kw=MARGINS)
    _draw_loss(loss, steps)
    _draw_rate(rate, steps)
    _draw_parts(parts, validations)
    _draw_sources(sources, validations)
    for axes in (rate, sources):
        axes.set_xlabel("optimiser step")
    for axes in (loss, rate, parts, sources):
        axes.grid(alpha=0.3)
    loss.legend(loc="upper right")
    for axes in (parts, sources):
        if axes.get_lines():
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    return figure


def running_mean(value_N: np.ndarray, window: int) -> np.ndarray:
    """Average each value with those before it, over `window` values or as many as there are."""
    total_N = np.concatenate([[0.0], np.cumsum(value_N)])
    end_N = np.arange(1, len(value_N) + 1)
    start_N = np.maximum(end_N - window, 0)
    mean_N: np.ndarray = (total_N[end_N] - total_N[start_N]) / (end_N - start_N)
    return mean_N


def _draw_loss(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    axes.set_title("Training loss")
    axes.set_ylabel("binary cross-entropy (nats)")
    step_N = [record["step"] for record in steps]
    loss_N = np.array([record["loss"] for record in steps], dtype=float)
    window = max(1, len(loss_N) // 50)
    axes.plot(step_N, loss_N, color="C0", alpha=0.35, linewidth=0.8, marker=_marker(step_N), label="of a step")
    if window > 1:
        axes.plot(step_N, running_mean(loss_N, window), color="C0", label=f"mean of the last {window} steps")


def _draw_rate(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    axes.set_title("Learning rate")
    axes.set_ylabel("learning rate (first group of parameters)")
    step_N = [record["step"] for record in steps]
    axes.plot(step_N, [record["lr"] for record in steps], color="C2", marker=_marker(step_N))
    axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    axes.set_ylim(bottom=0)


def _draw_parts(axes: Axes, validations: Sequence[dict[str, Any]]) -> None:
    """Draw accuracy as a line and balanced accuracy dashed, in one colour for each validation set."""
    axes.set_title("Validation" if validations else "Validation: none yet")
    axes.set_ylabel("accuracy (share of images)")
    parts = dict.fromkeys(part for record in validations for part in record["validation"])
    for number, part in enumerate(parts):
        for name, style in (("accuracy", "-"), ("balanced_accuracy", "--")):
            curve = [(record["step"], record["validation"].get(part, {}).get(name)) for record in validations]
            label = f"{part}: {name.replace('_', ' ')}"
            axes.plot(*_columns(curve), style, marker="o", markersize=3, color=f"C{number}", label=label)


def _draw_sources(axes: Axes, validations: Sequence[dict[str, Any]]) -> None:
    """Draw the accuracy of the sources that are lowest in the last validation."""
    axes.set_title("Validation: the lowest generators and real sources")
    axes.set_ylabel("accuracy (share of the source's images)")
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in validations:
        for name, accuracy in _accuracies(record["validation"]):
            curves.setdefault(name, []).append((record["step"], accuracy))
    for name in sorted(curves, key=lambda name: curves[name][-1][1])[:WORST_SOURCES]:
        label = name if len(name) <= MAX_CHARACTERS else f"{name[: MAX_CHARACTERS - 3]}..."
        axes.plot(*_columns(curves[name]), marker="o", markersize=3, label=label)
    axes.set_ylim(-0.03, 1.03)


def _accuracies(validation: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield ("set: class name", accuracy) for each generator and real source."""
    for part, metrics in validation.items():
        for kind, sources in metrics.get("sources", {}).items():
            for source, rates in sources.items():
                yield f"{part}: {kind} {source}", rates["accuracy"]


def _columns(points: Sequence[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    """Return steps and values; None becomes a gap in the line."""
    return [step for step, _ in points], [np.nan if value is None else value for _, value in points]


def _marker(points: Sequence[int]) -> str:
    """Mark a single point, since a line through it would be invisible."""
    return "o" if len(points) == 1 else ""
