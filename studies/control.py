"""A control: how far size and file format alone tell fakes from real pictures of the open corpus.

A logistic regression is fitted to the part `train` and judged on the images of a table of scores. It sees no
pixel. What it reaches is what a detector could have learnt without looking at the picture.

Shape suffix: N images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from data.images.degrade import ALIGNED_SHORT_SIDE_PX
from data.open_corpus.collection import COLUMNS, image_name
from evaluation.audit.shortcuts import auroc_interval, auroc_within
from evaluation.intervals import NUM_RESAMPLES
from evaluation.tables.scores import ScoreTable
from gapl.files.refusal import check_is_file, refusal
from gapl.labels import Label

TRAIN = "train"
MIN_IMAGES = 20  # of the training images have a width, a height or a format that the control knows by itself
ORIGINAL = "size and format of the published file"
COPY = "size and bytes per pixel of the collected image"
ALIGNED = "size of the collected image when aligned"
SIDES = ("width", "height")
AUROC = ("auroc", "auroc_low", "auroc_high")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read the manifest.csv of a collection, indexed by the names of the images.

    Raises ValueError, one line, for another file, or when the part `train` does not have both classes.
    """
    what = "the manifest.csv of python -m data.collect"
    check_is_file(path, what=what)
    try:
        table = pd.read_csv(path, keep_default_na=False)
        if missing := [name for name in COLUMNS if name not in table]:
            raise ValueError(f"no column {missing[0]!r}")
    except (ValueError, pd.errors.ParserError) as error:
        raise refusal(path, ValueError(str(error)), what=what) from error
    if set(table.loc[table["part"] == TRAIN, "label"]) != set(Label):
        raise ValueError(f"{path}: the part {TRAIN!r} does not have both classes; collect it as well")
    return table.set_index(table["sha256"].map(image_name))


def control_table(
    scores: ScoreTable, manifest: pd.DataFrame, *, folder: Path, num_resamples: int = NUM_RESAMPLES
) -> pd.DataFrame:
    """Return who tells the classes of which benchmark apart, and how well.

    Columns: benchmark, judge, n, auroc, auroc_low, auroc_high, pairs.

    folder   where the images of the manifest are; the bytes of those of `train` are looked up

    Judges are the controls (names of TRAITS), each detector, and each detector among pairs of a real and a fake
    picture whose published files have one format and a similar size. The last has no interval, and `pairs` is the
    share of such pairs. Images are without degradation. A benchmark with one class only has no rows.

    Raises ValueError when an image of the table is not in the manifest, or one of `train` not in the folder.
    """
    controls = fit_controls(manifest, folder=folder)
    rows: list[dict[str, object]] = []
    for benchmark in dict.fromkeys(scores.frame["benchmark"]):
        for model in scores.models:
            images = with_originals(scores.readable(model, benchmark=benchmark), manifest)
            if images["label"].nunique() < len(Label):
                continue
            judges = {model: images["score"].to_numpy(float)}
            if model == scores.models[0]:  # the controls do not depend on the detector
                judges = {name: predict(each, TRAITS[name](images)) for name, each in controls.items()} | judges
            for judge, score_N in judges.items():
                found, _ = auroc_interval(images, score_N, num_resamples=num_resamples)
                numbers = dict(zip(AUROC, (found["auroc"], found["low"], found["high"]), strict=True))
                rows.append({"benchmark": benchmark, "judge": judge, "n": len(images), **numbers})
            auroc, pairs = auroc_within(images.assign(**original_traits(images)[[*SIDES, "format"]]))
            among = {"judge": f"{model}, among equals", "n": len(images), "auroc": auroc, "pairs": pairs}
            rows.append({"benchmark": benchmark, **among})
    return pd.DataFrame(rows, columns=["benchmark", "judge", "n", *AUROC, "pairs"])


def with_originals(images: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return rows of scores with the size and format of the published files. Raises ValueError without them."""
    name = images["uri"].map(lambda uri: Path(uri).name)
    if (unknown := ~name.isin(manifest.index)).any():
        first = images.loc[unknown, "uri"].iloc[0]
        raise ValueError(
            f"{first!r}, and {unknown.sum() - 1} more images of the scores, are not in the manifest; "
            "expected the manifest.csv of the collection that was scored"
        )
    columns = ["original_width", "original_height", "original_format"]
    return images.assign(**{column: manifest[column].loc[name].to_numpy() for column in columns})


# ---------------------------------------------------------------------------------------------------------
# The control


def fit_controls(manifest: pd.DataFrame, *, folder: Path) -> dict[str, Pipeline]:
    """Return the controls by the names of TRAITS, fitted to the part `train`."""
    train = manifest[manifest["part"] == TRAIN]
    train = train.assign(num_bytes=[_num_bytes(folder / name) for name in train["filename"]])
    return {name: fit(traits(train), train["label"].to_numpy(int)) for name, traits in TRAITS.items()}


def _num_bytes(path: Path) -> int:
    check_is_file(path, what="the image beside its manifest.csv")
    return path.stat().st_size


def original_traits(images: pd.DataFrame) -> pd.DataFrame:
    """Return the traits of the published files, from the columns of a manifest."""
    sizes = images[["original_width", "original_height"]].set_axis(list(SIDES), axis=1)
    return _with_logarithms(sizes).assign(format=images["original_format"])


def copy_traits(images: pd.DataFrame) -> pd.DataFrame:
    """Return the traits of the collected images, which all have one format."""
    sizes = images[list(SIDES)]
    return _with_logarithms(sizes).assign(bytes_per_pixel=images["num_bytes"] / sizes.prod(axis=1))


def aligned_traits(images: pd.DataFrame) -> pd.DataFrame:
    """Return the size of the collected images once they are aligned: their shape, and which of them are small."""
    sizes = images[list(SIDES)]
    factor = (ALIGNED_SHORT_SIDE_PX / sizes.min(axis=1)).clip(upper=1)
    return _with_logarithms(sizes.mul(factor, axis=0).round().astype(int))


TRAITS = {ORIGINAL: original_traits, COPY: copy_traits, ALIGNED: aligned_traits}


def _with_logarithms(sizes: pd.DataFrame) -> pd.DataFrame:
    width, height = (np.log(sizes[side].astype(float)) for side in SIDES)
    return sizes.assign(log_width=width, log_height=height, log_aspect=width - height)


def fit(traits: pd.DataFrame, label_N: np.ndarray) -> Pipeline:
    """Fit a logistic regression, both classes weighing the same.

    It knows frequent widths, heights and formats by themselves, since generators make pictures of a few sizes.
    """
    named = [name for name in (*SIDES, "format") if name in traits]
    numbers = [name for name in traits if name not in named]
    seen = ColumnTransformer(
        [
            ("numbers", StandardScaler(), numbers),
            ("named", OneHotEncoder(min_frequency=MIN_IMAGES, handle_unknown="infrequent_if_exist"), named),
        ]
    )
    return make_pipeline(seen, LogisticRegression(class_weight="balanced", max_iter=2000)).fit(traits, label_N)


def predict(control: Pipeline, traits: pd.DataFrame) -> np.ndarray:
    """Return P(fake) of each image by a control, score_N."""
    return control.predict_proba(traits)[:, int(Label.FAKE)]
