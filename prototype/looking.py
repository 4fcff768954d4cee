"""What a finished detector computes of images: features, kept in a cache by the detector's own sum.

Shape suffixes: N images, D width of a feature.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from data.records import Manifest
from models.device import DEVICES, pick_device
from models.precision import PRECISIONS, resolve_precision

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looker:
    """How features are computed.

    precision, device  as options spell them
    feature_cache      folder of the features; None: the usual one
    """

    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 8
    num_workers: int = 1
    feature_cache: Path | None = None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options that `of` reads."""
        parser.add_argument("--batch-size", type=int, default=8, help="images per forward pass")
        parser.add_argument("--num-workers", type=int, default=1, help="processes that decode images")
        parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the tower (default: auto)")
        parser.add_argument("--device", choices=DEVICES, default="auto")
        parser.add_argument(
            "--feature-cache", type=Path, help="folder of features (default: features in GAPL_CACHE)"
        )

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Return what the options say. Raises ValueError for a batch of no image."""
        if args.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
        return cls(args.precision, args.device, args.batch_size, args.num_workers, args.feature_cache)

    def features(self, file: Path, checkpoint: Checkpoint, images: Manifest) -> tuple[Tensor, Manifest]:
        """Return features_ND of the images, and the N of them that could be read. A stopped pass goes on.

        Images with the same bytes are one row each. Raises ValueError when none could be read.
        """
        import torch

        from features.extractor import FeatureExtractor
        from features.spec import FeatureSpec
        from features.store import FeatureStore
        from gapl.files.checksum import sha256_of
        from models.run import place_detector

        device = pick_device(self.device)
        precision = resolve_precision(self.precision, device=device)
        place_detector(checkpoint.detector, device=device, precision=precision)
        spec = replace(FeatureSpec.of(checkpoint, precision=precision), backbone=sha256_of(file))  # with its LoRA
        store = FeatureStore.open(spec, self.feature_cache)
        extractor = FeatureExtractor(checkpoint.detector.feature, self.batch_size, self.num_workers, device)
        (table,), read, failures = extractor.tables(images, [store], desc="features")
        for failure in failures:
            log.warning("left out %s: %s", failure.record.uri, failure.reason)
        checkpoint.detector.float().cpu()
        return table[torch.arange(len(table))], read
