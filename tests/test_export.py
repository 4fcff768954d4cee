"""Exported files: what they hold, when they are refused, and that commands take them like other detectors."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

import benchmarks
import export
import inference
from evaluation.tables.scores import read_scores
from gapl.config import DetectorConfig, LoraSpec, TowerSpec
from gapl.engine import Engine, Outcome
from gapl.files.checksum import sha256_of
from gapl.info import header_of
from gapl.names import EXPORT_PRECISIONS, FAST, OPENVINO_PRECISIONS, PROGRAM_PRECISIONS, TINY
from gapl.weights import read_engine
from models import parity
from models.detector import build_detector
from models.export import export_graph, with_weights
from models.exported import load_detector
from models.onnx_weights import PRECISIONS
from models.parity import AS_GOOD, EXACT, Parity
from models.run import run_detector
from models.tower import VisionTower
from models.weights.checkpoint import load_checkpoint, read_info
from models.weights.hub import find_model
from models.weights.released import released_pixels, to_released
from tests.test_gapl import LORA, make_detector
from tests.test_several_views import ALL, config_with

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli


GRAPHS = cache(export_graph)


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with LoRA, several views and both calibrations."""
    config = replace(config_with(ALL), lora=LORA)
    return make_detector(tmp_path_factory.mktemp("detector") / "detector.safetensors", config)


@pytest.fixture(scope="module")
def labelled(make_image: MakeImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six noisy images of each class."""
    root = tmp_path_factory.mktemp("labelled")
    for number in range(12):
        folder = root / "noise" / ("0_real", "1_fake")[number % 2]
        make_image(folder / f"{number}.png", seed=number, size=(70, 80), levels=256 - 15 * number)
    return root


@pytest.fixture(autouse=True, scope="module")
def in_little_time() -> Iterator[None]:
    """Few images are compared, and torch makes the graph of each config only once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "NUM_NOISY", 4)
        patch.setattr(export, "LEAST_JUDGED", 4)
        patch.setattr("models.onnx_file.export_graph", GRAPHS)
        patch.setattr("models.openvino_file.export_graph", GRAPHS)
        yield


