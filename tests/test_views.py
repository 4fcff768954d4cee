"""Encoded bytes -> RGB image -> pixels: decoding, the evaluation view, the random views."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_damaged_palette
from numpy.typing import NDArray
from PIL import ExifTags, Image, features
from torch import Tensor
from torchvision import transforms

from data.choices import PAIRS, SCALED_VIEWS
from data.images.augment import TRAIN_VIEWS, train_view
from data.images.views import eval_tensor_view, seeded
from data.seeds import draw_seed
from gapl.decode import SEVERAL_FRAMES, UnreadableImage, decode_image, image_format, to_rgb, transparency
from gapl.pixels import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, PixelSpec
from gapl.views import centre_crop, eval_view, resize_short_side

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(width, height))


def normalised(image_HWC: NDArray[np.uint8]) -> Tensor:
    """By numpy: what the tower is to see of the image."""
    scaled_HWC = (image_HWC.astype(np.float64) / 255 - MEAN) / STD
    return torch.from_numpy(scaled_HWC.transpose(2, 0, 1)).float()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < tolerance)


def view(**options: Any) -> Callable[[Image.Image], Tensor]:
    return eval_tensor_view(PixelSpec(size_px=32, mean=MEAN, std=STD, **options))


# ---------------------------------------------------------------------------------------------------------
# Evaluation view


@pytest.mark.parametrize(("width", "height"), [(32, 32), (50, 40), (51, 33), (200, 32)])
def test_centre_is_cut_out_and_normalised(width: int, height: int) -> None:
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    expected = normalised(noise(width, height)[top : top + 32, left : left + 32])
    assert close(view()(picture(width, height)), expected)


@pytest.mark.parametrize(("width", "height"), [(20, 24), (20, 60), (1, 1)])
def test_small_images_are_padded_with_black(width: int, height: int) -> None:
    pixels_CHW = view()(picture(width, height))
    kept = min(height, 32)
    left, top = (32 - width) // 2, (32 - kept) // 2
    canvas = np.zeros((32, 32, 3), dtype=np.uint8)
    skipped = max(0, round((height - 32) / 2))
    canvas[top : top + kept, left : left + width] = noise(width, height)[skipped : skipped + kept]
    assert close(pixels_CHW, normalised(canvas))
    assert close(pixels_CHW[:, 0, 0], -torch.tensor(MEAN) / torch.tensor(STD))


def enlarged(image: Image.Image, width: int, height: int, left: int, top: int) -> Tensor:
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return normalised(resized[top : top + 32, left : left + 32])


def test_small_images_are_enlarged_if_wanted() -> None:
    image = picture(20, 16)
    pixels_CHW = view(small_image="resize")(image)
    assert close(pixels_CHW, enlarged(image, 40, 32, 4, 0))
    assert torch.equal(view(small_image="resize")(picture(80, 60)), view()(picture(80, 60)))


@pytest.mark.parametrize(("size", "resized"), [((80, 100), (40, 50)), ((20, 30), (40, 60))])
def test_short_side_is_resized_before_the_crop(size: tuple[int, int], resized: tuple[int, int]) -> None:
    image = picture(*size)
    expected = enlarged(image, *resized, (resized[0] - 32) // 2, (resized[1] - 32) // 2)
    assert close(view(resize_px=40)(image), expected)


def test_interpolation_is_the_one_named() -> None:
    image = picture(16, 16)
    nearest = view(resize_px=32, interpolation="nearest")(image)
    assert close(nearest, normalised(noise(16, 16).repeat(2, axis=0).repeat(2, axis=1)))
    assert not close(nearest, view(resize_px=32, interpolation="bilinear")(image), tolerance=0.1)


SIDES = (1, 7, 20, 31, 32, 33, 34, 47, 64, 101)


def by_torchvision(*first: Any) -> Callable[[Image.Image], Tensor]:
    view_: Callable[[Image.Image], Tensor] = transforms.Compose(
        [*first, transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    return view_


@pytest.mark.parametrize("height", SIDES)
@pytest.mark.parametrize("width", SIDES)
def test_view_is_that_of_torchvision(width: int, height: int) -> None:
    """Of its first version, on images of Pillow: what the released code is written with."""
    image = picture(width, height)
    assert close(view()(image), by_torchvision()(image), tolerance=1e-6)
    enlarge = [transforms.Resize(32, transforms.InterpolationMode.BICUBIC)] if min(width, height) < 32 else []
    assert close(view(small_image="resize")(image), by_torchvision(*enlarge)(image), tolerance=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("resize_px", [24, 37, 40])
def test_resizing_is_that_of_torchvision(resize_px: int, interpolation: str) -> None:
    reference = by_torchvision(transforms.Resize(resize_px, transforms.InterpolationMode(interpolation)))
    for width, height in ((80, 100), (20, 31), (53, 37), (40, 40), (7, 90)):
        image = picture(width, height)
        found = view(resize_px=resize_px, interpolation=interpolation)(image)
        assert close(found, reference(image), tolerance=1e-6)


def by_torch(image: Image.Image, pixel: PixelSpec) -> Tensor:
    """The view as PyTorch computed it: detectors are trained and calibrated on these bits."""
    image = to_rgb(image, conversion=pixel.conversion)
    if pixel.resize_px is not None:
        image = resize_short_side(image, pixel.resize_px, pixel.interpolation)
    elif pixel.small_image == "resize" and min(image.size) < pixel.size_px:
        image = resize_short_side(image, pixel.size_px, pixel.interpolation)
    pixels_HWC = torch.from_numpy(np.array(centre_crop(image, pixel.size_px)))
    mean_C11, std_C11 = (torch.tensor(values).view(3, 1, 1) for values in (pixel.mean, pixel.std))
    return (pixels_HWC.permute(2, 0, 1).contiguous().float() / 255).sub_(mean_C11).div_(std_C11)


NORMALISATIONS = [(CLIP_MEAN, CLIP_STD), (IMAGENET_MEAN, IMAGENET_STD)]
ALL_LEVELS = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2))
DEEP_GREY = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16))


@pytest.mark.parametrize(("mean", "std"), NORMALISATIONS)
@pytest.mark.parametrize(
    ("image", "options"),
    [
        (ALL_LEVELS, {"size_px": 16}),
        (picture(50, 41), {}),
        (picture(20, 70), {}),
        (picture(20, 30), {"small_image": "resize"}),
        (picture(90, 60), {"resize_px": 40}),
        (DEEP_GREY, {}),
        (DEEP_GREY, {"conversion": "pillow"}),
    ],
)
def test_view_has_the_bits_of_torch(image: Image.Image, options: dict[str, Any], mean: Any, std: Any) -> None:
    pixel = PixelSpec(**{"size_px": 32, "mean": mean, "std": std} | options)
    pixels_CHW = eval_view(pixel)(image)
    assert pixels_CHW.dtype == np.float32
    assert pixels_CHW.flags.c_contiguous
    assert pixels_CHW.tobytes() == by_torch(image, pixel).numpy().tobytes()
    assert torch.equal(eval_tensor_view(pixel)(image), by_torch(image, pixel))


# ---------------------------------------------------------------------------------------------------------
# Random views


@pytest.mark.parametrize("size", [(80, 60), (32, 32), (20, 50), (9, 7), (300, 10)])
@pytest.mark.parametrize("name", TRAIN_VIEWS)
def test_random_views_have_the_size_of_the_crop(name: str, size: tuple[int, int]) -> None:
    for seed in range(4):
        pixels_CHW = seeded(train_view(name, size_px=32, mean=MEAN, std=STD), picture(*size), seed=seed)
        views = {PAIRS: (2, 2)}.get(name, (2,) if name in SCALED_VIEWS else ())
        assert pixels_CHW.shape == (*views, 3, 32, 32)
        assert pixels_CHW.dtype == torch.float32
        assert torch.isfinite(pixels_CHW).all()


def windows_of(image_HWC: NDArray[np.uint8]) -> Tensor:
    """Every 32 x 32 crop, normalised."""
    height, width, _ = image_HWC.shape
    crops = [image_HWC[y : y + 32, x : x + 32] for y in range(height - 31) for x in range(width - 31)]
    return torch.stack([normalised(crop) for crop in crops])


def test_random_crop_is_a_crop_and_reaches_all_of_the_image() -> None:
    windows = windows_of(noise(35, 34))
    crop = train_view("crop", size_px=32, mean=MEAN, std=STD)
    found = set()
    for seed in range(120):
        distances = (windows - seeded(crop, picture(35, 34), seed=seed)).abs().amax(dim=(1, 2, 3))
        assert distances.min() < 1e-5
        found.add(int(distances.argmin()))
    assert found == set(range(len(windows)))


def test_random_crop_pads_small_images_with_black() -> None:
    pixels_CHW = seeded(train_view("crop", size_px=32, mean=MEAN, std=STD), picture(10, 40), seed=0)
    black_C11 = (-torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)
    black_columns = ((pixels_CHW - black_C11).abs() < 1e-5).all(dim=0).all(dim=0)
    assert int(black_columns.sum()) == 22


def test_reencode_leaves_no_border_and_saves_most_images_anew() -> None:
    white = Image.new("RGB", (40, 36), "white")
    view = train_view("reencode", size_px=32, mean=MEAN, std=STD)
    lightest = normalised(np.full((32, 32, 3), 255, np.uint8))
    for seed in range(20):
        assert (seeded(view, white, seed=seed) - lightest).abs().max() < 0.05, "no black from outside of the image"
    windows = windows_of(noise(40, 36))
    drawn = [seeded(view, picture(40, 36), seed=seed) for seed in range(60)]
    as_they_were = sum(
        bool(min((windows - each).abs().amax(dim=(1, 2, 3)).min() for each in (pixels, pixels.flip(-1))) < 1e-5)
        for pixels in drawn
    )
    assert 3 <= as_they_were <= 18, "of 60, 0.3 * 0.5 are neither scaled nor saved anew: 9"


def test_a_pair_is_the_image_as_it_is_and_delivered() -> None:
    view = train_view(PAIRS, size_px=32, mean=MEAN, std=STD)
    windows = windows_of(noise(40, 36))

    def is_window(pixels_CHW: Tensor) -> bool:
        either = (pixels_CHW, pixels_CHW.flip(-1))
        return any(float((windows - each).abs().amax(dim=(1, 2, 3)).min()) < 1e-5 for each in either)

    pairs = [seeded(view, picture(40, 36), seed=seed) for seed in range(20)]
    assert all(is_window(pair[0, 0]) for pair in pairs)
    assert sum(is_window(pair[1, 0]) for pair in pairs) <= 4, "a caption leaves some crops as they are"


def test_flip_mirrors_half_of_the_time() -> None:
    view_ = train_view("crop_flip", size_px=32, mean=MEAN, std=STD)
    upright, mirrored = normalised(noise(32, 32)), normalised(noise(32, 32)[:, ::-1].copy())
    drawn = [seeded(view_, picture(32, 32), seed=seed) for seed in range(60)]
    flips = sum(close(pixels_CHW, mirrored) for pixels_CHW in drawn)
    assert sum(close(pixels_CHW, upright) for pixels_CHW in drawn) == 60 - flips
    assert 15 < flips < 45


def test_views_differ_by_seed_and_recur_with_it() -> None:
    for name in TRAIN_VIEWS.keys() - {"eval"}:
        view_ = train_view(name, size_px=32, mean=MEAN, std=STD)
        first, again, other = (seeded(view_, picture(64, 64), seed=seed) for seed in (7, 7, 8))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_seeded_view_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    seeded(train_view("release", size_px=32, mean=MEAN, std=STD), picture(40, 40), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown train view 'zoom'; choose from eval, crop, crop_flip"):
        train_view("zoom", size_px=32, mean=MEAN, std=STD)


def test_drawn_seeds_are_far_apart_and_fit_the_generator() -> None:
    seeds = {draw_seed(*parts) for parts in ((0,), (1,), (0, 0), (0, 1), (1, 0), (11,), (1, 1), (0, 0, 0))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(1, 2) == draw_seed(1, 2)


# ---------------------------------------------------------------------------------------------------------
# Decoding


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(image: Image.Image, format: str = "PNG", **options: Any) -> NDArray[np.uint8]:
    result = to_rgb(decode_image(encoded(image, format, **options)))
    assert result.mode == "RGB"
    return np.asarray(result)


def test_transparent_images_are_shown_on_white_and_hidden_pixels_tell_nothing() -> None:
    opaque, alpha = noise(8, 6), np.full((6, 8), 255, dtype=np.uint8)
    assert np.array_equal(decoded(Image.fromarray(np.dstack([opaque, alpha]), "RGBA")), opaque)
    alpha[:3] = 0
    image = Image.fromarray(np.dstack([opaque, alpha]), "RGBA")
    expected = opaque.copy()
    expected[:3] = 255
    for format in ("PNG", "TIFF"):
        assert np.array_equal(decoded(image, format), expected)
    assert np.array_equal(np.asarray(to_rgb(image, conversion="pillow")), opaque)
    assert transparency(decode_image(encoded(image))) == 0.5
    assert transparency(Image.fromarray(opaque)) == 0
    half = Image.new("LA", (4, 4), (0, 51))  # black at an opacity of a fifth
    assert set(decoded(half).ravel().tolist()) == {204}


def test_transparent_colour_of_a_palette_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        assert decoded(image, format, transparency=0)[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(format: str, orientation: int) -> None:
    upright = picture(4, 3).resize((40, 30))
    stored = upright.transpose(_STORED[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 100} if format in ("JPEG", "WEBP") else {}
    image = decode_image(encoded(stored, format, exif=exif, **options))
    found = to_rgb(image)
    assert found.size == upright.size
    difference = np.asarray(found).astype(int) - np.asarray(upright)
    assert np.abs(difference).mean() < 6  # by lossy formats
    assert to_rgb(found).tobytes() == found.tobytes()  # once, however often it is asked for
    if format != "TIFF":  # which Pillow turns itself
        assert to_rgb(image, conversion="pillow").size == stored.size


# How an image is stored that a viewer turns upright for an orientation.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def test_damaged_metadata_is_ignored() -> None:
    content = encoded(picture(40, 30), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert to_rgb(decode_image(content)).size == (40, 30)


def test_damage_that_shows_in_conversion_alone_is_refused() -> None:
    image = decode_image(with_damaged_palette())
    for convert in (to_rgb, transparency):
        with pytest.raises(UnreadableImage, match="damaged image: palette index out of range"):
            convert(image)


def test_floating_point_levels_are_scaled_or_refused() -> None:
    levels = np.array([[0, 0.25, 1]], dtype=np.float32)
    assert decoded(Image.fromarray(levels), "TIFF")[0, :, 0].tolist() == [0, 64, 255]
    for wrong in (levels * 255, levels - 0.5, levels * np.float32(np.nan)):
        with pytest.raises(UnreadableImage, match=r"floating-point levels .* expected 0 \(black\) to 1 \(white\)"):
            decode_image(encoded(Image.fromarray(wrong), "TIFF"))
    with pytest.raises(UnreadableImage, match="32-bit whole numbers"):
        decode_image(encoded(Image.fromarray(np.array([[0, 65535]], dtype=np.int32)), "TIFF"))
    assert decoded(GREY16, "PPM")[0, :, 0].tolist() == [0, 0, 0, 1, 3, 0x80, 0xFF]


def test_formats_are_told_by_their_first_bytes() -> None:
    known = {
        "JPEG": "JPEG",
        "PNG": "PNG",
        "GIF": "GIF",
        "WEBP": "WEBP",
        "BMP": "BMP",
        "TIFF": "TIFF",
        "PPM": "PPM",
    }
    for format, name in known.items():
        assert image_format(encoded(picture(8, 8), format)[:32]) == name
    assert image_format(b"\0\0\0\x18ftypheic" + bytes(20)) == "HEIC"
    for start in (b"", b"Pytest", b"P5", b"%!PS-Adobe-3.0 EPSF", b"PK\3\4", b"<svg xmlns", b"\0" * 32):
        assert image_format(start) == ""


def test_formats_that_start_programs_are_not_read() -> None:
    with pytest.raises(UnreadableImage, match="not an image, or of a format that is not read"):
        decode_image(encoded(picture(8, 8), "EPS"))


@pytest.mark.parametrize(
    ("content", "package"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(99), "pillow-heif"),
        (b"\xff\x0a" + bytes(99), "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "pillow-jxl-plugin"),
    ],
)
def test_formats_of_other_packages_are_named(
    content: bytes, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnreadableImage, match=f"which needs the package {package}: pip install {package}"):
        decode_image(content)


def test_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    expected = np.array([[[10, 20, 30], [200, 100, 50]]])
    assert np.array_equal(decoded(image), expected)
    assert np.array_equal(decoded(image, "GIF"), expected)


def test_grey_is_repeated() -> None:
    grey = noise(8, 6)[..., 0].copy()
    assert np.array_equal(decoded(Image.fromarray(grey)), np.dstack([grey] * 3))
    assert np.array_equal(decoded(Image.fromarray(grey > 99)), np.dstack([(grey > 99) * np.uint8(255)] * 3))


GREY16 = Image.fromarray(np.array([[0, 100, 255, 256, 1000, 0x8000, 0xFFFF]], dtype=np.uint16))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped_to_white(format: str) -> None:
    assert decoded(GREY16, format)[0, :, 0].tolist() == [0, 0, 0, 1, 3, 0x80, 0xFF]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_clipped_as_by_pillow_if_wanted(format: str) -> None:
    content = encoded(GREY16, format)
    clipped = to_rgb(decode_image(content), conversion="pillow")
    with Image.open(io.BytesIO(content)) as image:
        assert clipped.tobytes() == image.convert("RGB").tobytes()
    assert np.asarray(clipped)[0, :, 0].tolist() == [0, 100, 255, 255, 255, 255, 255]


@pytest.mark.parametrize(("conversion", "level"), [("shown", 0x40), ("pillow", 0xFF)])
def test_evaluation_view_treats_16_bit_grey_as_told(conversion: str, level: int) -> None:
    image = Image.fromarray(np.full((40, 40), 0x4000, dtype=np.uint16))
    expected = normalised(np.full((32, 32, 3), level, dtype=np.uint8))
    assert close(view(conversion=conversion)(image), expected)


def test_most_images_are_the_same_however_they_are_converted() -> None:
    for mode in ("RGB", "L", "RGBA", "P", "1"):
        image = picture(40, 36).convert(mode)
        assert torch.equal(view(conversion="shown")(image), view(conversion="pillow")(image))


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = decoded(image, "JPEG", quality=100)[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_usual_formats_are_read_and_their_truncation_is_told(format: str) -> None:
    whole = encoded(picture(64, 48), format)
    assert decode_image(whole).size == (64, 48)
    with pytest.raises(UnreadableImage):
        decode_image(whole[: len(whole) // 2])


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"save_all": True, "append_images": frames[1:]}
    assert decoded(frames[0], "GIF", **options)[0, 0].tolist() == [255, 0, 0]
    assert decode_image(encoded(frames[0], "GIF", **options)).info[SEVERAL_FRAMES]
    assert not decode_image(encoded(frames[0], "GIF")).info[SEVERAL_FRAMES]


@pytest.mark.parametrize(
    "content", [b"", b"no image, but a text named .png", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_what_is_no_image(content: bytes) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(content)
    assert len(str(caught.value).splitlines()) == 1


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture(20, 11))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 110)
    assert decode_image(content).size == (20, 11)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 109)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode_image(content)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF"])
def test_no_damage_gets_past_as_another_error(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    whole, generator = encoded(picture(24, 24), format), np.random.default_rng(0)
    refused = 0
    for _ in range(80):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(damaged), 12):
            damaged[place] = generator.integers(0, 256)
        try:
            assert to_rgb(decode_image(bytes(damaged))).mode == "RGB"
        except UnreadableImage:
            refused += 1
    assert refused
