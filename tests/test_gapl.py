"""The detector without torch: the same verdicts as with torch, from files, graphs and the command `gapl`."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import export
import gapl
import inference
from gapl import __main__ as command
from gapl import int8, weights
from gapl.config import DetectorConfig, LoraSpec
from gapl.decode import UnreadableImage
from gapl.engine import Engine, Outcome
from gapl.info import FORMAT
from gapl.names import INT8, TINY
from gapl.version import version
from gapl.weights import GRAPH
from models import precision, tensorfile
from models.detector import build_detector
from models.export import with_weights
from models.run import run_detector
from models.weights.backbone import fingerprint, load_backbone
from models.weights.checkpoint import Checkpoint, load_checkpoint, read_info, save_checkpoint, store_calibration
from tests.test_calibration import FOUND as CALIBRATION
from tests.test_several_views import ALL, config_with

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

PROJECT = Path(__file__).resolve().parent.parent
SHIPPED = PROJECT / "pretrained" / "gapl-vit-b16-open.safetensors"
LORA = LoraSpec(rank=4, alpha=8, dropout=0.0, num_layers=1)


def make_detector(path: Path, config: DetectorConfig, *, form: str = "full", calibrated: bool = True) -> Path:
    """Write a detector on the random tower; LoRA, head and prototypes are random, too."""
    detector = build_detector(config, load_backbone(TINY).tower).eval()
    generator = torch.Generator().manual_seed(5)
    for name, tensor in detector.state_dict().items():
        if not name.startswith("tower.") or ".lora_" in name:
            tensor.normal_(0, 0.3, generator=generator)
    own = fingerprint(load_backbone(TINY).tower.state_dict())
    checkpoint = Checkpoint(detector=detector, config=config, backbone_fingerprint=own, form=form)
    save_checkpoint(path, checkpoint)
    if calibrated:
        store_calibration(path, replace(CALIBRATION, a=0.7, b=0.3), out=path)
        fast = replace(CALIBRATION, a=1.9, b=-0.2, band_low=0.4, band_high=0.6)
        store_calibration(path, fast, out=path, fast=True)
    return path


def outcome(num: int, logit: float) -> Outcome:
    """What an engine computes that gives every image the same logit."""
    return Outcome(np.full(num, logit), np.zeros((num, 8), dtype=np.float32))


@pytest.fixture
def detector_file(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole detector with LoRA, of the graph in use."""
    monkeypatch.setattr(weights, "GRAPH", graph)
    return make_detector(tmp_path / "detector.safetensors", replace(config_with(ALL), lora=LORA))


@pytest.fixture
def images(make_image: MakeImage, tmp_path: Path) -> list[Path]:
    return [make_image(tmp_path / "images" / f"{i}.png", seed=i, size=(90 + 9 * i, 70)) for i in range(4)]


# ---------------------------------------------------------------------------------------------------------
# The same numbers as with torch


