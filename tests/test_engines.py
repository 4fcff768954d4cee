"""--engine and --precision of inference.py: what runs a detector, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import precision
from models.engines import Way, check_engine, choose_way

DETECTOR = Path("detector.safetensors")


def test_auto_takes_what_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    bf16_is_fast = True
    monkeypatch.setattr(precision, "_bf16_is_fast", lambda device: bf16_is_fast)

    def way(engine: str, precision: str, file: Path = DETECTOR) -> Way:
        return choose_way(file, engine=engine, precision=precision, device="cpu")

    assert way("auto", "fp32") == Way("torch", "fp32", "cpu")
    assert way("auto", "auto") == way("torch", "auto") == way("torch", "bf16") == Way("torch", "bf16", "cpu")
    assert way("onnxruntime", "auto") == Way("onnxruntime", "fp32", "cpu")
    bf16_is_fast = False
    assert way("auto", "auto") == Way("torch", "fp32", "cpu")
    assert way("auto", "bf16") == Way("torch", "bf16", "cpu")
    for name, engine in (("a.onnx", "onnxruntime"), ("a.xml", "openvino"), ("a.pt2", "torch")):
        assert way("auto", "auto", Path(name)) == way(engine, "fp32", Path(name)) == Way(engine, "fp32", "cpu")
    with pytest.raises(ValueError, match="--precision fp16 needs a GPU"):
        way("auto", "fp16")


@pytest.mark.parametrize(
    ("name", "engine", "precision", "message"),
    [
        (
            "a.safetensors",
            "tensorrt",
            "fp32",
            "unknown engine 'tensorrt'; choose from auto, torch, ",
        ),
        (
            "a.safetensors",
            "openvino",
            "fp32",
            "a.safetensors: OpenVINO runs files of export.py",
        ),
        (
            "a.safetensors",
            "onnxruntime",
            "bf16",
            "--precision bf16 needs --engine torch",
        ),
        ("a.onnx", "torch", "fp32", "a.onnx: onnxruntime runs this file of export.py; leave out --engine torch"),
        ("a.xml", "auto", "bf16", "a.xml: an exported file has its own precision; leave out --precision"),
        ("a.pt2", "openvino", "fp32", "a.pt2: torch runs this file of export.py; leave out --engine openvino"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, engine: str, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_engine(Path(name), engine=engine, precision=precision, device="cpu")


def test_onnxruntime_has_no_gpu() -> None:
    with pytest.raises(ValueError, match="--engine onnxruntime runs on the CPU; leave out --device cuda"):
        check_engine(DETECTOR, engine="onnxruntime", precision="fp32", device="cuda")
