"""Files of export.py -> detectors, behind the interface of those that torch runs.

Shape suffixes: B batch, V views, C channels, H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gapl.files.checksum import sha256_of
from gapl.info import DetectorInfo
from gapl.names import FULL, VIEWS
from gapl.schema import check_choice
from models.cascade import WholeFirst
from models.detector import Output
from models.openvino_engine import read_openvino
from models.program_engine import read_program
from models.weights.checkpoint import Checkpoint, load_checkpoint, look, refuse_tiny

Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # pixels_BVCHW -> the outputs of the graph, by name


class ExportedDetector(nn.Module):
    """A detector that another engine runs. Its feature is the pixels themselves, and its head does everything."""

    def __init__(self, run: Run, *, cascade: WholeFirst | None = None) -> None:
        super().__init__()
        self.run = run
        self.cascade = cascade

    def head_tensors(self) -> None:
        """Return None: nobody can look into the head of an exported file."""

    def feature(self, pixels: Tensor) -> Tensor:
        """Return pixels_BVCHW, of pixels_BCHW too."""
        return pixels.unsqueeze(1) if pixels.ndim == 4 else pixels

    def add_crops(self, whole_B1CHW: Tensor, crops_BVCHW: Tensor) -> Tensor:
        """Return the pixels of the crops and the whole images, in this order."""
        return torch.cat([crops_BVCHW, whole_B1CHW], dim=1)

    def head(self, pixels_BVCHW: Tensor) -> Output:
        """Return what the engine says of each image; it gets them one by one, which takes less memory."""
        found = [self.run(each_VCHW[None]) for each_VCHW in pixels_BVCHW.cpu().numpy()]
        outputs = {
            name: torch.from_numpy(np.concatenate([each[name] for each in found])).to(pixels_BVCHW.device)
            for name in found[0]
        }
        attention_BP, feature_BD = (outputs.get(name) for name in ("attention_BP", "feature_BD"))
        return Output(outputs["logit_B"], outputs["embedding_BE"], attention_BP, feature_BD=feature_BD)

    def forward(self, pixels: Tensor) -> Output:
        """Judge pixels_BCHW, or pixels_BVCHW where an image has several views."""
        if self.cascade is not None:
            return self.cascade(self, pixels)
        return self.head(self.feature(pixels))


@dataclass(kw_only=True)
class Exported(DetectorInfo):
    """A detector of a file of export.py, and all that the file says of it.

    precision  of gapl.names.EXPORT_PRECISIONS
    """

    precision: str
    detector: ExportedDetector


def load_detector(path: Path, *, views: str = FULL, allow_tiny: bool = False) -> Checkpoint | Exported:
    """Return a detector that judges images: as load_checkpoint does, or one of a file of export.py.

    Raises ValueError, one line, as load_checkpoint does, and when the engine of such a file is not installed.
    """
    if path.suffix not in READERS:
        return load_checkpoint(path, views=views, allow_tiny=allow_tiny)
    check_choice("views", views, *VIEWS)
    info, precision, run = READERS[path.suffix](path)
    if not allow_tiny:
        refuse_tiny(path, info)
    info, cascade = look(path, info, views)
    return Exported(**vars(info), precision=precision, detector=ExportedDetector(run, cascade=cascade))


def _read_onnx(path: Path) -> tuple[DetectorInfo, str, Run]:
    from gapl.weights import read_engine

    info, engine = read_engine(path)
    names: Sequence[str] = engine.outputs
    if "embedding_BE" not in names:
        raise ValueError(f"{path}: an ONNX file without embeddings; write it anew: python export.py")
    return info, engine.metadata["precision"], lambda pixels_BVCHW: engine.run(pixels_BVCHW, outputs=names)


# What reads a file of export.py, by its suffix: what it says of its detector, its precision, and what runs it.
READERS = {".onnx": _read_onnx, ".xml": read_openvino, ".pt2": read_program}


def sha256_of_detector(path: Path) -> str:
    """Return the SHA-256 of a detector file; of NAME.xml, that of its own sum and of its weights', NAME.bin."""
    if path.suffix != ".xml":
        return sha256_of(path)
    sums = f"{sha256_of(path)} {sha256_of(path.with_suffix('.bin'))}"
    return hashlib.sha256(sums.encode()).hexdigest()
