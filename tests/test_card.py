"""A model card says what the tables say, in the form that the hub reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from example_scores import CALIBRATED, CALIBRATION, HOSTILE, OTHER, make_scores
from huggingface_hub import ModelCard

from evaluation.tables.report import make_table
from evaluation.tables.scores import ScoreTable
from reporting.card import DetectorFacts, write_card

FACTS = DetectorFacts(
    "gapl_small",
    form="adapter",
    backbone="clip-vit-b16",
    provenance={"prototypes": {"method": "k-means", "sources": ["a|b", "c"]}},
    notice="For research only",
)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> ScoreTable:
    return make_scores(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def card(scores: ScoreTable, tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    path = tmp_path_factory.mktemp("card") / "README.md"
    write_card(path, scores, facts=FACTS, licence="mit", model=CALIBRATED)
    return ModelCard.load(path)


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_front_matter_holds_the_figures_of_the_report(card: ModelCard, scores: ScoreTable) -> None:
    table = make_table(replace(scores, frame=scores.frame[scores.frame["model"] == CALIBRATED]))
    mean = table[(table["benchmark"] == "Made up") & (table["subset"] == "mean")].iloc[0]
    found = {result.metric_type: result.metric_value for result in card.data.eval_results or []}
    names = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "roc_auc": "auroc"}
    names |= {"average_precision": "ap"}
    assert found == {hub: pytest.approx(mean[ours], abs=1e-4) for hub, ours in names.items()}
    assert {result.dataset_name for result in card.data.eval_results or []} == {"Made up"}
    assert card.data.model_name == "gapl_small"
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "image-classification"
    low, high = mean["auroc_low"], mean["auroc_high"]
    assert f"{mean['auroc']:.3f} [{low:.3f}, {high:.3f}]" in section(card, "Results")


def test_it_tells_failures_false_positives_and_what_is_absent(card: ModelCard) -> None:
    assert "For research only" in card.text
    assert "gan" in section(card, "Known failures")
    wrong = section(card, "False positives by source")
    assert "cameras" in wrong
    assert "flickr" in wrong
    limits = section(card, "Limits")
    assert "Not measured: Gone." in limits
    assert "without BigGAN" in limits
    assert "1 images could not be read" in limits
    assert "ab" * 32 in section(card, "How the figures were made")
    assert "cd" * 32 in section(card, "The detector")


def test_calibration_is_told_or_its_lack(card: ModelCard, scores: ScoreTable, tmp_path: Path) -> None:
    told = section(card, "Calibration and operating points")
    assert "| fpr5 | 0.8000 |" in told
    assert "0.4000 to 0.6000 are unsure" in told
    assert "called fake above 0.6000." in told
    assert f"in the tables are at a threshold of {scores.threshold(CALIBRATED):.4g}." in told
    unbanded = DetectorFacts("x", calibration=replace(CALIBRATION, band_low=0.55, band_high=0.55))
    write_card(tmp_path / "README.md", scores, facts=unbanded, licence="mit", model=OTHER)
    assert "called fake from 0.5500 on." in (tmp_path / "README.md").read_text(encoding="utf-8")
    write_card(tmp_path / "README.md", scores, facts=DetectorFacts("x"), licence="mit", model=OTHER)
    plain = ModelCard.load(tmp_path / "README.md")
    assert "not calibrated" in section(plain, "Calibration and operating points")
    assert "not a probability" in section(plain, "Limits")
    given = DetectorFacts("x", calibration=CALIBRATION)
    write_card(tmp_path / "README.md", scores, facts=given, licence="mit", model=OTHER)
    assert "fpr5" in ModelCard.load(tmp_path / "README.md").text


def test_names_are_no_markup(card: ModelCard) -> None:
    assert HOSTILE not in card.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in card.text
    assert "a\\|b" in card.text


def test_what_nobody_measured_has_no_figure(scores: ScoreTable, tmp_path: Path) -> None:
    few = scores.frame[(scores.frame["model"] == OTHER) & (scores.frame["label"] == 1)]
    few = few.groupby("source").head(4)
    path = tmp_path / "README.md"
    write_card(path, ScoreTable(few, {}), facts=DetectorFacts("x"), licence="mit", model=OTHER)
    card = ModelCard.load(path)
    assert "nothing can be said" in section(card, "Known failures")
    assert "nothing can be said" in section(card, "False positives by source")
    assert {result.metric_type for result in card.data.eval_results or []} == {"accuracy"}
    assert "not stated" in section(card, "The detector")


@pytest.mark.parametrize("licence", ["", "other"])
def test_a_licence_that_says_nothing_is_refused(licence: str, scores: ScoreTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"licence '{licence}'"):
        write_card(tmp_path / "README.md", scores, facts=FACTS, licence=licence, model=OTHER)
    assert not list(tmp_path.iterdir())


def test_a_licence_has_its_link(scores: ScoreTable, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    write_card(path, scores, facts=FACTS, licence="mit", licence_link="LICENSE", model=OTHER)
    data = ModelCard.load(path).data.to_dict()
    assert (data["license"], data["license_link"]) == ("mit", "LICENSE")
