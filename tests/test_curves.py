"""The picture of a run's curves: what is in it, and that it is a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.curves import DOTS_PER_INCH, SIZE_INCHES, WORST_SOURCES, draw_curves, make_figure, running_mean


def step(number: int, loss: float = 0.5) -> dict[str, Any]:
    return {"step": number, "epoch": 1, "loss": loss, "grad_norm": 1.0, "lr": number / 1000, "images_per_s": 9.0}


def validation(number: int, **parts: dict[str, Any]) -> dict[str, Any]:
    return {"step": number, "epoch": 2, "validation": parts}


def part(accuracy: float | None, **fakes: float) -> dict[str, Any]:
    sources = {name: {"images": 5, "accuracy": rate} for name, rate in fakes.items()}
    return {"accuracy": accuracy, "balanced_accuracy": 0.5, "auroc": 0.9, "sources": {"real": {}, "fake": sources}}


def lines(figure: Any, number: int) -> dict[str, list[tuple[float, float]]]:
    """The curves of a panel by label."""
    return {str(line.get_label()): line.get_xydata().tolist() for line in figure.axes[number].get_lines()}


LOSS, PARTS, RATE, SOURCES = range(4)


def test_curves_are_those_of_the_run() -> None:
    records = [step(number, loss=1 / number) for number in range(1, 101)]
    records.insert(50, validation(50, random=part(0.7, sd=0.9), heldout=part(None, dalle=0.2)))
    records.append(validation(100, random=part(0.8, sd=1.0), heldout=part(0.6, dalle=0.4)))
    figure = make_figure(records, title="run")
    raw, mean = lines(figure, LOSS).values()
    assert raw == [[number, 1 / number] for number in range(1, 101)]
    assert mean == [[n, pytest.approx((1 / n + 1 / max(1, n - 1)) / 2)] for n in range(1, 101)]
    ((rate),) = lines(figure, RATE).values()
    assert rate == [[number, number / 1000] for number in range(1, 101)]
    parts = lines(figure, PARTS)
    assert parts["random: accuracy"] == [[50, 0.7], [100, 0.8]]
    assert parts["random: balanced accuracy"] == [[50, 0.5], [100, 0.5]]
    assert np.array_equal(parts["heldout: accuracy"], [[50, np.nan], [100, 0.6]], equal_nan=True)
    sources = lines(figure, SOURCES)
    assert list(sources) == ["heldout: fake dalle", "random: fake sd"]
    assert sources["heldout: fake dalle"] == [[50, 0.2], [100, 0.4]]


def test_only_the_worst_sources_are_drawn() -> None:
    rates = {f"g{number}": number / 20 for number in range(15)}
    figure = make_figure([step(1), validation(1, random=part(0.5, **rates))])
    assert list(lines(figure, SOURCES)) == [f"random: fake g{number}" for number in range(WORST_SOURCES)]


def test_axes_have_titles_and_units() -> None:
    figure = make_figure([step(1)], title="run")
    assert [axes.get_title() for axes in figure.axes] == [
        "Training loss",
        "Validation: none yet",
        "Learning rate",
        "Validation: the lowest generators and real sources",
    ]
    assert all(axes.get_ylabel() for axes in figure.axes)
    assert {figure.axes[number].get_xlabel() for number in (RATE, SOURCES)} == {"optimiser step"}


def test_running_mean_is_that_of_the_last_values() -> None:
    value_N = np.random.default_rng(0).normal(size=40)
    expected_N = [value_N[max(0, n - 6) : n + 1].mean() for n in range(40)]
    assert running_mean(value_N, 7) == pytest.approx(expected_N)
    assert running_mean(value_N, 100)[-1] == pytest.approx(value_N.mean())


@pytest.mark.parametrize(
    "records",
    [
        [step(1)],
        [step(1), step(2)],
        [step(1), validation(1, random=part(None))],
        [validation(3, random=part(1.0))],
    ],
    ids=["one line", "no validation", "with validation", "validation alone"],
)
def test_picture_is_a_png(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    picture.write_bytes(b"old")
    draw_curves(metrics, picture)
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.size == tuple(side * DOTS_PER_INCH for side in SIZE_INCHES)
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "metrics.jsonl is empty"),
        ('{"step": 1, "epoch": 1, "loss": 1, "lr": 1}\n{"st', "line 2: not JSON"),
        ("[1]\n", "line 1: expected an object with a step"),
    ],
)
def test_what_is_no_log_of_a_run_is_refused(tmp_path: Path, text: str, message: str) -> None:
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    metrics.write_text(text)
    with pytest.raises(ValueError, match=message):
        draw_curves(metrics, picture)
    assert not picture.exists()
