"""Each degradation does what its name and strength claim, the same for the same seed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from data.images.degrade import (
    CLEAN,
    CURVES,
    DELIVERIES,
    FAMILIES,
    MAX_MARGIN,
    PAGE_GREYS,
    SUITE,
    UPLOAD_LONG_SIDES_PX,
    Degradation,
    content_seed,
    described,
    encode,
    parse_degradation,
)

AVIF = features.check("avif")
RANDOM = ("crop:0.8", "noise:5", "screenshot", "social", "page", "corner:0.6", "caption")
IN_NO_SET = (parse_degradation("aligned:80"), parse_degradation("square:80"))  # they serve comparisons
ALL = tuple(dict.fromkeys((*SUITE, *DELIVERIES.values(), *IN_NO_SET)))


def smooth(width: int = 96, height: int = 64) -> Image.Image:
    """Slow colours, which codecs keep."""
    y_H1, x_1W = np.mgrid[0:height, 0:width] / 9
    channels = [np.sin(x_1W), np.cos(y_H1), np.sin(x_1W + y_H1)]
    return Image.fromarray((127 + 90 * np.stack(channels, axis=-1)).astype(np.uint8))


def flat(level: int, width: int = 200, height: int = 150) -> Image.Image:
    return Image.new("RGB", (width, height), (level,) * 3)


def run(name: str, image: Image.Image, seed: int = 1) -> NDArray[np.float64]:
    return np.asarray(parse_degradation(name)(image, seed=seed), dtype=np.float64)


def psnr_db(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))


# ---------------------------------------------------------------------------------------------------------
# What holds for all


@pytest.mark.parametrize("degradation", ALL, ids=lambda each: each.name)
def test_new_rgb_image_the_same_for_a_seed_and_the_input_untouched(degradation: Degradation) -> None:
    image = smooth()
    before = image.tobytes()
    first, again = degradation(image, seed=5), degradation(image, seed=5)
    assert first.mode == "RGB"
    assert (first.size, first.tobytes()) == (again.size, again.tobytes())
    first.putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == before
    assert parse_degradation(degradation.name) == degradation


@pytest.mark.parametrize("degradation", ALL, ids=lambda each: each.name)
def test_seed_matters_where_there_is_chance_and_nowhere_else(degradation: Degradation) -> None:
    image = smooth(130, 90)
    results = {(found.size, found.tobytes()) for found in (degradation(image, seed=seed) for seed in range(6))}
    chance = degradation.family in {name.partition(":")[0] for name in RANDOM}
    assert len(results) > 1 if chance else len(results) == 1


@pytest.mark.parametrize("degradation", ALL, ids=lambda each: each.name)
@pytest.mark.parametrize("size", [(1, 1), (10, 10), (2000, 20), (20, 2000)])
def test_tiny_and_narrow_images(degradation: Degradation, size: tuple[int, int]) -> None:
    for seed in range(3):
        found = degradation(Image.new("RGB", size, (9, 99, 199)), seed=seed)
        assert found.mode == "RGB"
        assert min(found.size) >= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"in mode RGB, not {mode}"):
        Degradation(CLEAN)(Image.new(mode, (4, 4)), seed=0)


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    for name in RANDOM:
        run(name, smooth())
    assert np.random.random() == expected


# ---------------------------------------------------------------------------------------------------------
# Codecs


def standard_table(quality: int) -> NDArray[np.int64]:
    """Luminance, row 1 of the JPEG standard's Annex K.1 scaled by libjpeg's rule."""
    first_row = np.array([16, 11, 10, 16, 24, 40, 51, 61])
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((first_row * percent + 50) // 100).clip(1, 255)


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95, 100])
def test_jpeg_has_the_tables_of_its_quality_and_halved_colours(quality: int) -> None:
    encoded = encode(smooth(), format="JPEG", quality=quality)
    with Image.open(io.BytesIO(encoded)) as image:
        tables = image.quantization  # type: ignore[attr-defined]
        assert image.layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]
        assert image.layer[1][1:3] == (1, 1)  # type: ignore[attr-defined]
        decoded = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.array(tables[0])[:8], standard_table(quality))
    assert np.array_equal(run(f"jpeg:{quality}", smooth()), decoded)


@pytest.mark.parametrize(("family", "format"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF")])
def test_codec_is_the_one_named_and_quality_orders_size_and_error(family: str, format: str) -> None:
    if family == "avif" and not AVIF:
        pytest.skip("this build of Pillow has no AVIF")
    image = smooth()
    files = [encode(image, format=format, quality=quality) for quality in (20, 60, 95)]
    with Image.open(io.BytesIO(files[0])) as opened:
        assert opened.format == format
    assert len(files[0]) < len(files[1]) < len(files[2])
    original = run(CLEAN, image)
    errors = [psnr_db(run(f"{family}:{quality}", image), original) for quality in (20, 60, 95)]
    assert 20 < errors[0] < errors[1] < errors[2]


def test_codec_that_pillow_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.images.degrade.features.check", lambda name: False)
    with pytest.raises(ValueError, match="avif is not available: this Pillow was built without avif"):
        parse_degradation("avif:60")
    assert parse_degradation("jpeg:60").strength == 60


# ---------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("name", "size"), [("resize:0.5", (48, 32)), ("resize:2", (192, 128)), ("resize:1", (96, 64))]
)
def test_resize_stays(name: str, size: tuple[int, int]) -> None:
    assert parse_degradation(name)(smooth(), seed=0).size == size


def test_rescale_comes_back_without_what_is_finer_than_the_smaller_size() -> None:
    checks = (np.indices((64, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(np.dstack([checks] * 3))
    found = run("rescale:0.5", image)
    assert found.shape == (64, 96, 3)
    assert found[8:-8, 8:-8].std() < 3
    assert psnr_db(run("rescale:0.5", smooth()), run(CLEAN, smooth())) > 40


def test_crop_is_a_window_of_the_image_anywhere() -> None:
    y, x = np.mgrid[0:50, 0:40]
    image = Image.fromarray(np.dstack([x, y, x]).astype(np.uint8))
    places = set()
    for seed in range(300):
        found = run("crop:0.8", image, seed)
        assert found.shape == (40, 32, 3)
        left, top = int(found[0, 0, 0]), int(found[0, 0, 1])
        assert np.array_equal(found, np.asarray(image)[top : top + 40, left : left + 32])
        places.add((left, top))
    assert {left for left, _ in places} == set(range(9))
    assert {top for _, top in places} == set(range(11))


# ---------------------------------------------------------------------------------------------------------
# Pixels


@pytest.mark.parametrize("sigma_px", [1.0, 2.0, 3.0])
def test_variance_of_blur(sigma_px: float) -> None:
    """The slope of a blurred edge is the kernel: its variance is sigma squared."""
    edge = flat(0)
    edge.paste((255, 255, 255), (100, 0, 200, 150))
    slope = np.diff(run(f"blur:{sigma_px}", edge)[75, :, 0]) / 255
    place = np.arange(len(slope))
    mean = (slope * place).sum()
    assert slope.sum() == pytest.approx(1)
    assert (slope * (place - mean) ** 2).sum() == pytest.approx(sigma_px**2, rel=0.06)


@pytest.mark.parametrize("sigma", [2, 5, 20])
def test_sigma_of_noise(sigma: int) -> None:
    difference = run(f"noise:{sigma}", flat(128)) - 128
    expected = np.sqrt(sigma**2 + 1 / 12)  # rounding to whole levels adds a twelfth
    assert difference.std() == pytest.approx(expected, rel=0.02)
    assert abs(difference.mean()) < 4 * sigma / np.sqrt(difference.size)
    channels = np.corrcoef(difference.reshape(-1, 3).T)
    assert np.abs(channels - np.eye(3)).max() < 0.03


def test_noise_is_clipped_and_does_not_wrap() -> None:
    assert run("noise:20", flat(255)).min() > 100
    assert run("noise:20", flat(0)).max() < 155


@pytest.mark.parametrize("exponent", [0.5, 0.8, 1, 2.2])
def test_curve_of_gamma(exponent: float) -> None:
    ramp = Image.fromarray(np.dstack([np.arange(256, dtype=np.uint8)[None]] * 3))
    expected = 255 * (np.arange(256) / 255) ** exponent
    assert np.abs(run(f"gamma:{exponent}", ramp)[0] - expected[:, None]).max() <= 0.5


def test_screenshot_is_the_picture_on_a_plain_page() -> None:
    ratios, greys = set(), set()
    for seed in range(60):
        found = run("screenshot", Image.new("RGB", (200, 100), (200, 30, 60)), seed)
        is_picture_HW = (found == (200, 30, 60)).all(axis=-1)
        rows, columns = is_picture_HW.any(axis=1), is_picture_HW.any(axis=0)
        assert is_picture_HW.sum() == rows.sum() * columns.sum()  # one rectangle
        assert columns.sum() == 2 * rows.sum()
        assert found.shape[1] <= columns.sum() * (1 + 2 * MAX_MARGIN)
        ratios.add(columns.sum() / 200)
        greys |= set(np.unique(found[~is_picture_HW]))
    assert ratios == {1.0, 1.25, 1.5, 2.0}
    assert greys == set(PAGE_GREYS)


def test_screenshot_fits_a_display() -> None:
    for seed in range(5):
        size = parse_degradation("screenshot")(Image.new("RGB", (6000, 3000)), seed=seed).size
        assert size[0] <= 2560 * 2 * (1 + 2 * MAX_MARGIN)


def test_social_limits_the_long_side_and_leaves_traces_of_jpeg() -> None:
    sides = {max(parse_degradation("social")(flat(90, 2200, 30), seed=seed).size) for seed in range(40)}
    assert sides == set(UPLOAD_LONG_SIDES_PX)
    assert parse_degradation("social")(smooth(), seed=0).size == (96, 64)
    assert 20 < psnr_db(run("social", smooth()), run(CLEAN, smooth())) < 50


# ---------------------------------------------------------------------------------------------------------
# Forms of delivery


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("as it is", (1600, 1000)),
        ("JPEG 75", (1600, 1000)),
        ("JPEG 40", (1600, 1000)),
        ("WebP 60", (1600, 1000)),
        ("short side 512", (819, 512)),
        ("messenger (1,280 px, quality 70)", (1280, 800)),
        ("thumbnail of 256 px", (256, 160)),
        ("thumbnail of 128 px enlarged to 512", (512, 320)),
        ("enlarged by 1.5", (2400, 1500)),
        ("shown in a screenshot", (1366, 900)),
        ("corner of 60 %", (960, 600)),
        ("collage of two by two", (1608, 1008)),
        ("grey", (1600, 1000)),
        ("stronger colours and contrast", (1600, 1000)),
        ("caption", (1600, 1000)),
        ("letterbox", (1600, 1250)),
    ],
)
def test_size_of_a_delivered_picture(words: str, size: tuple[int, int]) -> None:
    assert DELIVERIES[words](smooth(1600, 1000), seed=7).size == size


def test_what_is_smaller_stays_but_for_the_codec() -> None:
    image = smooth()
    assert np.array_equal(run("short:512", image), run(CLEAN, image))
    assert np.array_equal(run("messenger", image), run("jpeg:70", image))
    assert np.array_equal(run("thumbnail:256", image), run("jpeg:80", image))


def test_aligned_pictures_have_one_short_side_and_one_quality() -> None:
    wide = smooth(1600, 1000)
    assert np.array_equal(run("aligned:80", wide), run("jpeg:80", parse_degradation("short:512")(wide, seed=0)))
    assert run("aligned:80", smooth(1000, 1600)).shape == (819, 512, 3)
    assert np.array_equal(run("aligned:80", smooth()), run("jpeg:80", smooth()))  # nothing is enlarged
    assert psnr_db(run("aligned:30", wide), run("short:512", wide)) < psnr_db(
        run("aligned:80", wide), run("short:512", wide)
    )


def test_squares_have_one_shape_and_what_is_small_stays_small() -> None:
    wide = smooth(1600, 1000)
    shrunk = parse_degradation("short:512")(wide, seed=0)
    middle = shrunk.crop((154, 0, 666, 512))  # of 819 px
    assert np.array_equal(run("square:80", wide), run("jpeg:80", middle))
    for size, side_px in (((1000, 1600), 512), ((512, 512), 512), ((96, 64), 64), ((1, 30), 1)):
        assert run("square:80", smooth(*size)).shape == (side_px, side_px, 3)
    small = smooth()
    assert np.array_equal(run("square:30", small), run("jpeg:30", small.crop((16, 0, 80, 64))))


def test_an_enlarged_thumbnail_has_no_more_than_the_thumbnail() -> None:
    checks = (np.indices((512, 512)).sum(axis=0) // 2 % 2 * 255).astype(np.uint8)
    found = run("enlarged_thumbnail:128", Image.fromarray(np.dstack([checks] * 3)))
    assert found.shape == (512, 512, 3)
    assert found[16:-16, 16:-16].std() < 3
    assert psnr_db(run("enlarged_thumbnail:128", smooth(512, 384)), run(CLEAN, smooth(512, 384))) > 25


def test_corner_is_one_of_four() -> None:
    pixels = np.asarray(smooth(100, 50), dtype=np.float64)
    corners = [pixels[:30, :60], pixels[:30, 40:], pixels[20:, :60], pixels[20:, 40:]]
    for seed in range(8):
        assert np.array_equal(run("corner:0.6", smooth(100, 50), seed), corners[seed % 4])


def test_collage_shows_the_picture_four_times() -> None:
    found = run("collage", smooth(200, 100))
    assert found.shape == (108, 208, 3)
    tile = found[:50, :100]
    halved = np.asarray(smooth(200, 100).resize((100, 50), Image.Resampling.LANCZOS), dtype=np.float64)
    assert np.array_equal(tile, halved)
    assert np.array_equal(found[:50, 108:], tile[:, ::-1])
    assert np.array_equal(found[58:, :100], tile[::-1])
    assert np.array_equal(found[58:, 108:], tile[::-1, ::-1])
    assert (found[50:58] == 255).all()
    assert (found[:, 100:108] == 255).all()


def test_grey_has_one_level_for_all_channels() -> None:
    found = run("grey", smooth())
    assert (found == found[..., :1]).all()
    assert np.array_equal(run("grey", flat(77)), run(CLEAN, flat(77)))


def test_vivid_widens_colours_and_contrast() -> None:
    before, after = run(CLEAN, smooth()), run("vivid:1.4", smooth())
    assert after.std() > 1.1 * before.std()
    assert np.ptp(after, axis=-1).mean() > 1.1 * np.ptp(before, axis=-1).mean()
    assert np.array_equal(run("vivid:1", smooth()), before)


def test_caption_covers_the_lower_tenth_alone() -> None:
    found = run("caption", flat(200, 400, 300))
    assert (found[:270] == 200).all()
    assert (found[270:] == 0).mean() > 0.5
    assert (found[270:] == 255).any()


def test_letterbox_leaves_the_picture_between_black_bars() -> None:
    found = run("letterbox", flat(200, 400, 160))
    assert found.shape == (200, 400, 3)
    assert (found[20:-20] == 200).all()
    assert not found[:20].any()
    assert not found[-20:].any()


def test_page_shows_the_whole_picture_once_beside_text() -> None:
    for seed in range(12):
        found = run("page", Image.new("RGB", (300, 200), (200, 30, 60)), seed)
        is_picture_HW = (found == (200, 30, 60)).all(axis=-1)
        rows, columns = is_picture_HW.any(axis=1), is_picture_HW.any(axis=0)
        assert is_picture_HW.sum() == rows.sum() * columns.sum()  # one rectangle
        assert columns.sum() == pytest.approx(1.5 * rows.sum(), abs=2)
        assert 0.5 <= max(columns.sum() / 1366, rows.sum() / 800) <= 0.9 + 0.01
        assert len(np.unique(found[..., 0])) > 20  # bar, page, and text with soft edges


# ---------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sepia", "unknown degradation 'sepia'; choose from none, jpeg:1..100 "),
        ("jpeg", r"jpeg with no strength; write jpeg:1..100 \(quality\)"),
        ("jpeg:0", r"jpeg of strength 0; allowed is jpeg:1..100 \(quality\)"),
        ("jpeg:75.5", "jpeg of strength 75.5; .* in whole numbers"),
        ("social:3", "social with strength 3; write social"),
        ("crop:1.2", "allowed is crop:0.1..1"),
        ("blur:wide", "'wide' is no number; choose from"),
        ("blur:nan", "'nan' is no number"),
        ("noise:inf", "'inf' is no number"),
        ("gamma:", "'' is no number"),
        ("short", r"short with no strength; write short:16..8192 \(px, short side\)"),
        ("thumbnail:20.5", "in whole numbers"),
        ("enlarged_thumbnail:513", "allowed is enlarged_thumbnail:16..512"),
        ("page:2", "page with strength 2; write page"),
    ],
)
def test_what_there_is_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_degradation(text)


def test_names_units_and_the_suite() -> None:
    assert parse_degradation("jpeg:75.0").name == "jpeg:75"
    assert parse_degradation(" crop:0.80 ").name == "crop:0.8"
    names = [each.name for each in SUITE]
    assert names[0] == CLEAN
    assert len(set(names)) == len(names)
    assert {each.family for each in ALL} == set(FAMILIES) - (set() if AVIF else {"avif"})
    assert {"jpeg:100", "jpeg:30"} <= set(names)
    with_strength = {name for name, family in FAMILIES.items() if family.unit}
    without_curve = {"short", "thumbnail", "enlarged_thumbnail", "corner", "vivid", "aligned", "square"}
    assert set(CURVES) == with_strength - without_curve
    assert not {*IN_NO_SET} & {*SUITE, *DELIVERIES.values()}


def test_tables_write_deliveries_in_words() -> None:
    names = [each.name for each in DELIVERIES.values()]
    assert list(described(names).values()) == list(DELIVERIES)
    assert len(set(names)) == len(DELIVERIES) == 16
    assert described(["none", "corner:0.6"]) == {"none": "as it is", "corner:0.6": "corner of 60 %"}
    assert described(["none", "corner:0.5"]) == {"none": "none", "corner:0.5": "corner:0.5"}


def test_seed_of_content() -> None:
    assert content_seed("0" * 14 + "f" + "a" * 49) == 15
    assert content_seed("f" * 64) < 2**63
