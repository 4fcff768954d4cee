"""Maps of an image: its tiles, and the patches of a view, by detectors that are functions of the pixels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gapl
import inference
from gapl import weights
from gapl.calibration import score_of
from gapl.decode import decode_image
from gapl.engine import Outcome
from gapl.explain import exploring
from gapl.explain.exploring import explore
from gapl.explain.patches import PATCHES, map_patches, occlude
from gapl.explain.stability import Stability
from gapl.explain.tiles import MAX_TILES, TileMap, map_tiles
from gapl.explain.words import in_words
from gapl.info import DetectorInfo
from gapl.verdict import Verdict
from tests.conftest import MakeImage
from tests.test_calibration import FOUND as CALIBRATION
from tests.test_gapl import make_detector
from tests.test_several_views import ALL, config_with

SIDE = 32  # of a crop
SINGLE = ("centre",)


def brightness(pixels_BVCHW: np.ndarray) -> np.ndarray:
    """A detector to which bright is fake: the logit is that of the crops, or of the view that is alone."""
    crops_BVCHW = pixels_BVCHW[:, :-1] if pixels_BVCHW.shape[1] > 1 else pixels_BVCHW
    return crops_BVCHW.mean(axis=(1, 2, 3, 4), dtype=np.float64)


def detector_of(
    logits: Callable[[np.ndarray], np.ndarray], *, views: tuple[str, ...] = ALL, **pixel: object
) -> gapl.Detector:
    """Return a detector of crops of 32 px whose engine is this function: pixels_BVCHW -> logit_B."""
    config = config_with(views)
    config = replace(config, pixel=replace(config.pixel, **pixel))
    info = DetectorInfo(config=config, backbone_fingerprint="", calibration=replace(CALIBRATION, a=3.0, b=0.0))

    def engine(pixels: np.ndarray) -> Outcome:
        assert len(pixels) <= 8, "memory"
        pixels_BVCHW = pixels[:, None] if pixels.ndim == 4 else pixels
        logit_B = logits(pixels_BVCHW)
        return Outcome(logit_B, np.zeros((len(logit_B), 8), dtype=np.float32))

    return gapl.Detector(engine, info)


def with_square(size: tuple[int, int], *, left: int, top: int, side: int) -> Image.Image:
    """Return a dark picture with a bright square."""
    image = Image.new("RGB", size, (20, 20, 20))
    image.paste((250, 250, 250), (left, top, left + side, top + side))
    return image


def covered(found: TileMap, size: tuple[int, int]) -> np.ndarray:
    """Return how many tiles cover each pixel of an image: times_HW."""
    times_HW = np.zeros(size[::-1], dtype=int)
    for left, top, _ in found.tiles:
        times_HW[max(0, top) : top + found.side, max(0, left) : left + found.side] += 1
    return times_HW


# ---------------------------------------------------------------------------------------------------------
# Tiles


@pytest.mark.parametrize("views", [ALL, SINGLE])
def test_tiles_find_a_bright_square(views: tuple[str, ...]) -> None:
    found = map_tiles(detector_of(brightness, views=views), with_square((128, 96), left=64, top=32, side=32))
    best = max(found.tiles, key=lambda tile: tile.score)
    assert (best.left, best.top, found.side, found.reduced_by) == (64, 32, 32, 1)
    assert min(found.tiles, key=lambda tile: tile.score).score < 0.1 < 0.9 < best.score


def test_a_tile_is_the_only_crop_beside_the_whole() -> None:
    image = with_square((100, 80), left=10, top=10, side=40)
    seen: list[np.ndarray] = []

    def keep(pixels_BVCHW: np.ndarray) -> np.ndarray:
        seen.extend(pixels_BVCHW)
        return brightness(pixels_BVCHW)

    detector = detector_of(keep)
    found = map_tiles(detector, image)
    whole_CHW = detector.see(image).pixels[-1]
    assert len(seen) == len(found.tiles)
    for tile, pixels_VCHW in zip(found.tiles, seen, strict=True):
        assert pixels_VCHW.shape == (2, 3, SIDE, SIDE)
        assert np.array_equal(pixels_VCHW[1], whole_CHW)
        cut = image.crop((tile.left, tile.top, tile.left + SIDE, tile.top + SIDE))
        assert pixels_VCHW[0].mean() == pytest.approx(detector_of(brightness).see(cut).pixels[0].mean(), abs=1e-6)
    score = score_of(brightness(seen[3][None]), detector.info.calibration)
    assert found.tiles[3].score == pytest.approx(float(score[0]))


@pytest.mark.parametrize(
    ("size", "reduced_by", "num"),
    [
        ((32, 32), 1, 1),
        ((33, 32), 1, 2),
        ((64, 64), 1, 9),  # overlaps by half
        ((112, 112), 1, 36),
        ((192, 192), 1, 36),  # side by side
        ((193, 192), 2, 30),
        ((1000, 700), 8, 35),
        ((1001, 703), 8, 35),
        ((100, 700), 2, 36),
    ],
)
def test_tiles_cover_the_image_within_the_budget(size: tuple[int, int], reduced_by: int, num: int) -> None:
    found = map_tiles(detector_of(brightness), Image.new("RGB", size))
    assert found.reduced_by == reduced_by
    assert found.side == reduced_by * SIDE
    assert len(found.tiles) == num <= MAX_TILES
    assert covered(found, size).all()
    assert all(
        0 <= left <= size[0] - found.side and 0 <= top <= size[1] - found.side for left, top, _ in found.tiles
    )


def test_tiles_of_a_large_image_are_where_they_are_said_to_be() -> None:
    size, left, top = (1000, 700), 600, 400
    found = map_tiles(detector_of(brightness), with_square(size, left=left, top=top, side=256))
    best = max(found.tiles, key=lambda tile: tile.score)
    middle = best.left + found.side / 2, best.top + found.side / 2
    assert middle == pytest.approx((left + 128, top + 128), abs=70)


@pytest.mark.parametrize("size", [(1, 1), (20, 9), (31, 31)])
@pytest.mark.parametrize("views", [ALL, SINGLE])
@pytest.mark.parametrize("small_image", ["resize", "pad"])
def test_a_small_image_is_one_tile_as_the_view_makes_it(
    size: tuple[int, int], views: tuple[str, ...], small_image: str
) -> None:
    detector = detector_of(brightness, views=views, small_image=small_image)
    image = with_square(size, left=0, top=0, side=5)
    found = map_tiles(detector, image)
    (tile,) = found.tiles
    centre_CHW = detector_of(brightness, views=SINGLE, small_image=small_image).see(image).pixels
    logit_B = brightness(centre_CHW[None, None])
    assert tile.score == pytest.approx(float(score_of(logit_B, detector.info.calibration)[0]))
    assert found.side == (min(size) if small_image == "resize" else SIDE)
    assert tile.left + found.side / 2 == pytest.approx(size[0] / 2, abs=1)


@pytest.mark.parametrize("size", [(20, 200), (200, 20), (40, 20_000), (3, 60_000), (60_000, 1)])
@pytest.mark.parametrize("small_image", ["resize", "pad"])
def test_strips(size: tuple[int, int], small_image: str) -> None:
    found = map_tiles(detector_of(brightness, small_image=small_image), Image.new("RGB", size))
    assert len(found.tiles) <= MAX_TILES
    assert found.reduced_by == 1
    times_HW = covered(found, size)
    if max(size) == 200:
        assert times_HW.all()
    lengthwise = times_HW.any(axis=int(size[0] < size[1]))
    assert lengthwise.sum() == pytest.approx(lengthwise[::-1].sum())


def test_a_detector_that_resizes_first_has_tiles_of_what_it_sees() -> None:
    detector = detector_of(brightness, views=SINGLE, resize_px=64)
    found = map_tiles(detector, with_square((640, 320), left=160, top=160, side=160))
    assert found.side == 160
    assert len(found.tiles) == 7 * 3
    best = max(found.tiles, key=lambda tile: tile.score)
    assert (best.left, best.top) == (160, 160)


def test_tiles_are_judged_by_the_calibration_of_all_views_whichever_the_verdict_is_by() -> None:
    image = with_square((100, 80), left=10, top=10, side=40)
    full = detector_of(brightness)
    info = replace(full.info, fast_calibration=replace(CALIBRATION, a=9.0, b=2.0)).fast()
    assert map_tiles(gapl.Detector(full._engine, info), image) == map_tiles(full, image)


# ---------------------------------------------------------------------------------------------------------
# Patches


@pytest.mark.parametrize(("views", "box"), [(ALL, (7, 27, 86, 86)), (SINGLE, (34, 54, 32, 32))])
def test_patches_find_a_bright_square(views: tuple[str, ...], box: tuple[int, ...]) -> None:
    left, top, side, _ = box
    image = with_square((100, 140), left=left + side // 2, top=top, side=side // 4)
    found = map_patches(detector_of(brightness, views=views), image)
    assert found.box == pytest.approx(box)
    row, column = np.unravel_index(found.map_HW.argmax(), found.map_HW.shape)
    assert row < PATCHES / 4 + 1
    assert PATCHES / 2 - 1 <= column < PATCHES * 3 / 4 + 1
    assert found.map_HW[-1, 0] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("side", [32, 224])
def test_a_patch_counts_what_its_covers_do(side: int) -> None:
    """With a logit that is a sum over pixels, each cover does what the patches below it do."""
    generator = np.random.default_rng(0)
    pixels_CHW = generator.standard_normal((3, side, side)).astype(np.float32)
    passes = []

    def logits(pixels: object) -> np.ndarray:
        passes.extend(each_CHW.sum(dtype=np.float64) for each_CHW in pixels)  # type: ignore[attr-defined]
        return np.array(passes)

    map_HW = occlude(logits, pixels_CHW, cover_CHW=np.zeros_like(pixels_CHW))
    assert len(passes) == 1 + 7 * 7
    edges = np.linspace(0, side, PATCHES + 1).round().astype(int)
    first = pixels_CHW[:, : edges[3], : edges[3]].sum(dtype=np.float64)
    assert map_HW[0, 0] == pytest.approx(first, rel=1e-6), (
        "one cover reaches the corner, and stands out of the view"
    )
    inner = [
        pixels_CHW[:, edges[row] : edges[row + 4], edges[column] : edges[column + 4]].sum(dtype=np.float64)
        for row in (3, 5)
        for column in (3, 5)
    ]
    assert map_HW[6, 6] == pytest.approx(np.mean(inner), rel=1e-4)


def test_the_view_of_a_padded_image_begins_outside() -> None:
    found = map_patches(detector_of(brightness, views=SINGLE, small_image="pad"), Image.new("RGB", (20, 12)))
    assert found.box == (-6, -10, 32, 32)


# ---------------------------------------------------------------------------------------------------------
# Together


@pytest.fixture
def detector_file(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "GRAPH", graph)
    return make_detector(tmp_path / "detector.safetensors", config_with(ALL))


def test_exploring_is_the_same_with_and_without_torch_and_changes_no_verdict(
    detector_file: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    image = decode_image(make_image(tmp_path / "0.png", size=(90, 70)).read_bytes())
    for views in ("full", "fast"):
        detector = gapl.Detector.load(detector_file, views=views)
        other = inference.Detector.load(detector_file, views=views, allow_tiny=True)
        before = detector(image)
        found, expected = explore(detector, image), explore(other, image)
        assert detector(image) == before
        assert found.keys() == {"where", "stable"}
        tiles, expected_tiles = (each["where"]["tiles"] for each in (found, expected))
        assert np.array(tiles["tiles"]) == pytest.approx(np.array(expected_tiles["tiles"]), abs=1e-4)
        maps = [np.array(each["where"]["patches"]["map"]) for each in (found, expected)]
        assert maps[0].shape == (PATCHES, PATCHES)
        assert maps[0] == pytest.approx(maps[1], abs=1e-3)
        assert found["stable"]["holds"] == expected["stable"]["holds"]


@pytest.mark.parametrize("with_torch", [False, True])
def test_views_auto_are_refused(detector_file: Path, with_torch: bool) -> None:
    if with_torch:
        detector: gapl.Detector = inference.Detector.load(detector_file, views="auto", allow_tiny=True)
    else:
        detector = gapl.Detector.load(detector_file, views="auto")
    with pytest.raises(ValueError, match=r"^[^\n]*choose --views full or fast$"):
        explore(detector, Image.new("RGB", (90, 70)))


def test_whatever_a_detector_takes_is_explored(make_image: MakeImage, tmp_path: Path) -> None:
    path = make_image(tmp_path / "0.png", size=(90, 70))
    expected = explore(detector_of(brightness), decode_image(path.read_bytes()))
    for image in (path, str(path), path.read_bytes(), np.asarray(Image.open(path))):
        assert explore(detector_of(brightness), image) == expected
    with pytest.raises(ValueError, match="an image cannot be of type int"):
        explore(detector_of(brightness), 5)  # type: ignore[arg-type]


def test_a_large_image_is_shrunk_and_places_are_still_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def judging_resaves(_detector: object, image: Image.Image, verdict: Verdict) -> Stability:
        sizes.append(image.size)
        return Stability((), 0, verdict.label)

    monkeypatch.setattr(exploring, "check_stability", judging_resaves)
    image = with_square((401, 300), left=200, top=0, side=100)
    plain = explore(detector_of(brightness), image)["where"]
    monkeypatch.setattr(exploring, "MOST_PIXELS", 10_000)
    found = explore(detector_of(brightness), image)["where"]
    assert sizes == [(401, 300), (101, 75)]
    assert found["tiles"]["reduced_by"] == 4
    assert found["tiles"]["side"] == 4 * SIDE
    best = max(found["tiles"]["tiles"], key=lambda tile: tile[2])
    assert best[:2] == pytest.approx([200, 0], abs=50)
    assert found["patches"]["box"] == pytest.approx(plain["patches"]["box"], abs=8)


def test_places_are_those_of_the_upright_image() -> None:
    image = with_square((96, 160), left=32, top=0, side=32)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned clockwise
    tiles = explore(detector_of(brightness), turned)["where"]["tiles"]["tiles"]
    assert max(tiles, key=lambda tile: tile[2])[:2] == [32, 0]


def test_in_words() -> None:
    image = with_square((96, 96), left=60, top=0, side=36)
    found = explore(detector_of(brightness), image)
    said = in_words({"prototypes": [], "note": "none"} | found)
    assert len(said) == 4
    assert "highest at the top right." in said[1]
    assert re.fullmatch(
        r"Covered parts .* by -\d\.\d\d \(at the top right\) to \+\d\.\d\d \(at the .*\)\.", said[2]
    )
    assert said[3] == f"The verdict holds in {found['stable']['holds']} of 6 re-saves."
    small = explore(detector_of(brightness), Image.new("RGB", (20, 20)))
    said = in_words({"prototypes": [], "note": "none"} | small)
    assert said[1].startswith("The image is a single tile: P(fake) ")
    assert said[2].startswith("Covered parts of the view change the logit by ")
    even = explore(detector_of(brightness), Image.new("RGB", (90, 70)))
    tiles, patches = in_words({"prototypes": [], "note": "none"} | even)[1:3]
    assert tiles.endswith(", none stands out.")
    assert patches == "Covered parts of the view change the logit by +0.00 to +0.00, none stands out."
    in_strip = {"box": [448, 0, 3, 3], "map": [[1.0] * PATCHES, *(PATCHES - 1) * [[0.0] * PATCHES]]}
    said = in_words({"prototypes": [], "note": "none", "where": even["where"] | {"patches": in_strip}})
    assert said[2] == "Covered parts of the view change the logit by -1.00 to +0.00."
