"""What the parts of the head cost on a frozen tower: a linear probe, the 128-d bottleneck, prototype attention.

    python studies/frozen_heads.py --backbone clip-vit-b16-int8 \\
        --train DIR/stage1 DIR/commfor-mini DIR/commfor-wide DIR/commfor-modern \\
        --test DIR/bench/unseen DIR/bench/wide

Features of the centre crop are computed once and kept in --feature-cache; after that, a run takes seconds. Prints
AUROC and balanced accuracy at 0.5 of each head on each test set: mean and standard deviation over the seeds.

Shape suffixes: N images, D tower width, E embedding, P prototypes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import cli
from data.catalog import Benchmark, find_benchmarks
from data.records import Manifest
from data.sources import open_source
from evaluation.metrics import compute_metrics
from models.backbone import HELP, fingerprint, load_backbone
from models.detector import PrototypeDetector, Stage1Detector, TowerHead
from models.tower import VisionTower
from prototype.reduce import reduce_embeddings
from training.features import FeatureExtractor, FeatureSpec, FeatureStore, add_cache_argument
from training.precision import autocast, resolve_precision


@dataclass(frozen=True)
class Features:
    """features_ND of a source and labels_N, 1 for fake."""

    features_ND: Tensor
    labels_N: Tensor


def main() -> None:
    args = parse_arguments()
    train = join_features([features_of(path, open_source(path, split="train"), args) for path in args.train])
    stage1 = features_of(args.train[0], open_source(args.train[0], split="train"), args)
    tests = {path.name: features_of(path, benchmark_images(path), args) for path in args.test}
    width = train.features_ND.shape[1]
    print(f"{len(train.labels_N)} training images; {args.seeds} seeds; prototypes from {args.train[0].name}")
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        first = fit_head(Stage1Detector(frozen(width)), stage1, seed=seed, steps=args.steps)
        heads = {"linear probe": probe(train, tests) if seed == 0 else {}}
        bottleneck = Stage1Detector(frozen(width))
        heads["128-d bottleneck, no bias"] = predict(
            fit_head(bottleneck, train, seed=seed, steps=args.steps), tests
        )
        for method in ("kmeans", "pca", "random"):
            detector = with_prototypes(first, stage1, method, width, seed=seed)
            fitted = fit_head(detector, train, seed=seed, steps=args.steps)
            heads[f"+ attention, {method} prototypes"] = predict(fitted, tests)
        for name, of_test in heads.items():
            for test, score_N in of_test.items():
                scores.setdefault(name, {}).setdefault(test, []).append(score_N)
    print_table(scores, tests)


def features_of(path: Path, manifest: Manifest, args: argparse.Namespace) -> Features:
    """Of the centre crop; from the cache of features if they are there."""
    device = cli.pick_device("auto")
    precision = resolve_precision("auto", device=device)
    source = load_backbone(args.backbone)
    tower = source.tower.to(device).eval()
    spec = FeatureSpec(fingerprint(tower.state_dict()), tower.feature_width, source.pixel, precision)
    extractor = FeatureExtractor(tower, 32, 2, device, context=lambda: autocast(device, precision))
    (table,), read, _ = extractor.tables(manifest, [FeatureStore(spec, args.feature_cache)], desc=path.name)
    labels_N = torch.tensor([float(record.label) for record in read])
    return Features(table[torch.arange(len(table))], labels_N)


def benchmark_images(path: Path) -> Manifest:
    found = [each for each in find_benchmarks(path) if isinstance(each, Benchmark)]
    if len(found) != 1:
        raise ValueError(f"{path}: expected the folder of one benchmark, found {len(found)}")
    return found[0].images()


def join_features(parts: list[Features]) -> Features:
    return Features(torch.cat([p.features_ND for p in parts]), torch.cat([p.labels_N for p in parts]))


def frozen(width: int) -> VisionTower:
    """Stands where the tower would, for heads that are given features: it has a width and no weights."""
    tower = nn.Module()
    tower.feature_width = width  # type: ignore[assignment]
    return cast(VisionTower, tower)


def with_prototypes(first: TowerHead, stage1: Features, method: str, width: int, *, seed: int) -> TowerHead:
    """A prototype head whose projection starts from stage 1, as the method has it."""
    with torch.inference_mode():
        embeddings_NE = first.embed(stage1.features_ND).clone()
    labels_N = stage1.labels_N.long()
    prototypes_PE, _ = reduce_embeddings(embeddings_NE, labels_N, method=method, num_prototypes=64, seed=seed)
    detector = PrototypeDetector(frozen(width), prototypes_PE)
    detector.project.load_state_dict(first.project.state_dict())
    return detector


def fit_head(detector: TowerHead, train: Features, *, seed: int, steps: int) -> TowerHead:
    """AdamW with a cosine, classes balanced in each batch of 64."""
    generator = torch.Generator().manual_seed(seed)
    of_class = [torch.nonzero(train.labels_N == label).squeeze(1) for label in (0, 1)]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.cat([part[torch.randint(len(part), (32,), generator=generator)] for part in of_class])
        logit_B = detector.head(train.features_ND[chosen]).logit_B
        loss = nn.functional.binary_cross_entropy_with_logits(logit_B, train.labels_N[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return detector.eval()


@torch.inference_mode()
def predict(detector: TowerHead, tests: dict[str, Features]) -> dict[str, np.ndarray]:
    return {name: detector.head(test.features_ND).logit_B.sigmoid().numpy() for name, test in tests.items()}


def probe(train: Features, tests: dict[str, Features]) -> dict[str, np.ndarray]:
    """Logistic regression on standardised features, all D of them."""
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000))
    fitted.fit(train.features_ND.numpy(), train.labels_N.numpy())
    return {name: fitted.predict_proba(test.features_ND.numpy())[:, 1] for name, test in tests.items()}


def print_table(scores: dict[str, dict[str, list[np.ndarray]]], tests: dict[str, Features]) -> None:
    print(f"{'head':32s}" + "".join(f"{name + ' AUROC / balanced accuracy':>44s}" for name in tests))
    for head, of_test in scores.items():
        cells = []
        for name, runs in of_test.items():
            measured = [compute_metrics(tests[name].labels_N.long().numpy(), s, threshold=0.5) for s in runs]
            pairs_R2 = np.array([(m.auroc, m.balanced_accuracy) for m in measured], dtype=float)
            (auroc, balanced), (sd_a, sd_b) = pairs_R2.mean(axis=0), pairs_R2.std(axis=0)
            cells.append(f"{auroc:.3f} +- {sd_a:.3f} / {balanced:.3f} +- {sd_b:.3f}")
        print(f"{head:32s}" + "".join(f"{cell:>44s}" for cell in cells))


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--backbone", default="clip-vit-b16-int8", help=HELP)
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="the first makes the prototypes")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="folders of one benchmark each")
    add_cache_argument(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="of 64 images")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
