"""The pictures of a report: what is drawn in them, and that their SVG fits into any page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from reporting import plots
from reporting.svg import INK, to_svg

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.02, 0.1, 0.3, 0.7, 0.4, 0.8, 0.9, 0.97])
POINTS = pd.DataFrame(
    {
        "model": ["a"] * 4 + ["b"] * 2,
        "benchmark": ["one", "one", "two", "two", "one", "one"],
        "family": "jpeg",
        "unit": "quality",
        "strength": [50.0, 90.0] * 3,
        "auroc": [0.6, 0.8, 0.7, 0.9, 0.5, 0.5],
        "clean": [0.9, 0.9, 0.95, 0.95, 0.5, 0.5],
    }
)


def draw_all() -> dict[str, Figure]:
    pair = {"detector": (LABELS, SCORES)}
    return {
        "roc": plots.roc(pair),
        "precision_recall": plots.precision_recall(pair),
        "reliability": plots.reliability(LABELS, SCORES, ece=0.1),
        "histogram": plots.histogram(LABELS, SCORES, threshold=0.5, band=(0.4, 0.6)),
        "strengths": plots.strengths(POINTS, models=["a", "b"], family="jpeg"),
        "attention": plots.attention(np.eye(3), names=["a", "b", "c"], num_real=1),
        "map": plots.embedding_map(np.random.default_rng(0).normal(size=(8, 2)), LABELS, axis_names=("1", "2")),
    }


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("colour", plots.SERIES)
def test_colours_stand_out_from_both_papers(colour: str) -> None:
    for paper in ("#fcfcfb", "#15181c"):
        low, high = sorted([luminance(colour), luminance(paper)])
        assert (high + 0.05) / (low + 0.05) >= 3, paper


@pytest.mark.parametrize("name", draw_all())
def test_svg_is_whole_and_takes_the_ink_of_the_page(name: str) -> None:
    svg = to_svg(draw_all()[name], label='shows "it" & more', prefix="p7")
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'shows "it" & more'
    assert "width" not in root.attrib
    assert root.attrib["viewBox"]
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids
    assert all(each.startswith("p7-") for each in ids)
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert {a or b for a, b in used} <= set(ids)
    assert "currentColor" in svg
    assert INK not in svg
    assert not re.search(r"https?://(?!www\.w3\.org)", svg)


def test_svg_is_the_same_each_time() -> None:
    first, second = (to_svg(draw_all()["roc"], label="x", prefix="p") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a" onload="x', "$x^2$ & y", 'id="x url(#a)'])
def test_a_name_stays_text(name: str) -> None:
    svg = to_svg(plots.roc({name: (LABELS, SCORES)}), label=name, prefix="p")
    root = ElementTree.fromstring(svg)
    texts = [each.text or "" for each in root.iter() if each.tag.endswith("text")]
    assert any(text.startswith(plots.shorten(name, limit=24)) for text in texts), texts
    assert "<script" not in svg


def test_roc_has_the_points_of_its_thresholds() -> None:
    figure = plots.roc({"m": (LABELS, SCORES)})
    curve = figure.axes[0].get_lines()[1]
    assert [0.25, 1.0] in curve.get_xydata().tolist()  # type: ignore[union-attr]
    assert legend(figure) == ["m: 0.938"]


def test_long_curves_are_thinned_but_keep_their_ends() -> None:
    rng = np.random.default_rng(0)
    labels_N = np.tile([0, 1], 4000)
    figure = plots.roc({"m": (labels_N, rng.random(8000))})
    points = np.asarray(figure.axes[0].get_lines()[1].get_xydata())
    assert len(points) <= plots.MAX_POINTS
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]


def test_histogram_names_threshold_and_band() -> None:
    assert legend(plots.histogram(LABELS, SCORES, threshold=0.5)) == ["real images", "fakes", "threshold 0.5"]
    assert "unsure" in legend(plots.histogram(LABELS, SCORES, threshold=0.5, band=(0.4, 0.6)))
    assert "fakes" not in legend(plots.histogram(LABELS[:4], SCORES[:4], threshold=0.5))


def test_strengths_colours_go_by_the_models_given() -> None:
    figure = plots.strengths(POINTS, models=["z", "a", "b"], family="jpeg")
    thick = {str(line.get_label()): line for line in figure.axes[0].get_lines() if line.get_marker() == "o"}
    assert {name: line.get_color() for name, line in thick.items()} == {"a": plots.SERIES[1], "b": plots.SERIES[2]}
    assert np.asarray(thick["a"].get_ydata()).tolist() == pytest.approx([0.65, 0.85])


def test_heavy_maps_become_pixels() -> None:
    rng = np.random.default_rng(0)
    num = 2 * plots.MAX_VECTORS
    figure = plots.embedding_map(rng.normal(size=(num, 2)), np.tile([0, 1], num // 2), axis_names=("x", "y"))
    svg = to_svg(figure, label="map", prefix="p")
    assert "data:image/png;base64," in svg
    assert len(svg) < 600_000