@pytest.fixture
def loose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of a random tower are too near each other for the usual limits."""
    monkeypatch.setattr(parity, "AS_GOOD", Parity(difference=0.1, flips=1.0, auroc=1.0))


@pytest.fixture(scope="module")
def exported(detector_file: Path, run_cli: RunCli) -> Path:
    out = detector_file.parent / "onnx"
    done = run_cli(export.main, "--model_path", detector_file, "--out", out, "--allow-tiny")
    assert done.code == 0, done.err
    return out / "detector.onnx"


# ---------------------------------------------------------------------------------------------------------
# What a file holds


def test_a_file_gives_all_outputs_of_any_number_of_images_and_views(detector_file: Path, exported: Path) -> None:
    _, engine = read_engine(exported)
    assert engine.outputs == ["logit_B", "embedding_BE", "feature_BD", "attention_BP"]
    expected = load_checkpoint(detector_file, allow_tiny=True).detector
    generator = torch.Generator().manual_seed(0)
    for num_images, num_views in ((1, 1), (3, 2), (2, 7)):
        pixels = torch.randn(num_images, num_views, 3, 32, 32, generator=generator)
        found, output = engine.run(pixels.numpy(), outputs=engine.outputs), expected(pixels)
        for name, value in found.items():
            assert value == pytest.approx(getattr(output, name).detach().numpy(), abs=1e-5), name
        assert found["attention_BP"].sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_detector_of_stage_1_has_no_attention(tmp_path: Path, run_cli: RunCli) -> None:
    source = make_detector(tmp_path / "one.safetensors", config_with(("centre",), stage=1), calibrated=False)
    assert run_cli(export.main, "--model_path", source, "--out", tmp_path, "--allow-tiny").code == 0
    _, engine = read_engine(tmp_path / "one.onnx")
    assert engine.outputs == ["logit_B", "embedding_BE", "feature_BD"]
    assert load_detector(tmp_path / "one.onnx", allow_tiny=True).detector(
        torch.zeros(2, 3, 32, 32)
    ).logit_B.shape == (2,)
    assert json.loads((tmp_path / "one.json").read_text())["outputs"] == engine.outputs


def test_a_released_file_is_exported_like_any_other(tmp_path: Path, run_cli: RunCli) -> None:
    tower = TowerSpec(64, 64, 2, 1, image_size=32, patch_size=8)
    lora = LoraSpec(rank=2, alpha=4)
    config = DetectorConfig(2, "", tower, released_pixels(32), num_prototypes=4, lora=lora)
    torch.manual_seed(0)
    detector = build_detector(config, VisionTower(tower))
    detector.get_buffer("prototypes_PE").normal_()
    torch.save(to_released(config, detector.state_dict()), tmp_path / "released.pt")
    assert run_cli(export.main, "--model_path", tmp_path / "released.pt", "--out", tmp_path).code == 0
    pixels = torch.randn(2, 3, 32, 32)
    found, expected = (
        run_detector(load_detector(tmp_path / f"released{suffix}").detector, pixels, device="cpu").logit_B
        for suffix in (".onnx", ".pt")
    )
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_json_file_says_what_the_metadata_say(detector_file: Path, exported: Path) -> None:
    about = json.loads(exported.with_suffix(".json").read_text(encoding="utf-8"))
    info = read_info(detector_file)
    stated = header_of(replace(info, form="merged", config=replace(info.config, lora=None)))
    assert about["detector"] == json.loads(json.dumps(stated))
    assert about["precision"] == "fp32"
    assert about["files"] == {"detector.onnx": sha256_of(exported)}
    assert about["differs_from_torch"].keys() == {"full", "fast"}
    for found in about["differs_from_torch"].values():
        assert Parity(**found).excess(EXACT) == ""


@pytest.mark.parametrize(
    ("precision", "types"),
    [
        ("fp16", {"FLOAT16"}),
        ("bf16", {"BFLOAT16"}),
        ("int8", {"INT8", "FLOAT16"}),
        ("int8-dynamic", {"INT8", "FLOAT"}),
    ],
)
def test_shorter_weights_make_smaller_files_of_the_same_verdicts(
    detector_file: Path,
    labelled: Path,
    exported: Path,
    precision: str,
    types: set[str],
    run_cli: RunCli,
    loose: None,
) -> None:
    given = ("--model_path", detector_file, "--out", exported.parent, "--allow-tiny", "--precision", precision)
    done = run_cli(export.main, *given, "--calibration", labelled)
    assert done.code == 0, done.err
    short = exported.with_stem(f"detector-{precision}")
    model = onnx.load(short)
    matrices = [each for each in model.graph.initializer if each.name.startswith("tower.") and len(each.dims) > 1]
    assert {onnx.TensorProto.DataType.Name(each.data_type) for each in matrices} == types
    assert {entry.key: entry.value for entry in model.metadata_props}["precision"] == precision
    pixels = torch.randn(3, 7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found, expected = (
        run_detector(load_detector(path, allow_tiny=True).detector, pixels, device="cpu").logit_B
        for path in (short, exported)
    )
    assert 0 < (found - expected).abs().max() < 0.3


def test_int8_is_exact_where_weights_were_rounded_before(detector_file: Path) -> None:
    checkpoint = load_checkpoint(detector_file, allow_tiny=True)
    state = {name: tensor.clone() for name, tensor in checkpoint.detector.state_dict().items()}
    for name, weight_OI in state.items():
        if name.startswith("tower.") and name.endswith("weight") and weight_OI.ndim == 2 and "q_proj" not in name:
            scale_O1 = weight_OI.abs().amax(dim=1, keepdim=True) / 127
            state[name] = (weight_OI / scale_O1).round() * scale_O1
    graph = GRAPHS(checkpoint.config)
    pixels = np.random.default_rng(0).standard_normal((2, 7, 3, 32, 32)).astype(np.float32)
    logits = {
        precision: Engine(make(with_weights(graph, state)).SerializeToString())(pixels).logit_B
        for precision, make in PRECISIONS.items()
    }
    assert np.abs(logits["int8-dynamic"] - logits["fp32"]).max() > 0
    assert 0 < np.abs(logits["int8"] - logits["fp32"]).max() < 3e-3  # q_proj is in float16
    assert np.abs(logits["bf16"] - logits["fp32"]).max() > np.abs(logits["fp16"] - logits["fp32"]).max() > 0
    assert tuple(PRECISIONS) == EXPORT_PRECISIONS


@pytest.mark.parametrize("precision", OPENVINO_PRECISIONS)
def test_openvino_gives_the_same(
    detector_file: Path,
    exported: Path,
    labelled: Path,
    precision: str,
    tmp_path: Path,
    run_cli: RunCli,
    loose: None,
) -> None:
    pytest.importorskip("nncf" if precision == "int8" else "openvino", reason="needs requirements/export.txt")
    given = ("--model_path", detector_file, "--out", tmp_path, "--allow-tiny", "--format", "openvino")
    done = run_cli(export.main, *given, "--precision", precision, "--calibration", labelled)
    assert done.code == 0, done.err
    path = find_model(str(tmp_path))
    assert path.suffix == ".xml"
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["files"].keys() == {path.name, path.with_suffix(".bin").name}
    found, expected = (load_detector(each, allow_tiny=True) for each in (path, exported))
    assert vars(found) | {"detector": None} == vars(expected) | {"detector": None, "precision": precision}
    pixels = torch.randn(3, 7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for views in (pixels, pixels[:, -1:]):
        outputs = [run_detector(each.detector, views, device="cpu") for each in (found, expected)]
        tolerance = {"fp32": 1e-4, "fp16": 0.1, "bf16": 0.3, "int8": 1.0}[precision]  # noise unlike the images
        assert (outputs[0].logit_B - outputs[1].logit_B).abs().max() < tolerance
        assert outputs[0].attention_BP is not None
        assert outputs[0].attention_BP.sum(dim=1) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("precision", PROGRAM_PRECISIONS)
def test_a_program_of_torch_gives_the_same(
    detector_file: Path,
    exported: Path,
    labelled: Path,
    precision: str,
    tmp_path: Path,
    run_cli: RunCli,
    loose: None,
) -> None:
    given = ("--model_path", detector_file, "--out", tmp_path, "--allow-tiny", "--format", "torch-export")
    done = run_cli(export.main, *given, "--precision", precision, "--calibration", labelled)
    assert done.code == 0, done.err
    path = find_model(str(tmp_path))
    assert path.suffix == ".pt2"
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["precision"] == precision
    assert about["files"] == {path.name: sha256_of(path)}
    found, expected = (load_detector(each, allow_tiny=True) for each in (path, exported))
    assert vars(found) | {"detector": None} == vars(expected) | {"detector": None, "precision": precision}
    source = load_checkpoint(detector_file, allow_tiny=True).detector
    pixels = torch.randn(3, 7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for views in (pixels, pixels[:, -1:]):  # one view alone is the whole image
        ours = run_detector(found.detector, views, device="cpu")
        same = run_detector(source, views, device="cpu", precision=precision)
        assert ours.logit_B.tolist() == pytest.approx(same.logit_B.tolist(), abs=1e-5)
        assert ours.attention_BP is not None
        assert ours.attention_BP.sum(dim=1) == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(("name", "precision"), [("openvino", "fp32"), ("nncf", "int8")])
def test_a_missing_package_is_named(
    detector_file: Path,
    labelled: Path,
    name: str,
    precision: str,
    tmp_path: Path,
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "nncf":
        pytest.importorskip("openvino", reason="needs requirements/export.txt")
    monkeypatch.setitem(sys.modules, name, None)
    given = ("--model_path", detector_file, "--out", tmp_path, "--allow-tiny", "--format", "openvino")
    refused = run_cli(export.main, *given, "--precision", precision, "--calibration", labelled).only_error()
    assert f"{name} is not installed; install it: pip install -r requirements/export.txt" in refused
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_near_enough_is_refused(
    detector_file: Path, labelled: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--model_path", detector_file, "--out", tmp_path / "out", "--allow-tiny")
    assert "int8 needs --calibration DIR" in run_cli(export.main, *given, "--precision", "int8").only_error()
    program = run_cli(export.main, *given, "--format", "torch-export", "--precision", "fp16").only_error()
    assert "--format torch-export takes --precision fp32 or bf16" in program
    empty = tmp_path / "empty" / "real"
    empty.mkdir(parents=True)
    refused = run_cli(export.main, *given, "--calibration", empty.parent).only_error()
    assert "no images in them" in refused
    numbers = iter(range(1000))
    monkeypatch.setattr(
        "models.onnx_file.Engine.__call__",
        lambda _engine, _pixels: Outcome(np.array([next(numbers) % 2 * 18 - 9.0])),
    )
    refused = run_cli(export.main, *given, "--precision", "int8", "--calibration", labelled).only_error()
    assert "detector-int8.onnx: not written; it differs from torch, by full views: flips" in refused
    assert "--calibration" not in refused
    refused = run_cli(export.main, *given, "--precision", "bf16").only_error()
    assert "by full views: difference " in refused
    assert refused.rstrip().endswith("give --calibration DIR, to judge it by labelled images")
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------------------------------------------------
# Calibrations of its own


def test_scores_of_another_kind_get_calibrations_of_their_own(
    detector_file: Path, labelled: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine answers 2 x + 1 where torch says x: the calibrations undo it."""
    judge = Engine.__call__
    monkeypatch.setattr(
        "models.onnx_file.Engine.__call__",
        lambda engine, pixels: Outcome(2 * judge(engine, pixels).logit_B + 1),
    )
    monkeypatch.setattr(export, "LEAST_OWN", 6)
    given = ("--model_path", detector_file, "--out", tmp_path, "--allow-tiny", "--precision", "fp16")
    own = (*given, "--calibration", labelled, "--own-calibration")
    done = run_cli(export.main, *own)
    assert done.code == 0, done.err
    assert "of the images that judge it get another verdict" not in done.out
    path = tmp_path / "detector-fp16.onnx"
    found, source = load_detector(path, allow_tiny=True), read_info(detector_file)
    for ours, theirs in (
        (found.calibration, source.calibration),
        (found.fast_calibration, source.fast_calibration),
    ):
        assert ours is not None
        assert theirs is not None
        expected = (theirs.a / 2, theirs.b - theirs.a / 2)
        assert (ours.a, ours.b) == pytest.approx(expected, rel=0.02)  # of half precision
        assert (ours.operating_points, ours.band_low) == (theirs.operating_points, theirs.band_low)
        assert ours.note.endswith("moved to other logits, by 6 images")
    told = "its scores are not those of the detector that it was made of: 0.0% of 6 images got another verdict"
    assert found.notice == told
    judged = run_cli(inference.main, next(labelled.rglob("*.png")), "--model_path", path, "--json", "--allow-tiny")
    assert told in json.loads(judged.out)["warnings"]


