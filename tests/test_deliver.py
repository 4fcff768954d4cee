"""A random delivery: every form as often as its weight says, the same for a generator, for any picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.augment import train_view
from data.images.degrade import recompress
from data.images.deliver import RANDOM_FORMS, RandomDelivery, RandomForm, deliver
from gapl.pixels import CLIP_MEAN, CLIP_STD


def picture(width: int = 120, height: int = 90) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def same(first: Image.Image, other: Image.Image) -> bool:
    return (first.size, first.tobytes()) == (other.size, other.tobytes())


def test_the_same_for_a_generator_and_the_input_untouched() -> None:
    image = picture()
    before = image.tobytes()
    results = set()
    for seed in range(40):
        found, again = (deliver(image, np.random.default_rng(seed)) for _ in range(2))
        assert found.mode == "RGB"
        assert same(found, again)
        results.add((found.size, found.tobytes()))
    assert image.tobytes() == before
    assert len(results) > 35


@pytest.mark.parametrize("size", [(1, 1), (10, 10), (2000, 20), (20, 2000)])
@pytest.mark.parametrize("name", RANDOM_FORMS)
def test_each_form_takes_tiny_and_narrow_pictures(name: str, size: tuple[int, int]) -> None:
    found = RANDOM_FORMS[name].change(Image.new("RGB", size, (9, 99, 199)), np.random.default_rng(3))
    assert found.mode == "RGB"
    assert min(found.size) >= 1


@pytest.mark.parametrize("needed", ["freetype2", "webp"])
def test_what_pillow_lacks_is_told_when_the_view_is_made(monkeypatch: pytest.MonkeyPatch, needed: str) -> None:
    monkeypatch.setattr("data.images.degrade.features.check", lambda name: name != needed)
    pixel = {"size_px": 32, "mean": CLIP_MEAN, "std": CLIP_STD}
    with pytest.raises(ValueError, match=f"a random delivery draws .*: this Pillow was built without {needed}"):
        train_view("delivered", **pixel)
    with pytest.raises(ValueError, match=f"this Pillow was built without {needed}"):
        train_view("pairs", **pixel)
    train_view("scales", **pixel)


def test_large_pictures_are_enlarged_no_further() -> None:
    for long_px, least_px, most_px in ((1000, 1200, 2000), (3000, 3600, 4096), (9000, 9000, 9000)):
        for seed in range(5):
            found = RANDOM_FORMS["enlarged"].change(Image.new("RGB", (long_px, 4)), np.random.default_rng(seed))
            assert least_px <= found.width <= most_px


def test_what_webp_cannot_hold_is_shrunk() -> None:
    found = RANDOM_FORMS["webp"].change(Image.new("RGB", (20_000, 4)), np.random.default_rng(0))
    assert found.size == (16383, 3)


def test_forms_are_drawn_by_weight_and_saved_anew_unless_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    saved: list[tuple[str, str]] = []

    def recorder(name: str, form: RandomForm) -> RandomForm:
        def change(image: Image.Image, generator: np.random.Generator) -> Image.Image:
            drawn.append(name)
            return image

        return RandomForm(form.weight, change, form.is_saved)

    def save(image: Image.Image, *, quality: int, format: str) -> Image.Image:
        assert 30 <= quality <= 95
        saved.append((drawn[-1], format))
        return image

    monkeypatch.setattr(
        "data.images.deliver.RANDOM_FORMS", {name: recorder(name, form) for name, form in RANDOM_FORMS.items()}
    )
    monkeypatch.setattr("data.images.deliver.recompress", save)
    generator, image = np.random.default_rng(0), picture(4, 4)
    for _ in range(8600):
        deliver(image, generator)
    total = sum(form.weight for form in RANDOM_FORMS.values())
    for name, form in RANDOM_FORMS.items():
        assert drawn.count(name) / 8600 == pytest.approx(form.weight / total, abs=0.012)
    unsaved = [name for name in drawn if not RANDOM_FORMS[name].is_saved]
    assert {name for name, _ in saved} == set(unsaved)
    assert len(saved) / len(unsaved) == pytest.approx(0.4, abs=0.03)
    assert [format for _, format in saved].count("JPEG") / len(saved) == pytest.approx(0.75, abs=0.03)


def test_saved_forms_lose_something_and_the_codec_is_the_one_named() -> None:
    image = picture()
    found = RANDOM_FORMS["webp"].change(image, np.random.default_rng(5))
    quality = int(np.random.default_rng(5).integers(30, 96))
    assert same(found, recompress(image, quality=quality, format="WEBP"))
    assert not same(RANDOM_FORMS["jpeg"].change(image, np.random.default_rng(5)), found)


def test_the_training_view_is_seeded_by_torch() -> None:
    image_CHW = torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1)
    view = RandomDelivery()
    torch.manual_seed(3)
    first = [view(image_CHW) for _ in range(8)]
    torch.manual_seed(3)
    again = [view(image_CHW) for _ in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({each.shape for each in first}) > 2
    assert all(each.dtype == torch.uint8 and each.shape[0] == 3 for each in first)


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="in mode RGB, not L"):
        deliver(picture().convert("L"), np.random.default_rng(0))