@pytest.mark.parametrize("views", ["full", "fast", "auto"])
def test_verdicts_are_those_with_torch(detector_file: Path, images: list[Path], views: str) -> None:
    found = gapl.Detector.load(detector_file, views=views)(list(images))
    expected = inference.Detector.load(detector_file, device="cpu", engine="torch", views=views, allow_tiny=True)(
        list(images)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.logit == pytest.approx(other.logit, abs=1e-4)
        assert (one.label, one.warnings, one.threshold) == (other.label, other.warnings, other.threshold)


def test_inference_says_by_what_it_judges(
    detector_file: Path,
    images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    run_cli: RunCli,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision, "_bf16_is_fast", lambda device: True)
    given = ("--model_path", detector_file, images[0], "--device", "cpu", "--allow-tiny", "--json")
    scores = {}
    for options, told in (
        ((), "torch in fp32"),
        (("--engine", "onnxruntime"), "onnxruntime in fp32"),
        (("--precision", "auto"), "torch in bf16"),
        (("--engine", "onnxruntime", "--precision", "auto"), "onnxruntime in fp32"),
    ):
        with caplog.at_level(logging.INFO):
            done = run_cli(inference.main, *given, *options)
        assert done.code == 0, done.err
        scores[" ".join(options)] = json.loads(done.out)["score"]
        assert caplog.messages[-1] == f"Judging by {told} on the cpu"
    exact = scores[""]
    assert scores["--engine onnxruntime"] == scores["--engine onnxruntime --precision auto"]
    assert 0 < abs(scores["--engine onnxruntime"] - exact) < 1e-5
    assert 0 < abs(scores["--precision auto"] - exact) < 0.02


def test_auto_looks_again_where_the_whole_leaves_it_open(detector_file: Path, images: list[Path]) -> None:
    full, fast = (gapl.Detector.load(detector_file, views=views) for views in ("full", "fast"))
    scores = sorted(verdict.score for verdict in fast(list(images)))
    low, high = (scores[0] + scores[1]) / 2, (scores[2] + scores[3]) / 2
    info = read_info(detector_file)
    assert info.calibration is not None
    assert info.fast_calibration is not None
    store_calibration(detector_file, replace(info.calibration, band_low=low, band_high=low), out=detector_file)
    banded = replace(info.fast_calibration, band_low=low, band_high=high)
    store_calibration(detector_file, banded, out=detector_file, fast=True)
    auto = gapl.Detector.load(detector_file, views="auto")
    for image in images:
        found, by_whole = auto(image), fast(image)
        if low < by_whole.score < high:
            assert found.logit == pytest.approx(full(image).logit, abs=1e-5)
            assert found.score != pytest.approx(by_whole.score, abs=1e-5)
        else:
            assert found.score == pytest.approx(by_whole.score, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_merged_files_of_shorter_types(
    detector_file: Path, images: list[Path], dtype: str, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(detector_file, merge=False, allow_tiny=True)
    checkpoint.form = "merged"
    save_checkpoint(tmp_path / "short.safetensors", checkpoint, dtype=dtype)
    expected = inference.Detector.load(
        tmp_path / "short.safetensors", device="cpu", engine="torch", allow_tiny=True
    )
    found = gapl.Detector.load(tmp_path / "short.safetensors")
    assert found(images[0]).logit == pytest.approx(expected(images[0]).logit, abs=1e-4)


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_other_forms_give_the_same(
    detector_file: Path, images: list[Path], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = gapl.Detector.load(detector_file)(images[0]).logit
    checkpoint = load_checkpoint(detector_file, merge=False, allow_tiny=True)
    checkpoint.form, checkpoint.config = form, replace(checkpoint.config, backbone=INT8)
    save_checkpoint(tmp_path / "other.safetensors", checkpoint)
    tower = load_backbone(TINY).tower.state_dict()

    def state(factor: float = 1.0) -> dict[str, np.ndarray]:
        return {name: factor * tensor.numpy() for name, tensor in tower.items()}

    monkeypatch.setattr(int8, "clip_vit_b16_state", state)
    assert gapl.Detector.load(tmp_path / "other.safetensors")(images[0]).logit == pytest.approx(expected, abs=1e-4)
    if form == "adapter":
        monkeypatch.setattr(int8, "clip_vit_b16_state", lambda: state(1.01))
        with pytest.raises(ValueError, match=r"other.safetensors: its adapter belongs to other weights"):
            gapl.Detector.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("added", [0, 3])
def test_shipped_graph_is_that_of_the_shipped_detector(added: int) -> None:
    """With random weights, since the real ones are not in the repository, and with any number of prototypes."""
    config = replace(read_info(SHIPPED).config, lora=None)
    config = replace(config, num_prototypes=config.num_prototypes + added)
    model = onnx.load_from_string(GRAPH.read_bytes())
    assert len(GRAPH.read_bytes()) < 150_000
    (forward_pass,) = (json.loads(each.value) for each in model.metadata_props)
    assert forward_pass == config.forward_pass()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in build_detector(config).state_dict().items()
    }
    detector = build_detector(config).eval()
    detector.load_state_dict(state, assign=True)
    pixels_BVCHW = torch.randn(2, 3, 3, 224, 224, generator=generator)
    engine = Engine(with_weights(model, state).SerializeToString())
    for pixels in (pixels_BVCHW, pixels_BVCHW[:1, -1:]):
        expected_B = run_detector(detector, pixels, device="cpu").logit_B.numpy()
        assert engine(pixels.numpy()).logit_B == pytest.approx(expected_B, abs=1e-5)
        assert np.abs(expected_B).max() > 1e-3


@pytest.mark.parametrize(("views", "stage"), [(("centre",), 1), (("centre", "quarters"), 2)])
def test_graphs_of_other_detectors(
    views: tuple[str, ...], stage: int, tmp_path: Path, images: list[Path], run_cli: RunCli
) -> None:
    source = make_detector(tmp_path / "other.safetensors", config_with(views, stage=stage), calibrated=False)
    given = ("--model_path", source, "--out", tmp_path / "onnx", "--allow-tiny")
    done = run_cli(export.main, *given)
    assert done.code == 0, done.err
    assert "P(fake) differs from that of torch by at most" in done.out
    expected = inference.Detector.load(source, device="cpu", engine="torch", allow_tiny=True)(images[0])
    found = gapl.Detector.load(tmp_path / "onnx/other.onnx")(images[0])
    assert found.logit == pytest.approx(expected.logit, abs=1e-4)
    with pytest.raises(ValueError, match=r"other.onnx: this detector has one view"):
        gapl.Detector.load(tmp_path / "onnx/other.onnx", views="fast")


def test_onnx_file_says_what_its_detector_file_said(detector_file: Path, tmp_path: Path, run_cli: RunCli) -> None:
    given = ("--model_path", detector_file, "--out", tmp_path, "--allow-tiny")
    assert run_cli(export.main, *given).code == 0
    info, _ = weights.read_engine(tmp_path / "detector.onnx")
    stated = read_info(detector_file)
    assert info == replace(stated, form="merged", config=replace(stated.config, lora=None))


def test_a_graph_that_computes_otherwise_is_not_kept(
    detector_file: Path, tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.onnx_file.Engine.__call__", lambda _engine, pixels: outcome(len(pixels), 9.0))
    given = ("--model_path", detector_file, "--out", tmp_path / "onnx", "--allow-tiny")
    assert (
        "not written; it differs from torch, by full views: difference"
        in run_cli(export.main, *given).only_error()
    )
    assert list((tmp_path / "onnx").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------
# What one may hand in


def test_images_of_every_kind(detector_file: Path, images: list[Path]) -> None:
    detector = gapl.Detector.load(detector_file)
    path = images[0]
    expected = detector(path)
    image = Image.open(path).convert("RGB")
    for given in (str(path), path.read_bytes(), image, np.asarray(image)):
        assert detector(given) == expected
    assert detector([path.read_bytes(), images[1], np.asarray(image)]) == [expected, detector(images[1]), expected]
    assert detector([]) == []
    for array in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"expected \(H, W, 3\) and uint8"):
            detector(array)
    with pytest.raises(UnreadableImage):
        detector(b"text")


def test_threads_share_a_detector(detector_file: Path, images: list[Path]) -> None:
    detector = gapl.Detector.load(detector_file, views="auto")
    expected = [detector(image) for image in images]
    wrong: list[object] = []

    def judge() -> None:
        for image, verdict in zip(images, expected, strict=True):
            if (found := detector(image)) != verdict:
                wrong.append(found)

    threads = [threading.Thread(target=judge) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_a_detector_takes_and_what_it_refuses(detector_file: Path, images: list[Path]) -> None:
    detector = gapl.Detector.load(detector_file)
    encoded, expected = images[0].read_bytes(), detector(images[0])
    with images[0].open("rb") as file, Image.open(images[0]) as opened:
        same = [str(images[0]), encoded, bytearray(encoded), memoryview(encoded), io.BytesIO(encoded), file]
        assert detector([*same, opened, np.asarray(opened)]) == [expected] * (len(same) + 2)
    assert detector((encoded,)) == [expected]
    for wrong, message in (
        (torch.zeros(3, 40, 40), "of type Tensor; expected a path, bytes, an open binary file, a PIL image"),
        (io.StringIO("text"), "of type StringIO; expected a path"),
        (None, "of type NoneType; expected a path"),
        (np.zeros((40, 40)), r"an array of shape \(40, 40\) and type float64; expected \(H, W, 3\) and uint8"),
        (Image.new("RGB", (0, 0)), "an image without pixels"),
        (images[0].parent, "no regular file"),
    ):
        with pytest.raises(ValueError, match=message):
            detector(wrong)  # type: ignore[call-overload]
    (images[0].parent / "broken.png").write_bytes(encoded[:200])
    with pytest.raises(UnreadableImage, match=r"^image 2 of 2: .*broken.png: damaged image"):
        detector([images[0], images[0].parent / "broken.png"])
    with pytest.raises(UnreadableImage, match=r"^image 2 of 3: not an image"):
        detector([encoded, b"none", encoded])


def test_a_forked_process_is_told_to_load_its_own(detector_file: Path, images: list[Path]) -> None:
    detector = gapl.Detector.load(detector_file)
    detector(images[0])
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            detector(images[0])
        except ValueError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (
        os.read(read, 999)
        == b"this detector was loaded in another process, and works there only; load one in each"
    )


# ---------------------------------------------------------------------------------------------------------
# Files that cannot be used


def test_files_that_need_torch_or_are_damaged(
    detector_file: Path, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, message: str, **options: str) -> None:
        with pytest.raises(ValueError, match=message) as refusal:
            gapl.Detector.load(path, **options)
        assert "\n" not in str(refusal.value)

    refused(tmp_path / "none.safetensors", "no such file; expected a detector file")
    refused(detector_file, "views is full, fast or auto, not 'most'", views="most")
    refused(detector_file, "unknown operating point 'fpr2'", operating_point="fpr2")
    other = make_detector(tmp_path / "other.safetensors", replace(config_with(ALL), embed_dim=64))
    refused(other, r"other.safetensors: its detector is built otherwise than the one that ships; inference.py")
    header, tensors = tensorfile.read(detector_file, format=FORMAT)
    for name in ("lora_A.default.weight", "lora_B.default.weight"):
        short = {key: value for key, value in tensors.items() if not key.endswith(f"k_proj.{name}")}
        tensorfile.write(tmp_path / "short.safetensors", short, format=FORMAT, header=header)
        refused(tmp_path / "short.safetensors", f"short.safetensors: tensor '.*k_proj.{name}' is missing")
    less = {key: value for key, value in tensors.items() if key != "project.weight"}
    tensorfile.write(tmp_path / "less.safetensors", less, format=FORMAT, header=header)
    refused(tmp_path / "less.safetensors", "less.safetensors: tensor 'project.weight' is missing")
    adapter = make_detector(tmp_path / "adapter.safetensors", config_with(ALL), form="adapter", calibrated=False)
    refused(adapter, "its tower is 'tiny'; inference.py can use it")
    (tmp_path / "graph.onnx").write_bytes(graph.read_bytes())
    refused(tmp_path / "graph.onnx", "graph.onnx: onnxruntime .* cannot run it")
    (tmp_path / "text.onnx").write_text("text")
    refused(tmp_path / "text.onnx", "text.onnx: onnxruntime .* cannot run it")
    content = bytearray(detector_file.read_bytes())
    content[-1] ^= 1
    detector_file.write_bytes(content)
    refused(detector_file, "detector.safetensors: damaged: the checksum of")
    monkeypatch.delattr(onnxruntime.SessionOptions, "add_external_initializers")
    make_detector(detector_file, config_with(ALL))
    refused(detector_file, "is too old; install it: pip install --upgrade onnxruntime")


def test_a_detector_without_a_finite_score_is_refused(detector_file: Path, images: list[Path]) -> None:
    detector = gapl.Detector(lambda pixels: outcome(len(pixels), np.nan), read_info(detector_file))
    with pytest.raises(ValueError, match="score is not a number"):
        detector(images[0])


# ---------------------------------------------------------------------------------------------------------
# The command, and what it needs


def test_command_writes_what_inference_writes(
    detector_file: Path, images: list[Path], run_cli: RunCli, tmp_path: Path
) -> None:
    folder = images[0].parent
    (folder / "broken.png").write_bytes(images[0].read_bytes()[:200])
    for where, *options in ((images[0],), (folder,), (folder, "--operating-point", "balanced", "--views", "auto")):
        ours = run_cli(command._main, where, "--model_path", detector_file, *options)
        given = ("--model_path", detector_file, "--image_path", where, "--engine", "torch", "--device", "cpu")
        theirs = run_cli(inference.main, *given, *options, "--allow-tiny")
        assert ours.code == theirs.code == (where == folder), ours.err
        assert ours.out == theirs.out
    rows = run_cli(command._main, folder, "--model_path", detector_file, "--json").out.splitlines()
    assert [("error" in json.loads(row)) for row in rows] == [False, False, False, False, True]
    broken = run_cli(command._main, folder / "broken.png", "--model_path", detector_file, "--json")
    assert broken.only_error().startswith(f"error: {folder / 'broken.png'}: damaged image")
    assert json.loads(broken.out)["error"].startswith("damaged image")
    assert "does not exist" in run_cli(command._main, tmp_path / "nowhere").only_error()


def test_command_is_instant_and_needs_no_torch(detector_file: Path, images: list[Path]) -> None:
    graph = f"import gapl.weights; gapl.weights.GRAPH = gapl.weights.Path({str(weights.GRAPH)!r})"
    names = "sys.modules.keys() & {'torch', 'numpy', 'PIL', 'onnx'}"
    code = f"try: gapl.__main__.main()\nfinally: print(*sorted({names}), file=sys.stderr)"

    def run(*given: object, setup: str = "") -> tuple[int, str]:
        line = [sys.executable, "-c", f"import sys, gapl.__main__\n{setup}\n{code}", *map(str, given)]
        done = subprocess.run(line, cwd=PROJECT, check=False, capture_output=True, text=True)
        return done.returncode, done.stderr.splitlines()[-1]

    assert run("--help") == run("--version") == (0, "")
    assert run("no/such") == (2, "")
    assert run(images[0], "--model_path", detector_file, setup=graph) == (0, "PIL numpy onnx")


def test_onnxruntime_keeps_no_number_of_this_machine(
    detector_file: Path, images: list[Path], tmp_path: Path
) -> None:
    code = f"import gapl.weights, gapl.__main__; gapl.weights.GRAPH = gapl.weights.Path({str(weights.GRAPH)!r})"
    line = [
        sys.executable,
        "-c",
        f"{code}; gapl.__main__.main()",
        str(images[0]),
        "--model_path",
        str(detector_file),
    ]
    (tmp_path / "home").mkdir()
    variables = os.environ | {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}
    variables.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run(line, cwd=PROJECT, check=True, capture_output=True, env=variables)
    assert list((tmp_path / "home").iterdir()) == []


def test_version_and_packages_are_stated_once() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"]
    assert f"\nversion: {version()}\n" in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    required = (PROJECT / "requirements/gapl.txt").read_text(encoding="utf-8").splitlines()
    assert project["dependencies"] == required[1:]
    served = (PROJECT / "requirements/serve.txt").read_text(encoding="utf-8").splitlines()
    assert project["optional-dependencies"]["serve"] == served[2:]
