"""The audit finds a planted shortcut, finds none where none is, and says what of a detector it explains."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from data.benchmarks.traits import TRAIT_COLUMNS
from evaluation.audit.audit import Audit, audit_benchmark, to_text
from evaluation.audit.shortcuts import auroc_within, false_positives
from evaluation.tables.scores import ScoreTable


def make_traits(num_per_class: int = 120, *, num_sources: int = 8, seed: int = 0, start: int = 0) -> pd.DataFrame:
    """Images of both classes whose files are alike: PNG or JPEG, of several sizes, by chance."""
    rng = np.random.default_rng(seed)
    num = 2 * num_per_class
    label = np.repeat([0, 1], num_per_class)
    is_jpeg = rng.random(num) < 0.5
    side = rng.choice([256, 384, 512, 640], num)
    return pd.DataFrame(
        {
            "uri": [f"images/{start + i}" for i in range(num)],
            "label": label,
            "source": [f"{'fake' if x else 'real'}{i % num_sources}" for i, x in enumerate(label)],
            "format": np.where(is_jpeg, "JPEG", "PNG"),
            "width": side,
            "height": rng.permutation(side),
            "bytes_per_pixel": rng.uniform(0.2, 2.0, num),
            "jpeg_quality": np.where(is_jpeg, rng.integers(70, 100, num), np.nan),
            "subsampling": np.where(is_jpeg, "4:2:0", ""),
            "has_exif": False,
            "camera": "",
            "perceptual_hash": [f"{value:016x}" for value in rng.integers(1 << 62, size=num)],
            "content_sha256": [hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(num)],
            "error": "",
        }
    )[list(TRAIT_COLUMNS)]


def make_rows(traits: pd.DataFrame, score: np.ndarray, *, degradation: str = "none") -> pd.DataFrame:
    return traits[["uri", "content_sha256"]].assign(
        model="detector", degradation=degradation, score=score, error=""
    )


def make_scores(traits: pd.DataFrame, score: np.ndarray) -> ScoreTable:
    return ScoreTable(make_rows(traits, score), {})


def audited(traits: pd.DataFrame, **options: object) -> Audit:
    return audit_benchmark(traits, name="bench", num_resamples=100, **options)  # type: ignore[arg-type]


def auroc(audit: Audit, trait: str) -> float:
    return float(audit.traits.set_index("trait").loc[trait, "auroc"])


def sentence(audit: Audit, words: str) -> str:
    """The only sentence of the verdict with these words."""
    (found,) = [each for each in audit.verdict if words in each]
    return found


def plant_format(traits: pd.DataFrame) -> pd.DataFrame:
    """As GenImage: real images are JPEG, fakes PNG, with two exceptions each."""
    is_jpeg = (traits["label"] == 0).to_numpy(copy=True)
    is_jpeg[[0, 1, -2, -1]] = ~is_jpeg[[0, 1, -2, -1]]
    return traits.assign(
        format=np.where(is_jpeg, "JPEG", "PNG"),
        jpeg_quality=np.where(is_jpeg, 90.0, np.nan),
        subsampling=np.where(is_jpeg, "4:2:0", ""),
    )


def plant_community_forensics(traits: pd.DataFrame) -> pd.DataFrame:
    """As -Small: fakes have the few square sizes of generators and are PNG at times, real images many sizes."""
    rng = np.random.default_rng(5)
    square = rng.choice([256, 512, 768, 1024], len(traits))
    width, height = rng.integers(200, 1100, (2, len(traits)))
    has_square = np.where(traits["label"] == 1, rng.random(len(traits)) < 0.9, rng.random(len(traits)) < 0.1)
    is_png = (traits["label"] == 1) & (rng.random(len(traits)) < 0.3)
    return traits.assign(
        width=np.where(has_square, square, width),
        height=np.where(has_square, square, height),
        format=np.where(is_png, "PNG", "JPEG"),
        jpeg_quality=np.where(is_png, np.nan, 90.0),
        subsampling=np.where(is_png, "", "4:2:0"),
    )


def test_alike_files_are_clean() -> None:
    audit = audited(make_traits())
    assert audit.by_source
    assert audit.interval_unit == "sources"
    for trait in audit.traits["trait"]:
        assert 0.35 < auroc(audit, trait) < 0.6, trait
    text = sentence(audit, "not tell the classes apart")
    assert all(name in text for name in ("file format", "image size", "JPEG quality"))
    assert not [each for each in audit.verdict if "alone" in each or "in part:" in each]


def test_format_is_found_out() -> None:
    audit = audited(plant_format(make_traits()))
    assert auroc(audit, "format") > 0.95
    assert auroc(audit, "size") < 0.6
    text = sentence(audit, "The file format alone")
    assert "PNG are 98% of the fakes and 2% of the real images" in text or "JPEG are 2% of the fakes" in text


def test_size_of_community_forensics_small_is_found_out() -> None:
    """Its size alone has an AUROC of about 0.90, and PNG is fake."""
    audit = audited(plant_community_forensics(make_traits(240)))
    assert 0.82 < auroc(audit, "size") < 0.97
    assert 0.55 < auroc(audit, "format") < 0.75
    assert auroc(audit, "all") > auroc(audit, "format")
    assert "The image size alone tells real from fake" in sentence(audit, "image size alone")


def test_constant_traits_are_chance() -> None:
    same = {"format": "JPEG", "width": 256, "height": 256, "jpeg_quality": 92.0, "subsampling": "4:4:4"}
    audit = audited(make_traits(40).assign(**same))
    assert [auroc(audit, trait) for trait in ("format", "size", "JPEG quality")] == [0.5] * 3


def test_few_sources_are_said() -> None:
    audit = audited(make_traits(40, num_sources=2))
    assert not audit.by_source
    assert "too few sources of real images (2) and of fakes (2)" in sentence(audit, "too few sources of")


def test_what_the_format_explains_of_a_detector() -> None:
    traits = plant_format(make_traits())
    rng = np.random.default_rng(1)
    score = 0.8 * (traits["format"] == "PNG") + 0.2 * rng.random(len(traits))
    rows = [
        make_rows(traits, score.to_numpy()),
        make_rows(traits, rng.random(len(traits)), degradation="jpeg:75"),
        make_rows(traits, rng.random(len(traits)), degradation="blur:1"),
    ]
    audit = audited(traits, scores=ScoreTable(pd.concat(rows), {}))
    assert audit.detector is not None
    assert audit.re_encoded is not None
    assert audit.detector["auroc"] > 0.95
    assert audit.detector["auroc_within"] < 0.7
    assert 0 < audit.detector["paired_share"] < 0.05
    assert sentence(audit, "The file format alone").startswith("The file format alone reaches AUROC .9")
    assert audit.re_encoded["degradation"].to_list() == ["jpeg:75"]
    assert "falls from" in sentence(audit, "encoded alike (jpeg:75)")


def test_pairs_of_one_format_and_size() -> None:
    scored = make_traits(4, num_sources=1).assign(
        format=["JPEG"] * 3 + ["PNG"] * 1 + ["JPEG"] * 1 + ["PNG"] * 3, width=500, height=400, score=0.5
    )
    scored.loc[[0, 1, 2, 4], "score"] = [0.1, 0.2, 0.9, 0.5]  # 2 of 3 pairs of JPEG are in order
    scored.loc[[3, 5, 6, 7], "score"] = [0.4, 0.6, 0.7, 0.3]  # 2 of 3 pairs of PNG
    assert auroc_within(scored) == (pytest.approx(4 / 6), pytest.approx(6 / 16))


def test_false_positives_by_source_and_camera() -> None:
    traits = make_traits(40, num_sources=2)
    traits["camera"] = np.where(traits["source"] == "real1", "Canon EOS 5D", "")
    score = np.where(traits["source"] == "real1", 0.9, 0.1)
    score[1] = 0.1
    audit = audited(traits, scores=make_scores(traits, score))
    table = false_positives(traits.assign(score=score), threshold=0.5).set_index(["by", "value"])
    assert table.loc[("source", "real1"), ["n", "false_positives"]].to_list() == [20, 19]
    assert table.loc[("camera", "unknown"), "false_positives"] == 0
    # Wilson, 19 of 20: (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n)
    assert table.loc[("source", "real1"), ["low", "high"]].to_list() == pytest.approx([0.7639, 0.9911], abs=1e-4)
    assert "real images of real1, 19 of 20 (95% [76%, 99%])" in sentence(audit, "Most false positives")


def test_scores_of_another_machine_are_found_by_content() -> None:
    traits = make_traits(20)
    rows = make_rows(traits, np.linspace(0, 1, len(traits)))
    rows["uri"] = "elsewhere/" + rows["uri"]
    audit = audited(traits, scores=ScoreTable(rows.iloc[2:], {}))
    assert audit.detector is not None
    assert audit.detector["without_score"] == 2
    assert "2 images have no score" in sentence(audit, "no score")


def test_duplicates_across_classes_and_with_train() -> None:
    traits = make_traits(60)
    traits.loc[70, "perceptual_hash"] = f"{int(traits['perceptual_hash'][3], 16) ^ 0b101:016x}"
    traits.loc[80, "content_sha256"] = traits["content_sha256"][9]
    traits.loc[[20, 90], "perceptual_hash"] = "8000000000000000"  # plain grey: no duplicates
    train = make_traits(60, seed=9, start=1000)
    train.loc[5, "perceptual_hash"] = traits["perceptual_hash"][100]
    audit = audited(traits, train=train)
    found = audit.across_classes[["uri", "partner", "bits", "same_file"]].to_numpy().tolist()
    assert found == [["images/80", "images/9", 0, True], ["images/70", "images/3", 2, False]]
    assert audit.with_train is not None
    assert audit.with_train[["uri", "partner"]].to_numpy().tolist() == [["images/100", "images/1005"]]
    assert "2 of 60 fakes look like a real image" in sentence(audit, "a real image of this benchmark")
    assert "1 of 120 images look like an image of the training" in sentence(audit, "the training")


def test_unreadable_images_are_counted() -> None:
    traits = make_traits(20)
    traits.loc[0, "error"] = "damaged image"
    audit = audited(traits)
    assert (audit.n_real, audit.unreadable) == (19, 1)
    assert "1 images could not be read" in sentence(audit, "could not be read")


def test_json_and_text() -> None:
    traits = plant_format(make_traits(20))
    audit = audited(traits, scores=make_scores(traits, np.linspace(0, 1, len(traits))))
    found = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert found["traits"][0]["trait"] == "format"
    assert found["with_train"] is None
    text = to_text(audit)
    assert all(each in text for each in audit.verdict)
    assert "Real images called fake" in text


def test_the_same_again() -> None:
    traits = make_traits(30)
    assert audited(traits).to_dict() == audited(traits).to_dict()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(label: int) -> None:
    traits = make_traits(20)
    with pytest.raises(ValueError, match=r"bench: .* at least 5 of each$"):
        audited(traits[traits["label"] == label])


def test_scores_that_do_not_fit_are_refused() -> None:
    traits = make_traits(20)
    rows = make_rows(traits, np.linspace(0, 1, len(traits)))

    def refused(rows: pd.DataFrame, message: str, *, model: str | None = None) -> None:
        with pytest.raises(ValueError, match=message):
            audited(traits, scores=ScoreTable(rows, {}), model=model)

    refused(rows, "no scores of model 'x'", model="x")
    refused(rows.assign(uri="x", content_sha256="x"), "none of its 40 images has a score")
    refused(rows[:20], "20 real and 0 fake images have a score")
