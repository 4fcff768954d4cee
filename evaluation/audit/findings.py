"""The tables of an audit -> what they mean, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.audit.duplicates import MAX_BITS
from evaluation.audit.shortcuts import ALL, TRAITS
from evaluation.intervals import MIN_SOURCES

# From which values on the words are used. An AUROC is above chance when its interval is above 0.5.
TELLS_AUROC = 0.75  # a trait tells real from fake
HINTS_AUROC = 0.60  # a trait does so in part; below this it does not
SEEN_FALL = 0.02  # an AUROC falls or rises
FALL_AUROC = 0.05  # a detector relied on what was taken away
CORRELATED = 0.5  # a rank correlation is named, whatever its sign
MIN_IMAGES = 10  # the rate of a source with that many images is named
MIN_PAIRED_SHARE = 0.01  # the AUROC of pairs of one format and size is trusted
CALLED = {
    "format": "the file format",
    "size": "the image size",
    "JPEG quality": "the JPEG quality",
    "bytes per pixel": "the number of bytes per pixel",
    "chroma subsampling": "the chroma subsampling",
    "EXIF": "the presence of EXIF",
    ALL: "all traits together",
}


def about_traits(
    predicted: pd.DataFrame, traits: pd.DataFrame, *, detector: Mapping[str, Any] | None
) -> list[str]:
    """Say which traits give the label away.

    predicted   the table of predict_labels
    traits      the images that it was made of
    detector    "model" and "auroc", if there is one
    """
    told: dict[str, list[str]] = {"tells": [], "hints": [], "open": [], "clean": []}
    for row in predicted[predicted["trait"] != ALL].to_dict("records"):
        told[_how(row)].append(row["trait"])
    by_trait = {row["trait"]: row for row in predicted.to_dict("records")}
    sentences = []
    for trait in sorted(told["tells"], key=lambda trait: -by_trait[trait]["auroc"]):
        figure = _with_interval(by_trait[trait])
        known = _contrast(traits, trait)
        if detector is None:
            sentences.append(f"{_upper(CALLED[trait])} alone tells real from fake: AUROC {figure}{known}")
        else:
            other = f"where {detector['model']} reaches {short(detector['auroc'])}"
            sentences.append(f"{_upper(CALLED[trait])} alone reaches AUROC {figure}, {other}{known}")
    for trait in told["hints"]:
        figure = _with_interval(by_trait[trait])
        sentences.append(
            f"{_upper(CALLED[trait])} gives the label away in part: AUROC {figure}{_contrast(traits, trait)}"
        )
    if told["open"]:
        figures = _listed([f"{CALLED[trait]} {_with_interval(by_trait[trait])}" for trait in told["open"]])
        sentences.append(f"Too few sources or images to say whether these tell the classes apart: {figures}")
    if clean := told["clean"]:
        highest = _with_interval(max((by_trait[trait] for trait in clean), key=lambda row: row["auroc"]))
        names = _upper(_listed([CALLED[trait] for trait in clean]))
        figure = f"does not tell the classes apart (AUROC {highest})"
        if len(clean) > 1:
            figure = f"do not tell the classes apart (AUROC {highest} at most)"
        sentences.append(f"{names} {figure}")
    sentences.append(f"{_upper(CALLED[ALL])} reach AUROC {_with_interval(by_trait[ALL])}")
    return [f"{sentence}." for sentence in sentences]


def about_detector(detector: Mapping[str, Any], re_encoded: pd.DataFrame, correlated: pd.DataFrame) -> list[str]:
    """Say what is left of a detector's AUROC where the traits are equal."""
    sentences = []
    share, within = detector["paired_share"], detector["auroc_within"]
    of_pairs = f"{share:.0%} of all pairs" if share >= 0.01 or share == 0 else "under 1% of all pairs"
    if share < MIN_PAIRED_SHARE:
        sentences.append(
            f"Hardly any fake has the format and size bin of a real image ({of_pairs}), so that these images "
            f"cannot say what {detector['model']} sees beyond format and size."
        )
    else:
        falls = detector["auroc"] - within >= FALL_AUROC
        sentences.append(
            f"Among real and fake images of the same format and size bin ({of_pairs}), the AUROC of "
            f"{detector['model']} {'is only' if falls else 'is'} {short(within)}; over all images it is "
            f"{short(detector['auroc'])}."
        )
    for row in re_encoded.to_dict("records"):
        verb = "falls" if row["fall"] >= SEEN_FALL else "rises" if row["fall"] <= -SEEN_FALL else "hardly changes,"
        before, after = short(row["auroc"] + row["fall"]), short(row["auroc"])
        sentences.append(
            f"With both classes encoded alike ({row['degradation']}), the AUROC {verb} from {before} to {after}."
        )
    for row in correlated[correlated["spearman"].abs() >= CORRELATED].to_dict("records"):
        sentences.append(
            f"Among {row['class']} images the score follows {row['trait'].replace('_', ' ')}: "
            f"Spearman's correlation is {row['spearman']:.2f} (n = {row['n']})."
        )
    return sentences


