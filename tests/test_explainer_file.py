"""prototype/explainer.py: what is learnt from training images, for explanations."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.open_corpus.collection import COLUMNS, MANIFEST
from data.open_corpus.kinds import FAMILIES, GAN, OPENAI, SD, SDXL, family_of
from data.open_corpus.listing import read_listing
from gapl.explain.background import read_background
from gapl.labels import Label
from prototype import explainer, training_images
from prototype.describe import describe
from prototype.training_images import TrainingImages
from tests.conftest import MakeImage, RunCli
from tests.test_gapl import LORA, make_detector
from tests.test_several_views import ALL, config_with


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    """A collection of two images of each of eight sources, half of them fakes."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(16):
        label, source = number % 2, f"{'portrait' if number % 4 else 'car'}_{number // 2}"
        generator = ("stylegan2", "dalle3")[number // 8] if label else source
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        name = f"train/{source}/{('0_real', '1_fake')[label]}/{sha256[:16]}.jpg"
        make_image(folder / name, seed=number, size=(90, 80))
        row = dict.fromkeys(COLUMNS, "90") | {"filename": name, "label": str(label), "generator": generator}
        rows.append(row | {"source": source, "part": "train", "sha256": sha256})
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def detector_file(tmp_path: Path) -> Path:
    return make_detector(tmp_path / "detector.safetensors", replace(config_with(ALL), lora=LORA))


def test_the_file_describes_the_prototypes_of_its_detector(
    corpus: Path, detector_file: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    given = ("--model_path", detector_file, "--corpus", corpus, "--precision", "fp32", "--num-workers", 0)
    done = run_cli(explainer.main, *given)
    assert done.code == 0, done.err
    assert "16 of 16 training images" in done.out
    background = read_background(tmp_path / "detector.explainer")
    described = background.spec.described
    assert len(described) == config_with(ALL).num_prototypes
    assert any(each.shares for each in described)
    assert {name for each in described for name in each.shares} <= {"portrait", "car", GAN, OPENAI}
    assert "exists; name another --out" in run_cli(explainer.main, *given).only_error()
    assert run_cli(explainer.main, *given, "--overwrite").code == 0
    before = detector_file.read_bytes()
    refused = run_cli(explainer.main, *given, "--overwrite", "--out", detector_file).only_error()
    assert "is no explainer file, and is not replaced" in refused
    assert detector_file.read_bytes() == before


def test_what_is_no_corpus_and_no_stage_2_is_refused(
    corpus: Path, detector_file: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    given = ("--model_path", detector_file, "--corpus", tmp_path / "nowhere")
    assert "nowhere: no images of train; python -m data.collect" in run_cli(explainer.main, *given).only_error()
    stage1 = make_detector(tmp_path / "one.safetensors", config_with(("centre",), stage=1), calibrated=False)
    done = run_cli(explainer.main, "--model_path", stage1, "--corpus", corpus)
    assert "a detector of stage 1, which has no prototypes" in done.only_error()


# ---------------------------------------------------------------------------------------------------------
# What is learnt


def images_of(*, spread: float, num_sources: int = 20, per_source: int = 5) -> TrainingImages:
    """Fakes of two families and real images; a family is a direction, which `spread` hides."""
    generator = np.random.default_rng(0)
    family_N = np.repeat(np.arange(num_sources) % 3, per_source)
    features_ND = np.eye(8)[family_N] + spread * generator.standard_normal((len(family_N), 8))
    return TrainingImages(
        features_ND,
        whole_ND=features_ND / 2,
        embeddings_NE=features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True),
        similarity_NP=np.eye(3)[family_N],
        labels_N=np.where(family_N < 2, int(Label.FAKE), int(Label.REAL)),
        sources_N=np.repeat([f"source {i}" for i in range(num_sources)], per_source),
        kinds_N=np.array([(GAN, OPENAI, "portrait")[i] for i in family_N], dtype=object),
        held_out_N=np.arange(len(family_N)) >= 3 * len(family_N) // 4,
    )


def test_families_are_named_where_they_can_be_told_apart_and_not_where_they_cannot() -> None:
    learnt = training_images.learn_families(images_of(spread=0.1), seed=0)
    assert learnt is not None
    assert learnt[0].names == (GAN, OPENAI)
    assert learnt[0].precision >= training_images.PRECISION
    assert training_images.learn_families(images_of(spread=100.0), seed=0) is None


@pytest.mark.parametrize("spread", [0.1, 100.0])
def test_a_few_fakes_are_too_few_for_families(spread: float) -> None:
    images = images_of(spread=spread, num_sources=15, per_source=2)
    assert 0 < ((images.labels_N == Label.FAKE) & ~images.held_out_N).sum() < training_images.MIN_NAMED
    assert training_images.learn_families(images, seed=0) is None


def test_least_probability_is_the_smallest_with_the_precision_that_is_wanted() -> None:
    probability_N = np.array([0.5, 0.9, 0.8, 0.7, 0.6])
    right_N = np.array([False, True, True, True, True])
    assert training_images.least_probability(probability_N, right_N) == (0.6, 1.0, 0.8)
    assert training_images.least_probability(probability_N, ~right_N) == (1.0, 0.0, 0.0)


def test_prototypes_are_described_by_the_images_that_are_nearest_to_them() -> None:
    similarity_NP = np.repeat(np.eye(3), (60, 39, 1), axis=0)
    names = ["portrait"] * 45 + ["car"] * 12 + ["chart"] * 3 + [GAN] * 40
    first, second, third = describe(similarity_NP, names)
    assert first.shares == {"portrait": 0.75, "car": 0.2}
    assert str(second) == "GAN 100%"
    assert str(third) == "few training images are nearest to it"


def test_every_generator_of_the_corpus_has_a_family_or_is_not_known() -> None:
    fakes = {each.generator for each in read_listing().pictures if each.label == Label.FAKE}
    assert {family_of(name) for name in fakes} == {*FAMILIES, None}
    named = {"gpt_image_2": OPENAI, "sd15_dreamshaper": SD, "sdxl_dreamshaper": SDXL, "agiqa3k_attngan": GAN}
    assert {name: family_of(name) for name in named} == named
    assert family_of("unknown:owner/name") is None
