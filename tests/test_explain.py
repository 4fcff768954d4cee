"""Explanations of verdicts: what each prototype did, and what is known of training."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import export
import gapl
import inference
from gapl import weights
from gapl.explain.background import FORMAT, SUFFIX, BackgroundSpec, Described
from gapl.explain.families import BIAS, WEIGHT, FamilySpec
from gapl.explain.head import PROTOTYPES, TENSORS, Head
from gapl.explain.memory import MEMORY, MemorySpec
from gapl.explain.words import effective_number, in_words
from gapl.files import tensorfile as reading
from gapl.fingerprint import fingerprint
from gapl.info import FORMAT as DETECTOR
from models import tensorfile
from models.weights.checkpoint import load_checkpoint
from tests.conftest import MakeImage, RunCli
from tests.test_gapl import LORA, make_detector
from tests.test_several_views import ALL, config_with


@pytest.fixture
def detector_file(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "GRAPH", graph)
    return make_detector(tmp_path / "detector.safetensors", replace(config_with(ALL), lora=LORA))


@pytest.fixture
def image(make_image: MakeImage, tmp_path: Path) -> Path:
    return make_image(tmp_path / "images" / "0.png", size=(90, 70))


def write_background(detector_file: Path, **changes: object) -> Path:
    """Write an explainer file beside a detector file."""
    _, tensors = reading.read(detector_file, format=DETECTOR)
    num, width = tensors[PROTOTYPES].shape
    generator = np.random.default_rng(0)
    memory_NE = generator.standard_normal((9, width)).astype(np.float32)
    memory_NE /= np.linalg.norm(memory_NE, axis=1, keepdims=True)
    spec = BackgroundSpec(
        head=fingerprint({name: tensors[name] for name in TENSORS}),
        described=tuple(Described({f"generator {i}": 0.6, "others": 0.4}) for i in range(num)),
        families=FamilySpec(("GAN", "FLUX"), least=0.0, precision=0.9, coverage=0.5),
        memory=MemorySpec(nearest=3, cut=0.01),
    )
    header = asdict(replace(spec, **changes))
    arrays = {WEIGHT: np.eye(2, config_with(ALL).feature_width), BIAS: np.array([0.0, 1.0]), MEMORY: memory_NE}
    path = detector_file.with_suffix(SUFFIX)
    tensorfile.write(
        path,
        {name: torch.from_numpy(array).float() for name, array in arrays.items()},
        format=FORMAT,
        header=header,
    )
    return path


# ---------------------------------------------------------------------------------------------------------
# Prototypes


def test_head_gives_the_logits_and_attention_of_torch(detector_file: Path) -> None:
    detector = load_checkpoint(detector_file, allow_tiny=True).detector
    embedding_BE = torch.nn.functional.normalize(torch.randn(5, detector.project.out_features))
    with torch.inference_mode():
        mixture_1BE, attention_1BP = detector.attention(
            embedding_BE[None], detector.prototypes_PE[None], detector.prototypes_PE[None]
        )
        logit_B = detector.classifier(mixture_1BE[0])[:, 0]
    found = Head(detector.head_tensors(), num_heads=detector.attention.num_heads).shares(embedding_BE.numpy())
    assert found.attention_BP == pytest.approx(attention_1BP[0].numpy(), abs=1e-5)
    assert found.contribution_BP.sum(axis=1) + found.bias == pytest.approx(logit_B.numpy(), abs=1e-4)


@pytest.mark.parametrize("views", ["full", "fast", "auto"])
@pytest.mark.parametrize("with_torch", [False, True])
def test_contributions_and_bias_add_up_to_the_logit(
    detector_file: Path, image: Path, views: str, with_torch: bool
) -> None:
    if with_torch:
        detector: gapl.Detector = inference.Detector.load(detector_file, views=views, allow_tiny=True)
    else:
        detector = gapl.Detector.load(detector_file, views=views)
    ((verdict, found),) = detector.explain([detector.see(image)])
    assert verdict == detector(image)
    assert found is not None
    contributions = [each["contribution"] for each in found["prototypes"]]
    assert sum(contributions) + found["bias"] == pytest.approx(verdict.logit, abs=1e-4)
    assert sum(each["attention"] for each in found["prototypes"]) == pytest.approx(1)
    assert [abs(each) for each in contributions] == sorted(map(abs, contributions), reverse=True)
    assert {each["label"] for each in found["prototypes"]} == {"real", "fake"}
    assert found["in_words"][0].endswith("prototypes answered alike, so they do not tell what the image is like.")


def test_words_name_the_prototypes_that_moved_the_logit_most() -> None:
    moved = [
        ("fake", 0.7, 2.0, "GAN 80%"),
        ("real", 0.1, -1.5, "car 60%"),
        ("fake", 0.1, 0.5, ""),
        ("real", 0.1, 0, ""),
    ]
    prototypes = [
        {
            "index": index,
            "label": label,
            "attention": attention,
            "contribution": contribution,
            "described_as": like,
        }
        for index, (label, attention, contribution, like) in enumerate(moved)
    ]
    assert in_words({"prototypes": prototypes, "bias": 0.1}) == [
        "Towards fake: +2.50, most by fake prototype 0 (GAN 80%) +2.00; fake prototype 2 +0.50. "
        "Towards real: -1.50, most by real prototype 1 (car 60%) -1.50."
    ]
    assert effective_number([0.25] * 4) == pytest.approx(4)
    assert effective_number([1.0, 0.0]) == pytest.approx(1)


def test_a_detector_of_stage_1_and_an_exported_one_say_what_is_missing(
    detector_file: Path, image: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    stage1 = make_detector(tmp_path / "one.safetensors", config_with(("centre",), stage=1), calibrated=False)
    detector = inference.Detector.load(stage1, allow_tiny=True)
    ((_, found),) = detector.explain([detector.see(image)])
    assert found is not None
    assert found["in_words"] == ["This detector has no prototypes: it is of stage 1."]
    given = ("--model_path", detector_file, "--out", tmp_path / "onnx", "--allow-tiny")
    assert run_cli(export.main, *given).code == 0
    exported = gapl.Detector.load(tmp_path / "onnx/detector.onnx")
    ((_, found),) = exported.explain([exported.see(image)])
    assert found is not None
    assert found["prototypes"] == []
    assert "that takes a detector file of this project" in found["in_words"][0]


# ---------------------------------------------------------------------------------------------------------
# What is known of training


def test_explainer_file_describes_prototypes_names_families_and_measures_distance(
    detector_file: Path, image: Path
) -> None:
    write_background(detector_file)
    detector = gapl.Detector.load(detector_file)
    ((verdict, found),) = detector.explain([detector.see(image)])
    assert found is not None
    assert found["prototypes"][0]["described_as"].startswith("generator ")
    assert found["unlike"]["is_unlike"]
    assert found["in_words"][-1] == "Unlike anything in training: less certain."
    if verdict.label == "fake":
        assert found["family"]["name"] in ("GAN", "FLUX")
        assert sum(found["family"]["probabilities"].values()) == pytest.approx(1)
    else:
        assert found["family"] is None


def test_a_family_below_its_least_probability_is_not_named(detector_file: Path) -> None:
    path = write_background(
        detector_file, families=FamilySpec(("GAN", "FLUX"), least=1.0, precision=1, coverage=0)
    )
    detector = gapl.Detector.load(detector_file)
    assert path.exists()
    families = detector.explainer.background and detector.explainer.background.families
    assert families
    feature_BD = np.zeros((2, detector.info.config.feature_width), dtype=np.float32)
    named, other = families.name(feature_BD, ["fake", "real"])
    assert named is not None
    assert named["name"] == "unknown"
    assert list(named["probabilities"]) == ["FLUX", "GAN"]
    assert other is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "0" * 64}, "it belongs to another detector"),
        ({"described": (Described({"one": 1.0}),)}, "it belongs to another detector"),
        ({"memory": MemorySpec(nearest=100, cut=0.1)}, "expected an explainer file"),
    ],
)
def test_explainer_files_that_do_not_fit_are_refused(
    detector_file: Path, image: Path, changes: dict[str, object], message: str
) -> None:
    write_background(detector_file, **changes)
    detector = gapl.Detector.load(detector_file)
    detector(image)  # a verdict takes no explainer file
    with pytest.raises(ValueError, match=message):
        detector.explain([detector.see(image)])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (MEMORY, np.full((9, 8), np.nan), "'memory_NE' has values that are no finite numbers"),
        (MEMORY, np.ones((9, 3)), "it belongs to another detector"),
        (MEMORY, np.ones(9), r"a memory of shape \(9,\)"),
        (WEIGHT, np.ones((2, 3)), "it belongs to another detector"),
        (BIAS, np.ones((2, 1)), "2 families with weights"),
    ],
)
def test_explainer_files_with_wrong_tensors_are_refused(
    detector_file: Path, name: str, value: np.ndarray, message: str
) -> None:
    path = write_background(detector_file)
    header, tensors = reading.read(path, format=FORMAT)
    changed = {key: torch.from_numpy(array).float() for key, array in (tensors | {name: value}).items()}
    tensorfile.write(path, changed, format=FORMAT, header=header)
    with pytest.raises(ValueError, match=message):
        _ = gapl.Detector.load(detector_file).explainer


def test_a_damaged_explainer_file_is_refused(detector_file: Path, image: Path) -> None:
    path = write_background(detector_file)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    detector = gapl.Detector.load(detector_file)
    with pytest.raises(ValueError, match=r"detector.explainer: damaged: the checksum"):
        detector.explain([detector.see(image)])


@pytest.mark.parametrize("kind", ["a folder", "a link to nothing", "not a regular file"])
def test_an_explainer_that_is_no_file_is_refused(detector_file: Path, kind: str) -> None:
    beside = detector_file.with_suffix(SUFFIX)
    if kind == "a folder":
        beside.mkdir()
    elif kind == "a link to nothing":
        beside.symlink_to("nowhere")
    else:
        os.mkfifo(beside)
    with pytest.raises(ValueError, match=rf"detector.explainer: {kind}; expected an explainer file"):
        _ = gapl.Detector.load(detector_file).explainer


def test_an_explainer_is_found_from_another_working_folder(
    detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_background(detector_file)
    monkeypatch.chdir(detector_file.parent)
    detector = gapl.Detector.load(detector_file.name)
    monkeypatch.chdir("/")
    assert detector.explainer.background


def test_what_cannot_be_explained_is_refused_in_a_line(detector_file: Path, image: Path) -> None:
    detector = gapl.Detector.load(detector_file)
    for wrong in (image, str(image), image.read_bytes(), [image], [str(image)]):
        with pytest.raises(ValueError, match=r"expected a list of what the detector saw, such as \[detector.see"):
            detector.explain(wrong)  # type: ignore[arg-type]
    without_file = gapl.Detector(detector._engine, detector.info)
    with pytest.raises(ValueError, match="this detector is of no file"):
        without_file.explain([without_file.see(image)])


# ---------------------------------------------------------------------------------------------------------
# On the command line


def test_explain_is_a_part_of_rows_and_of_text_and_changes_no_verdict(
    detector_file: Path, image: Path, run_cli: RunCli
) -> None:
    given = ("--model_path", detector_file, "--allow-tiny", image)
    plain = json.loads(run_cli(inference.main, *given, "--json").out.splitlines()[-1])
    done = run_cli(inference.main, *given, "--json", "--explain")
    explained = json.loads(done.out.splitlines()[-1])
    explanation = explained.pop("explanation")
    assert explained == plain
    assert {"origin", "origin_in_words", "prototypes", "bias", "in_words"} <= explanation.keys()
    assert "prototypes answered alike" in run_cli(inference.main, *given, "--explain").out


def test_a_table_without_explanations_is_judged_anew_for_them(
    detector_file: Path, image: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    given = ("--model_path", detector_file, "--allow-tiny", image, "--out", tmp_path / "table.csv")
    assert run_cli(inference.main, *given).code == 0
    for _ in range(2):
        done = run_cli(inference.main, *given, "--explain")
        assert done.code == 0, done.err
        assert '""prototypes"": [{""index""' in (tmp_path / "table.csv").read_text()


def test_a_table_with_explanations_needs_the_same_explainer_and_option(
    detector_file: Path, image: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    write_background(detector_file)
    table = tmp_path / "table.csv"
    given = ("--model_path", detector_file, "--allow-tiny", image, "--out", table)
    assert run_cli(inference.main, *given, "--explain").code == 0
    before = table.read_bytes()
    assert "and it has explanations; give --explain" in run_cli(inference.main, *given).only_error()
    write_background(detector_file, memory=MemorySpec(nearest=2, cut=0.01))
    refused = run_cli(inference.main, *given, "--explain").only_error()
    assert "table.csv is there already, and its explanations are by another explainer file" in refused
    assert table.read_bytes() == before
