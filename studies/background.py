"""Judge what an explainer file says of images whose sources training has not seen.

    python studies/background.py --model_path pretrained/gapl-vit-b16-open.safetensors --corpus DIR --out OUT

DIR is the open corpus, as `python -m data.collect --out DIR` leaves it; all images of --part are judged. Printed
are the share of right families, beside that of always naming the most frequent one, the share that is named, a
confusion matrix, and the errors of the detector by the distance from training. OUT/background.csv has a row for
each image. Intervals are 95 %, by bootstrap over sources.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.open_corpus.listing import PARTS
from gapl import cli
from gapl.explain.background import SUFFIX, Background, read_background
from gapl.explain.families import UNKNOWN
from gapl.explain.head import Head
from gapl.explain.words import effective_number
from gapl.labels import Label
from gapl.verdict import decision_rule
from models.weights.hub import find_model
from prototype.explainer import open_images
from prototype.looking import Looker

if TYPE_CHECKING:
    import pandas as pd

    from models.weights.checkpoint import Checkpoint

RESAMPLES = 1000


def main() -> None:
    args = parse_arguments()
    file = find_model(args.model_path)
    images, kinds = open_images(args.corpus, part=args.part)
    background = read_background(args.explainer or file.with_suffix(SUFFIX))

    from models.weights.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(file, allow_tiny=True)
    features_ND, read = Looker.of(args).features(file, checkpoint, images)
    rows = judge(checkpoint, background, features_ND.numpy())
    rows["label"] = [int(record.label) for record in read]
    rows["source"] = [str(record.source) for record in read]
    rows["kind"] = [kinds[record.uri] or "" for record in read]
    args.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(args.out / "background.csv", index=False, float_format="%.5f")
    tell_prototypes(rows)
    if background.families:
        tell_families(rows[(rows["label"] == Label.FAKE) & (rows["kind"] != "")])
    if background.memory:
        tell_distance(rows, cut=background.memory.spec.cut)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help="detector file of stage 2")
    parser.add_argument("--explainer", type=Path, help="its explainer file (default: the one beside it)")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of python -m data.collect")
    parser.add_argument("--part", choices=PARTS, default="bench/modern", help="default: %(default)s")
    Looker.add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of background.csv")
    return parser.parse_args()


def judge(checkpoint: Checkpoint, background: Background, features_ND: np.ndarray) -> pd.DataFrame:
    """Return for each image its score, label, likeliest family and distance."""
    import pandas as pd
    import torch

    from gapl.calibration import score_of
    from models.run import run_detector

    output = run_detector(checkpoint.detector.float().cpu().head, torch.from_numpy(features_ND), device="cpu")
    score_N = score_of(output.logit_B.numpy(), checkpoint.calibration)
    rows = pd.DataFrame({"score": score_N, "verdict": decision_rule(checkpoint.calibration).labels(score_N)})
    if background.families:
        probability_NF = background.families.probabilities(features_ND)
        rows["family"] = np.array(background.families.spec.names)[probability_NF.argmax(axis=1)]
        rows["probability"] = probability_NF.max(axis=1)
        rows["named"] = np.where(rows["probability"] >= background.families.spec.least, rows["family"], UNKNOWN)
    head = Head(checkpoint.detector.head_tensors(), num_heads=checkpoint.config.num_heads)
    embedding_NE = output.embedding_BE.numpy()
    shares = head.shares(embedding_NE)
    rows["prototypes"] = [effective_number(attention_P) for attention_P in shares.attention_BP]
    num_real = checkpoint.provenance["prototypes"]["num_real"]
    rows["by_real_prototypes"] = shares.contribution_BP[:, :num_real].sum(axis=1)
    variance_E = np.linalg.svd(embedding_NE - embedding_NE.mean(axis=0), compute_uv=False) ** 2
    print(f"{variance_E[0] / variance_E.sum():.3f} of the variance of the embeddings is in one direction")
    if background.memory:
        rows["distance"] = background.memory.distances(embedding_NE)
    return rows


def tell_prototypes(rows: pd.DataFrame) -> None:
    """Print among how many prototypes the attention is spread, and where those of real images move the logit."""
    low, median = np.quantile(rows["prototypes"], (0.05, 0.5))
    print(
        f"attention is spread over {median:.1f} prototypes (median), and over {low:.1f} or more in 95 % of images"
    )
    moved = rows.groupby("label")["by_real_prototypes"].mean()
    print(
        "prototypes of real images move the logit by",
        ", ".join(f"{Label(k).word} {v:+.2f}" for k, v in moved.items()),
    )


def tell_families(fakes: pd.DataFrame) -> None:
    """Print how often the family of fakes is right, and named at all."""
    import pandas as pd

    from evaluation.metrics import calibration_error

    fakes = fakes.assign(right=fakes["family"] == fakes["kind"])
    called = fakes[fakes["verdict"] == Label.FAKE.word]  # of others nothing is said
    named = called[called["named"] != UNKNOWN]
    majority = fakes["kind"].value_counts().iloc[0] / len(fakes)
    print(f"{len(fakes)} fakes of known families; the most frequent one has {majority:.3f}")
    print(f"the likeliest family is right: {_with_interval(fakes, lambda part: part['right'].mean())}")
    error = calibration_error(fakes["right"].to_numpy(int), fakes["probability"].to_numpy())
    print(f"calibration error of its probability: {error:.3f}")
    print(f"of {len(called)} called fake, named: {len(named) / len(called):.3f}")
    print(f"of {len(named)} named, right: {_with_interval(named, lambda part: part['right'].mean())}")
    print(pd.crosstab(fakes["kind"], fakes["family"]).to_string())


def tell_distance(rows: pd.DataFrame, *, cut: float) -> None:
    """Print how often the detector errs beyond the cut and nearer than it, also among sure verdicts alone."""
    rows = rows.assign(wrong=(rows["score"] >= 0.5) != (rows["label"] == Label.FAKE), far=rows["distance"] >= cut)
    sure = rows[rows["verdict"] != "unsure"]
    for name, part in (("all verdicts", rows), ("sure verdicts", sure)):
        beyond, nearer = part[part["far"]], part[~part["far"]]
        print(
            f"{name}: {len(beyond)} beyond {cut:.4f}, wrong {_with_interval(beyond, _wrong)}; "
            f"{len(nearer)} nearer, wrong {_with_interval(nearer, _wrong)}"
        )
    doubt_N = -np.abs(np.log(rows["score"] / (1 - rows["score"])))
    wrong_N = rows["wrong"].to_numpy(float)
    curves = {"score": doubt_N, "distance": rows["distance"]}
    print(
        ", ".join(f"area under the risk-coverage curve by {k}: {aurc(v, wrong_N):.4f}" for k, v in curves.items())
    )


def _wrong(part: pd.DataFrame) -> float:
    return float(part["wrong"].mean())


def aurc(risk_N: np.ndarray, wrong_N: np.ndarray) -> float:
    """Return the mean share of errors among the images of least risk, over all shares of images that are kept."""
    ordered_N = wrong_N[np.argsort(risk_N, kind="stable")]
    return float((np.cumsum(ordered_N) / np.arange(1, len(ordered_N) + 1)).mean())


def _with_interval(rows: pd.DataFrame, figure: Callable[[pd.DataFrame], float]) -> str:
    """Return a figure of rows with its interval over draws of whole sources."""
    import pandas as pd

    if rows.empty:
        return "none"
    parts = [part for _, part in rows.groupby("source")]
    generator = np.random.default_rng(0)
    drawn = [
        figure(pd.concat([parts[i] for i in generator.integers(0, len(parts), len(parts))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{figure(rows):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    cli.run(main)