def test_calibrations_of_its_own_do_not_excuse_another_ranking(
    detector_file: Path, labelled: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--model_path", detector_file, "--out", tmp_path / "out", "--allow-tiny", "--own-calibration")
    short = (*given, "--precision", "int8-dynamic")
    assert "--own-calibration is for" in run_cli(export.main, *given, "--calibration", labelled).only_error()
    assert "needs --calibration DIR" in run_cli(export.main, *short).only_error()
    alone = run_cli(export.main, *short[:4], "--num-images", 8).only_error()
    assert "--num-images is of --calibration DIR" in alone
    assert "is a file; expected a folder" in run_cli(export.main, *short, "--out", detector_file).only_error()
    monkeypatch.setattr(export, "LEAST_JUDGED", 16)
    few = run_cli(export.main, *short[:-3], *short[-2:], "--calibration", labelled).only_error()
    assert "6 images judge the file; --precision int8-dynamic needs 16" in few
    few = run_cli(export.main, *short, "--calibration", labelled).only_error()
    assert "6 images judge the file; --own-calibration needs 40" in few
    monkeypatch.setattr(export, "LEAST_OWN", 6)
    for other in (("--format", "graph"), ("--format", "web"), ("--wheel",)):
        refused = run_cli(export.main, *short, "--calibration", labelled, *other).only_error()
        assert "has a precision of its own; leave out --precision and --calibration" in refused
    numbers = iter(range(1000))
    monkeypatch.setattr(
        "models.onnx_file.Engine.__call__", lambda _engine, _pixels: Outcome(np.array([float(next(numbers))]))
    )
    refused = run_cli(export.main, *short, "--calibration", labelled).only_error()
    assert "detector-int8-dynamic.onnx: not written; " in refused
    assert not list((tmp_path / "out").glob("*"))


def test_every_figure_has_its_limit() -> None:
    assert Parity(difference=0.5, flips=0.004, auroc=0.001).excess(AS_GOOD) == ""
    assert "flips 0.01, at most 0.005" in Parity(difference=0.0, flips=0.01, auroc=0.0).excess(AS_GOOD)
    assert "auroc 0.003, at most 0.002" in Parity(difference=0.0, flips=0.0, auroc=0.003).excess(AS_GOOD)
    assert "difference nan" in Parity(difference=float("nan"), flips=0.0, auroc=0.0).excess(EXACT)


def test_images_are_of_both_classes_in_both_halves(labelled: Path) -> None:
    fitted, judged = export.split_images(labelled, num_images=8)
    for half in (fitted, judged):
        assert sorted(label for _, label in half) == [0, 0, 1, 1]
    assert not {path for path, _ in fitted} & {path for path, _ in judged}


# ---------------------------------------------------------------------------------------------------------
# Commands that take it


@pytest.mark.parametrize("views", ["full", "fast", "auto"])
def test_inference_takes_it_like_any_other(
    detector_file: Path, exported: Path, labelled: Path, views: str, run_cli: RunCli
) -> None:
    given = ("--image_path", labelled, "--device", "cpu", "--views", views, "--allow-tiny", "--json")
    lines = [
        [json.loads(line) for line in run_cli(inference.main, "--model_path", path, *given).out.splitlines()]
        for path in (exported, detector_file)
    ]
    assert len(lines[0]) == 12
    for found, expected in zip(*lines, strict=True):
        assert found.pop("logit") == pytest.approx(expected.pop("logit"), abs=1e-4)
        assert found.pop("score") == pytest.approx(expected.pop("score"), abs=1e-4)
        file = {"model": "", "model_sha256": ""}
        assert found | file == expected | file


def test_benchmarks_score_engines_side_by_side(
    detector_file: Path, exported: Path, labelled: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    given = ("run", "--model_path", detector_file, exported, "--data-root", labelled, "--allow-tiny", "--details")
    options = ("--device", "cpu", "--num-workers", 0, "--views", "auto", "--out", tmp_path / "scores")
    done = run_cli(benchmarks.main, *given, *options)
    assert done.code == 0, done.err
    frame = read_scores(tmp_path / "scores" / "scores.parquet").frame
    tables = [rows.sort_values("uri") for _, rows in frame.groupby("model")]
    assert [len(rows) for rows in tables] == [12, 12]
    for column in ("score", "embedding", "attention"):
        found, expected = (np.stack(rows[column].to_numpy()) for rows in tables)
        assert found == pytest.approx(expected, abs=1e-4), column
    refused = run_cli(benchmarks.main, *given, *options, "--overwrite", "--precision", "bf16").only_error()
    assert "detector.onnx: an exported file has its own precision" in refused


def test_its_folder_stands_for_it(exported: Path, labelled: Path, tmp_path: Path, run_cli: RunCli) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    shutil.copy(exported, folder)
    images = ("--image_path", labelled, "--device", "cpu", "--json")
    of_folder, of_file = (
        [json.loads(line)["score"] for line in done.out.splitlines()]
        for done in (
            run_cli(inference.main, "--model_path", path, *images, "--allow-tiny") for path in (folder, exported)
        )
    )
    assert len(of_folder) == 12
    assert of_folder == of_file
    given = ("run", "--model_path", folder, "--data-root", labelled, "--allow-tiny", "--num-workers", 0)
    done = run_cli(benchmarks.main, *given, "--device", "cpu", "--out", tmp_path / "scores")
    assert done.code == 0, done.err
    assert set(read_scores(tmp_path / "scores" / "scores.parquet").frame["model"]) == {"engine"}
    (folder / "other.xml").touch()
    refused = run_cli(inference.main, "--model_path", folder, *images).only_error()
    assert "engine: a folder with several detectors; name one of its files: detector.onnx, other.xml" in refused
    with pytest.raises(ValueError, match=r"other\.xml: a file of OpenVINO, which inference\.py reads; expected "):
        read_engine(folder / "other.xml")


def test_other_files_with_its_suffix_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"trained on the random `{TINY}` tower"):
        load_detector(exported)
    with pytest.raises(ValueError, match="views is full, fast or auto, not 'most'"):
        load_detector(exported, views="most", allow_tiny=True)
    assert load_detector(exported, views=FAST, allow_tiny=True).config.pixel.num_views == 1
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(ValueError, match=r"text\.pt2: no program of torch\.export"):
        load_detector(tmp_path / "text.pt2")
    torch.export.save(
        torch.export.export(torch.nn.Identity(), (torch.zeros(1),)), tmp_path / "other.pt2", extra_files={}
    )
    with pytest.raises(ValueError, match=r"other\.pt2: no file of export\.py"):
        load_detector(tmp_path / "other.pt2")
    with pytest.raises(ValueError, match=r"other\.pt2: a program of torch\.export, which inference\.py reads"):
        read_engine(tmp_path / "other.pt2")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ValueError, match="cannot run it"):
        load_detector(tmp_path / "text.onnx")