def about_false_positives(table: pd.DataFrame) -> list[str]:
    """Say which real source has the highest rate in the table of shortcuts.false_positives."""
    sources = table[(table["by"] == "source") & (table["n"] >= MIN_IMAGES)]
    if sources.empty:
        return [f"No real source has the {MIN_IMAGES} scored images that a rate of false positives needs."]
    worst = sources.loc[sources["rate"].idxmax()]
    if not worst["false_positives"]:
        return [f"No real image of a source with {MIN_IMAGES} images or more is called fake."]
    overall = sources["false_positives"].sum() / sources["n"].sum()
    return [
        f"Most false positives: real images of {worst['value']}, {worst['false_positives']} of {worst['n']} "
        f"({worst['rate']:.0%} [{worst['low']:.0%}, {worst['high']:.0%}]); over all sources with {MIN_IMAGES} "
        f"images or more {overall:.0%}."
    ]


def about_duplicates(
    across_classes: pd.DataFrame,
    with_train: pd.DataFrame | None,
    *,
    num_fakes: int,
    num_images: int,
) -> list[str]:
    """Say how many fakes look like a real image, and how many images like one of the training."""
    meaning = f"perceptual hashes within {MAX_BITS} of 64 bits, or the same file"
    pairs = [(across_classes, f"of {num_fakes} fakes", "a real image of this benchmark")]
    if with_train is not None:
        pairs.append((with_train, f"of {num_images} images", "an image of the training"))
    sentences = []
    for table, of_how_many, like in pairs:
        if table.empty:
            sentences.append(f"None {of_how_many} looks like {like} ({meaning}).")
            continue
        first, same = table.iloc[0], int(table["same_file"].sum())
        sentences.append(
            f"{len(table)} {of_how_many} look like {like} ({meaning}), {same} are the same file; the nearest are "
            f"{first['uri']} and {first['partner']}."
        )
    return sentences


def about_method(traits: pd.DataFrame, *, by_source: bool, unreadable: int, without_score: int) -> list[str]:
    """Say what a reader must know about how the figures were made."""
    counts = traits.groupby("label")["source"].nunique()
    sources = f"sources of real images ({counts[0]}) and of fakes ({counts[1]})"
    if by_source:
        sentences = [f"Labels were predicted for held-out sources, among the {sources}."]
    else:
        sentences = [
            f"There are too few {sources} to hold some out ({MIN_SOURCES} of each are needed). Labels were "
            "predicted for held-out images instead, so that differences between sources count too."
        ]
    if unreadable:
        sentences.append(f"{unreadable} images could not be read and are in no figure.")
    if without_score:
        sentences.append(f"{without_score} images have no score and are in no figure of the detector.")
    return sentences


def short(value: float) -> str:
    """Write a fraction with two digits: ".95"."""
    return f"{value:.2f}".removeprefix("0")


def _how(row: Mapping[str, Any]) -> str:
    if row["auroc"] < HINTS_AUROC:
        return "clean"
    if row["low"] <= 0.5:
        return "open"
    return "tells" if row["auroc"] >= TELLS_AUROC else "hints"


def _with_interval(row: Mapping[str, Any]) -> str:
    return f"{short(row['auroc'])} [{short(row['low'])}, {short(row['high'])}]"


def _contrast(traits: pd.DataFrame, trait: str) -> str:
    """Say what differs most between the classes: ": PNG are 98% of the fakes and 3% of the real images"."""
    columns = list(TRAITS[trait])
    reals, fakes = (traits[traits["label"] == label] for label in (0, 1))
    if trait in ("bytes per pixel", "JPEG quality"):
        column = columns[0]
        without = [name for name, part in (("fakes", fakes), ("real images", reals)) if part[column].isna().all()]
        if without:
            return f": no JPEG among the {without[0]}"
        ranges = (
            f"half of the fakes have {_middle(fakes[column])}, half of the real images {_middle(reals[column])}"
        )
        return f": {ranges}" + ("; in part that is content" if trait == "bytes per pixel" else "")
    shares = pd.DataFrame(
        {name: frame[columns].value_counts(normalize=True) for name, frame in (("fakes", fakes), ("reals", reals))}
    ).fillna(0.0)
    most = (shares["fakes"] - shares["reals"]).abs().idxmax()
    assert isinstance(most, tuple)
    called = {"size": "x".join(map(str, most)), "EXIF": "images with EXIF" if most[0] else "images without EXIF"}
    name = called.get(trait, str(most[0]) or "no JPEG")
    row = shares.loc[most]
    return f": {name} are {row['fakes']:.0%} of the fakes and {row['reals']:.0%} of the real images"


def _middle(numbers: pd.Series) -> str:
    """Write the range of the middle half."""
    low, high = numbers.quantile(0.25), numbers.quantile(0.75)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
