"""--engine and --precision of inference.py: what runs a detector, what is refused, and that it is told."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import inference
from gapl import weights
from models import engines, precision
from models.engines import Way, check_engine, choose_way
from models.export import save_graph
from tests.test_gapl import LORA, make_detector
from tests.test_several_views import ALL, config_with

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

DETECTOR = Path("detector.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    """A detector, the graph of its forward pass, and an image."""
    folder = tmp_path_factory.mktemp("engines")
    config = replace(config_with(ALL), lora=LORA)
    save_graph(folder / "graph.onnx", config)
    make_detector(folder / DETECTOR, config)
    make_image(folder / "image.png", size=(90, 70))
    return folder


def test_engines_and_precisions_give_the_same_verdict(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "GRAPH", folder / "graph.onnx")
    monkeypatch.setattr(precision, "_bf16_is_fast", lambda device: True)
    given = ("--model_path", folder / DETECTOR, folder / "image.png", "--device", "cpu", "--allow-tiny", "--json")
    scores = {}
    for options, told in (
        ((), "onnxruntime in fp32 on the cpu"),
        (("--engine", "torch"), "torch in fp32 on the cpu"),
        (("--precision", "auto"), "torch in bf16 on the cpu"),
        (("--engine", "onnxruntime", "--precision", "auto"), "onnxruntime in fp32 on the cpu"),
    ):
        with caplog.at_level(logging.INFO):
            done = run_cli(inference.main, *given, *options)
        assert done.code == 0, done.err
        scores[" ".join(options)] = json.loads(done.out)["score"]
        assert caplog.messages[-1] == f"Judging by {told}"
        caplog.clear()
    exact = scores["--engine torch"]
    assert scores[""] == scores["--engine onnxruntime --precision auto"] == pytest.approx(exact, abs=1e-5)
    assert 0 < abs(scores["--precision auto"] - exact) < 0.02


def test_auto_takes_the_fastest_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_without_torch, bf16_is_fast = True, True
    monkeypatch.setattr(engines, "_without_torch", lambda file: runs_without_torch)
    monkeypatch.setattr(precision, "_bf16_is_fast", lambda device: bf16_is_fast)

    def way(engine: str, precision: str, device: str = "cpu", file: Path = DETECTOR) -> Way:
        return choose_way(file, engine=engine, precision=precision, device=device)

    assert way("auto", "fp32") == Way("onnxruntime", "fp32", "cpu")
    assert way("auto", "fp32", "cuda") == Way("torch", "fp32", "cuda")
    assert way("auto", "auto") == way("torch", "auto") == way("torch", "bf16") == Way("torch", "bf16", "cpu")
    assert way("onnxruntime", "auto") == Way("onnxruntime", "fp32", "cpu")
    bf16_is_fast = False
    assert way("auto", "auto") == Way("onnxruntime", "fp32", "cpu")
    assert way("auto", "bf16") == Way("torch", "bf16", "cpu")
    runs_without_torch = False
    assert way("auto", "auto") == Way("torch", "fp32", "cpu")
    for name, engine in (("a.onnx", "onnxruntime"), ("a.xml", "openvino"), ("a.pt2", "torch")):
        assert way("auto", "auto", "cuda", Path(name)) == Way(engine, "fp32", "cpu")
    with pytest.raises(ValueError, match="--precision fp16 needs a GPU"):
        way("auto", "fp16")
    with pytest.raises(ValueError, match="--engine onnxruntime runs on the CPU"):
        way("onnxruntime", "fp32", "cuda")


@pytest.mark.parametrize(
    ("name", "engine", "precision", "message"),
    [
        (
            "a.safetensors",
            "tensorrt",
            "fp32",
            "unknown engine 'tensorrt'; choose from auto, torch, onnxruntime, open",
        ),
        (
            "a.safetensors",
            "openvino",
            "fp32",
            "a.safetensors: OpenVINO runs files of export.py; write one: python ex",
        ),
        (
            "a.safetensors",
            "onnxruntime",
            "bf16",
            "onnxruntime computes in fp32; --precision bf16 needs --engine torch",
        ),
        ("a.onnx", "torch", "fp32", "a.onnx: onnxruntime runs this file of export.py; leave out --engine torch"),
        ("a.xml", "auto", "bf16", "a.xml: an exported file has its own precision; leave out --precision"),
        ("a.pt2", "openvino", "fp32", "a.pt2: torch runs this file of export.py; leave out --engine openvino"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, engine: str, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_engine(Path(name), engine=engine, precision=precision)
