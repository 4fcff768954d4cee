"""The page that judges images in a browser: its pixels are those of Pillow, and its verdicts those of gapl."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

import export
import inference
from gapl.decode import decode_image, to_rgb, transparency
from gapl.files.cache import cache_dir
from gapl.int8 import Int8Weight
from gapl.pixels import PixelSpec
from gapl.views import crops
from models import site, web
from models.weights.checkpoint import load_checkpoint
from tests.test_gapl import LORA, make_detector
from tests.test_several_views import ALL, PIXEL, config_with
from timing.browser import judge, open_page, serving

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli

SPEC = PixelSpec(small_image="resize", views=("centre", "quarters", "reduced", "whole"))


# ---------------------------------------------------------------------------------------------------------
# In Python


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(config_with(ALL), lora=LORA, pixel=replace(PIXEL, views=ALL, small_image="resize"))
    return make_detector(tmp_path_factory.mktemp("detector") / "detector.safetensors", config)


@pytest.fixture(scope="module")
def graphs() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return web._graphs(config_with(ALL))


@pytest.fixture(scope="module")
def folder(detector_file: Path, graphs: Any, tmp_path_factory: pytest.TempPathFactory, run_cli: RunCli) -> Path:
    """The page with a detector on the random tower; without onnxruntime-web where that was never downloaded."""
    out = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "_graphs", lambda _config: graphs)  # which do not depend on LoRA and pixels
        if not has_runtime():
            for name in site.RUNTIME:
                (tmp_path_factory.getbasetemp() / name).write_text(name)
            patch.setattr(site, "fetch_runtime", lambda _folder: tmp_path_factory.getbasetemp())
        given = ["--format", "web", "--model_path", detector_file, "--out", out, "--allow-tiny"]
        done = run_cli(export.main, *given)
    assert f"{out}: P(fake) differs from that of torch by at most" in done.out
    return out


def has_runtime() -> bool:
    kept = site.kept_runtime(cache_dir())
    return all((kept / name).is_file() for name in site.RUNTIME)


def test_a_detector_with_one_view_works(tmp_path: Path) -> None:
    config = replace(config_with(("centre",)), lora=LORA)
    file = make_detector(tmp_path / "detector.safetensors", config, calibrated=False)
    checkpoint = load_checkpoint(file, merge=False, allow_tiny=True)
    image = Image.effect_noise((90, 70), 80)
    assert web.save_web(tmp_path / "model", checkpoint, images=[image]) < 1e-5
    described = json.loads((tmp_path / "model" / web.DETECTOR).read_text())
    assert described["num_views"] == checkpoint.config.pixel.num_views
    assert (described["scale"], described["offset"]) == (1, 0)


def test_another_score_than_that_of_torch_is_not_written(
    detector_file: Path, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_graphs", lambda _config: graphs)
    monkeypatch.setattr(web, "_engine", lambda *_: lambda _pixels: 9.0)
    checkpoint = load_checkpoint(detector_file, merge=False, allow_tiny=True)
    with pytest.raises(ValueError, match=r"not written; its P\(fake\) differs"):
        web.save_web(tmp_path / "model", checkpoint, images=[])
    assert list((tmp_path / "model").iterdir()) == []


def test_weights_of_the_int8_tower_stay_int8(detector_file: Path, graphs: Any) -> None:
    checkpoint = load_checkpoint(detector_file, merge=False, allow_tiny=True)
    state = checkpoint.detector.state_dict()
    name = "tower.encoder.layers.0.mlp.fc1.weight"
    quantised_IO = np.random.default_rng(0).integers(-128, 128, state[name].T.shape, dtype=np.int8)
    scale_O = np.linspace(0.001, 0.002, quantised_IO.shape[1], dtype=np.float32)
    kept = Int8Weight(quantised_IO, scale_O, np.arange(quantised_IO.shape[1]).astype(np.int8))
    state[name] = torch.from_numpy(np.ascontiguousarray(kept.dequantise().T))
    other = name.replace("fc1", "out_proj").replace("mlp", "self_attn")
    model = web.web_weights(graphs[0], state, lora=LORA, weights={name: kept, other: kept})
    types = {each.name: each.data_type for each in model.graph.initializer}
    assert types[f"{name}.int8"] == onnx.TensorProto.INT8
    assert f"{name}.T" not in types
    assert types[f"{other}.T"] == onnx.TensorProto.FLOAT  # that of the detector is another
    onnx.checker.check_model(model)
    session = onnx.reference.ReferenceEvaluator(model)
    pixels = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
    classes_LD, _ = session.run(None, {web.PIXELS: pixels})
    checkpoint.detector.load_state_dict(state)
    with torch.inference_mode():
        expected_LD, _ = web._View(checkpoint.detector)(torch.from_numpy(pixels))
    assert np.abs(classes_LD - expected_LD.numpy()).max() < 1e-4


def test_views_that_the_page_cannot_make_are_refused(detector_file: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(detector_file, merge=False, allow_tiny=True)
    pixel = replace(checkpoint.config.pixel, interpolation="nearest")
    checkpoint.config = replace(checkpoint.config, pixel=pixel)
    with pytest.raises(ValueError, match=r"bicubic or bilinear .* wants nearest"):
        web.save_web(tmp_path, checkpoint, images=[])


def test_the_service_worker_keeps_every_file(folder: Path) -> None:
    listed = (folder / site.FILES).read_text()
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert "model/view.onnx" in found
    assert [name for name in found if f'"{name}"' not in listed] == []


def test_other_files_are_kept_under_another_name(tmp_path: Path) -> None:
    for name in ("page", "site/model", "site/onnxruntime"):
        (tmp_path / name).mkdir(parents=True)
    names = []
    for content in ("one", "other", "one"):
        (tmp_path / "site" / "model" / web.VIEW).write_text(content)
        site.list_files(tmp_path / "site", page=tmp_path / "page")
        names.append((tmp_path / "site" / site.FILES).read_text().splitlines()[0])
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("name", ["index.html", "style.css", site.FILES])
def test_another_web_site_is_not_replaced(
    detector_file: Path, folder: Path, tmp_path: Path, run_cli: RunCli, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    given = ["--format", "web", "--model_path", detector_file, "--out", tmp_path, "--allow-tiny"]
    message = f"{tmp_path / name} is there already, and not of this page; name another folder"
    assert message in run_cli(export.main, *given).only_error()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    site.check_folder(folder, page=export.PAGE)  # ours may be


def test_another_runtime_than_the_pinned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "package.tgz"
    for name in site.RUNTIME:
        (tmp_path / "package" / "dist").mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / "dist" / name).write_text("another")
    shutil.make_archive(str(tmp_path / "package"), "gztar", tmp_path, "package")
    monkeypatch.setattr(site, "npm_pack", lambda *_, **__: archive.with_suffix(".tar.gz"))
    with pytest.raises(ValueError, match=r"npm brought a file .* not used"):
        site.fetch_runtime(tmp_path / "cache")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ValueError, match="needs npm"):
        site.fetch_runtime(tmp_path / "cache")


# ---------------------------------------------------------------------------------------------------------
# In a browser: pixels


Decode = Callable[..., list[np.ndarray]]
SCRIPT = """async ([encoded, pixel]) => {
    const { decode } = await import("/decode.js");
    const { crops } = await import("/views.js");
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    const image = await decode(bytes);
    const seen = pixel ? [...crops(image, pixel)].map((each) => each.image) : [image];
    const text = (array) => {
        let all = "";
        for (let i = 0; i < array.length; i += 4096) all += String.fromCharCode(...array.subarray(i, i + 4096));
        return btoa(all);
    };
    return seen.map(({ width, height, rgb }) => [width, height, text(rgb)]);
}"""


@pytest.fixture(scope="module")
def decode(browser: Any) -> Iterator[Decode]:
    """`decode(encoded, pixel=None)` returns the pixels that the page makes of a file, or its views, as arrays."""
    view = browser.new_page()

    def run(encoded: bytes, pixel: PixelSpec | None = None) -> list[np.ndarray]:
        spec = pixel and json.loads(json.dumps(vars(pixel)))
        found = view.evaluate(SCRIPT, [base64.b64encode(encoded).decode(), spec])
        return [
            np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 3)
            for width, height, text in found
        ]

    with serving(export.PAGE) as address:
        view.goto(f"{address}licences.txt")  # a page without a script
        yield run
    view.close()


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(mode: str, *, size: tuple[int, int] = (61, 43), seed: int = 0) -> Image.Image:
    """Return smooth colours under noise, of any mode."""
    width, height = size
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    pixels = (ramp + rng.integers(0, 56, (height, width, 4))).astype(np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    return image if mode == "RGBA" else image.convert(mode)


def interlaced(image: Image.Image) -> bytes:
    """Return an interlaced PNG, which Pillow reads but does not write."""
    pixels = np.asarray(image)
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [row for x, y, dx, dy in starts for row in pixels[y::dy, x::dx] if row.size]
    return png(rows, size=image.size, depth=8, colour=2, interlaced=True)


def png(
    rows: Iterable[np.ndarray], *, size: tuple[int, int], depth: int, colour: int, interlaced: bool = False
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def grey16() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 65536, (20, 30), dtype=np.uint16))


def rgba16() -> bytes:
    """Return a PNG of 16 bits with transparency, which Pillow reads but does not write."""
    levels = np.random.default_rng(3).integers(0, 65536, (20, 30, 4)).astype(">u2")
    return png(levels, size=(30, 20), depth=16, colour=6)


def with_chunk(encoded: bytes, name: bytes, body: bytes) -> bytes:
    """Return a PNG with one chunk more, after its header."""
    return encoded[:33] + chunk(name, body) + encoded[33:]


def turned(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def swapped() -> bytes:
    """Return a colour profile in which red and blue are exchanged: whoever applies it sees other colours."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")


FILES = {
    "png": lambda: encode(noise("RGB"), "PNG"),
    "png rgba": lambda: encode(noise("RGBA"), "PNG", exif=turned()),
    "png grey alpha": lambda: encode(noise("LA"), "PNG"),
    "png grey": lambda: encode(noise("L"), "PNG"),
    "png palette": lambda: encode(noise("RGB").quantize(13), "PNG", transparency=3),
    "png transparent colour": lambda: encode(noise("RGB"), "PNG", transparency=noise("RGB").getpixel((3, 4))),
    "png bits": lambda: encode(noise("1"), "PNG"),
    "png 16 bits": lambda: encode(grey16(), "PNG"),
    "png 16 bits rgba": rgba16,
    "png gamma": lambda: with_chunk(encode(noise("RGB"), "PNG"), b"gAMA", struct.pack(">I", 100000)),
    "png code points": lambda: with_chunk(encode(noise("RGB"), "PNG"), b"cICP", bytes((9, 16, 0, 1))),
    "png interlaced": lambda: interlaced(noise("RGB")),
    "png tiny interlaced": lambda: interlaced(noise("RGB", size=(3, 2))),
    "bmp": lambda: encode(noise("RGB"), "BMP"),
    "gif": lambda: encode(noise("RGB").quantize(40), "GIF", transparency=3),
    "webp": lambda: encode(noise("RGB"), "WEBP", quality=80),
    "webp rgba": lambda: encode(noise("RGBA"), "WEBP", quality=80),
    "webp lossless": lambda: encode(noise("RGB"), "WEBP", lossless=True),
    "jpeg": lambda: encode(noise("RGB"), "JPEG", quality=90),
    "jpeg tall": lambda: encode(noise("RGB", size=(300, 700)), "JPEG", quality=75, progressive=True),
    "jpeg grey": lambda: encode(noise("L"), "JPEG"),
    "jpeg cmyk": lambda: encode(noise("CMYK"), "JPEG"),
    "jpeg profile": lambda: encode(noise("RGB"), "JPEG", icc_profile=swapped()),
    "png profile": lambda: encode(noise("RGB"), "PNG", icc_profile=swapped()),
    "webp profile": lambda: encode(noise("RGB"), "WEBP", icc_profile=swapped()),
    "avif": lambda: encode(noise("RGB"), "AVIF", exif=turned()),
    "avif rgba": lambda: encode(noise("RGBA"), "AVIF"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow(name: str, decode: Decode) -> None:
    encoded = FILES[name]()
    image = decode_image(encoded)
    expected = np.asarray(to_rgb(image)).astype(int)
    (found,) = decode(encoded)
    assert found.shape == expected.shape
    allowed = (
        16 if name == "avif rgba" else int(transparency(image) > 0)
    )  # Chromium 156 takes its alpha of 16 for 0
    assert np.abs(found - expected).max() <= allowed


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_is_upright(orientation: int, decode: Decode) -> None:
    encoded = encode(noise("RGB"), "JPEG", exif=turned(orientation))
    (found,) = decode(encoded)
    assert np.array_equal(found, np.asarray(to_rgb(decode_image(encoded))))


@pytest.mark.parametrize(
    "size", [(700, 450), (450, 701), (224, 224), (100, 61), (1030, 1027), (2051, 2049), (3, 450), (1, 1)]
)
def test_views_are_those_of_gapl(size: tuple[int, int], decode: Decode) -> None:
    image = noise("RGB", size=size)
    expected = [np.asarray(crop) for crop in crops(image, SPEC)]
    found = decode(encode(image, "PNG", compress_level=1), SPEC)
    assert len(found) == len(expected) == 7
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("spec", [PixelSpec(), PixelSpec(resize_px=240, interpolation="bilinear")])
@pytest.mark.parametrize("size", [(300, 260), (100, 261)])
def test_a_single_crop_is_that_of_gapl(spec: PixelSpec, size: tuple[int, int], decode: Decode) -> None:
    image = noise("RGB", size=size)
    (expected,) = (np.asarray(crop) for crop in crops(image, spec))
    (found,) = decode(encode(image, "PNG"), spec)
    assert np.array_equal(found, expected)


WRONG = {
    "empty": (b"", "not an image"),
    "text": (b"a letter", "not an image"),
    "tiff": (
        encode(noise("RGB"), "TIFF"),
        "not an image, damaged, or of a format that this browser does not know",
    ),
    "png cut": (encode(noise("RGB"), "PNG")[:3000], "not an image, damaged"),
    "png head": (encode(noise("RGB"), "PNG")[:20], "not an image, damaged"),
    "png size": (encode(noise("RGB"), "PNG").replace(b"\0\0\0\x3d", b"\x7f\0\0\0", 1), "not an image, damaged"),
    "gif cut": (encode(noise("L"), "GIF")[:2000], "not an image, damaged"),
    "webp cut": (encode(noise("RGB"), "WEBP")[:-20], "not an image, damaged"),
    "avif cut": (encode(noise("RGB"), "AVIF")[:-20], "not an image, damaged"),
    "jpeg cut": (encode(noise("RGB"), "JPEG")[:-200], "damaged image: the JPEG ends too early"),
    "jpeg head": (encode(noise("RGB"), "JPEG")[:30], "damaged image: the JPEG ends too early"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gives_one_clear_line(name: str, decode: Decode) -> None:
    encoded, expected = WRONG[name]
    with pytest.raises(Exception, match=f"Error: {expected}"):
        decode(encoded)


# ---------------------------------------------------------------------------------------------------------
# In a browser: the page


def check_runtime() -> None:
    if not has_runtime():
        pytest.skip(f"{site.PACKAGE} is not in the cache; `python export.py --format web` downloads it")


@pytest.fixture(scope="module")
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, opened, and in `page.complaints` and `page.requests` what happened."""
    check_runtime()
    view = browser.new_page(viewport={"width": 360, "height": 740})
    view.complaints, view.requests = [], []
    view.on("console", lambda message: view.complaints.append(message.text))
    view.on("pageerror", lambda error: view.complaints.append(str(error)))
    view.on("request", lambda request: view.requests.append(request.url))
    with serving(folder) as address:
        view.goto(address)
        view.wait_for_selector("body[data-threads]")
        view.address = address
        yield view
    view.close()


@pytest.mark.parametrize("size", [(90, 70), (20, 31)])
def test_verdicts_are_those_of_the_detector(
    size: tuple[int, int], page: Any, detector_file: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "image.png", size=size)
    expected = inference.Detector.load(detector_file, device="cpu", engine="torch", allow_tiny=True)(image)
    shown = judge(page, str(image))
    assert shown.score == pytest.approx(expected.score, abs=1e-4)
    assert (shown.label, shown.warnings, shown.error) == (expected.label, expected.warnings, "")
    assert len(expected.warnings) == 1 + (min(size) < 32)
    assert f"Confidence {100 * expected.confidence:.1f}%" in page.text_content("#status")


def animated(format: str, *, count: int = 2) -> bytes:
    first, *others = (noise("RGB", seed=seed) for seed in range(count))
    return encode(first, format, save_all=True, append_images=others)


def near_white(levels: int) -> Image.Image:
    """Return an image whose levels are noise from white downwards."""
    noise = np.random.default_rng(0).integers(0, levels, (70, 90, 3))
    return Image.fromarray((255 - noise).astype(np.uint8))


WARNS = ("transparent", "gif", "png", "webp", "avif", "plain", "nearly plain")
WARNED = {
    "transparent": lambda: encode(noise("RGBA"), "PNG"),
    "opaque": lambda: encode(noise("RGB"), "PNG"),
    "gif": lambda: animated("GIF"),
    "gif of one frame": lambda: encode(noise("L"), "GIF", comment=b"a comment"),
    "png": lambda: animated("PNG"),
    "webp": lambda: animated("WEBP"),
    "webp of one frame": lambda: animated("WEBP", count=1),
    "avif": lambda: animated("AVIF"),
    "avif of one frame": lambda: encode(noise("RGB"), "AVIF"),
    "plain": lambda: encode(Image.new("RGB", (90, 70), "white"), "PNG"),
    "nearly plain": lambda: encode(near_white(5), "PNG"),
    "not plain": lambda: encode(near_white(15), "PNG"),
}


@pytest.mark.parametrize("name", WARNED)
def test_warnings_are_those_of_the_detector(name: str, page: Any, detector_file: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(WARNED[name]())
    expected = inference.Detector.load(detector_file, device="cpu", engine="torch", allow_tiny=True)(
        tmp_path / "image"
    )
    shown = judge(page, str(tmp_path / "image"))
    assert (shown.label, shown.warnings, shown.error) == (expected.label, expected.warnings, "")
    assert len(expected.warnings) == 1 + (name in WARNS)


def test_nothing_leaves_the_page(page: Any, make_image: MakeImage, tmp_path: Path) -> None:
    judge(page, str(make_image(tmp_path / "image.png")))
    assert page.complaints == []
    assert {url for url in page.requests if not url.startswith((page.address, f"blob:{page.address}"))} == set()
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert "Content Security Policy" in page.complaints[0]
    page.complaints.clear()


def test_the_page_may_use_threads(page: Any) -> None:
    assert page.evaluate("crossOriginIsolated")
    assert page.get_attribute("body", "data-threads") == str(
        min(8, page.evaluate("navigator.hardwareConcurrency"))
    )


def test_a_wrong_file_is_told_and_the_next_image_judged(page: Any, make_image: MakeImage, tmp_path: Path) -> None:
    told = judge(page, {"name": "letter.txt", "mimeType": "text/plain", "buffer": b"a letter"})
    assert told.error.startswith("This file was not judged: not an image")
    assert judge(page, str(make_image(tmp_path / "image.png"))).error == ""


def test_a_newer_image_ends_the_work_on_the_older(page: Any) -> None:
    encoded = base64.b64encode(encode(noise("RGB", size=(1500, 1400)), "JPEG")).decode()
    judged = page.evaluate(
        """async (encoded) => {
            const file = new Blob([Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))]);
            const worker = new Worker("worker.js", { type: "module" });
            const judged = [];
            await new Promise((resolve) => {
                worker.onmessage = ({ data: { type, number, done } }) => {
                    if (type === "ready") worker.postMessage({ number: 1, file });
                    if (type === "progress" && number === 1 && done === 0) worker.postMessage({ number: 2, file });
                    if (type === "verdict") judged.push(number);
                    if (judged.includes(2)) resolve();
                };
            });
            worker.terminate();
            return judged;
        }""",
        encoded,
    )
    assert judged == [2]


def test_an_empty_clipboard_hides_no_progress_and_stays_beside_no_verdict(page: Any) -> None:
    encoded = base64.b64encode(encode(noise("RGB"), "PNG")).decode()
    told, is_hidden = page.evaluate(
        """(encoded) => {
            const given = new DataTransfer();
            given.items.add(new File([Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))], "pasted.png"));
            for (const clipboardData of [given, new DataTransfer()]) {
                document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
            }
            return [document.querySelector("#error").textContent, document.querySelector("#progress").hidden];
        }""",
        encoded,
    )
    assert (told, is_hidden) == ("There is no image in the clipboard.", False)
    page.wait_for_selector("#verdict:not([hidden])")
    assert page.text_content("#error") == ""


def test_it_is_narrow(page: Any, make_image: MakeImage, tmp_path: Path) -> None:
    judge(page, str(make_image(tmp_path / "image.png", size=(20, 900))))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") is True


def test_it_works_by_keyboard(browser: Any, page: Any) -> None:
    view = open_page(browser, page.address)
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.id") == "file"
    assert view.evaluate("getComputedStyle(document.querySelector('#drop')).outlineStyle") == "solid"
    view.evaluate("""document.querySelector("#file").addEventListener("click", (event) => {
        event.preventDefault(); // instead of the dialog
        document.body.dataset.asked = "yes";
    })""")
    view.keyboard.press("Enter")
    view.wait_for_selector("body[data-asked]")
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.getAttribute('href')") == "licences.txt"
    view.close()


def test_a_pasted_image_is_judged(page: Any, make_image: MakeImage, tmp_path: Path) -> None:
    encoded = base64.b64encode(make_image(tmp_path / "image.png", size=(50, 50)).read_bytes()).decode()
    page.evaluate(
        """(encoded) => {
            const files = new DataTransfer();
            files.items.add(new File([Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))], "pasted.png"));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files }));
        }""",
        encoded,
    )
    page.wait_for_selector("#verdict:not([hidden])")
    assert page.get_attribute("#preview", "alt") == "Your image, pasted.png"


def test_it_works_without_a_network(browser: Any, folder: Path, make_image: MakeImage, tmp_path: Path) -> None:
    check_runtime()
    with serving(folder) as address:
        view = open_page(browser, address)
        shown = judge(view, str(make_image(tmp_path / "image.png")))
    view.reload()  # the server is gone
    view.wait_for_selector("body[data-threads]")
    assert judge(view, str(tmp_path / "image.png")).score == pytest.approx(shown.score, abs=1e-6)
    view.close()


def test_without_a_service_worker_it_works_with_one_thread(
    browser: Any, folder: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    check_runtime()
    context = browser.new_context(service_workers="block")
    with serving(folder) as address:
        view = open_page(context, address)
        assert view.get_attribute("body", "data-threads") == "1"
        assert judge(view, str(make_image(tmp_path / "image.png"))).error == ""
    context.close()


def test_files_of_two_versions_are_not_mixed(
    browser: Any, folder: Path, make_image: MakeImage, tmp_path: Path
) -> None:
    check_runtime()
    changing = Path(shutil.copytree(folder, tmp_path / "site"))
    image = str(make_image(tmp_path / "image.png"))
    context = browser.new_context(service_workers="block")  # which keeps small files, too
    scores = []
    with serving(changing) as address:
        for hours, change in enumerate((None, change_model, list_anew)):
            if change:
                change(changing)
            date(changing, hours=hours)
            view = open_page(context, address)
            scores.append(judge(view, image).score)
            view.close()
    context.close()
    older, between, newer = (math.log(score / (1 - score)) for score in scores)
    scale = json.loads((changing / "model" / web.DETECTOR).read_text())["scale"]
    assert between == pytest.approx(older, abs=1e-3)
    assert newer == pytest.approx(older + 1 - 2 * scale, abs=1e-3)


def change_model(changing: Path) -> None:
    """Add 1 to the calibrated logit, and take 2 from the logit itself."""
    described = json.loads((changing / "model" / web.DETECTOR).read_text())
    (changing / "model" / web.DETECTOR).write_text(json.dumps(described | {"offset": described["offset"] + 1}))
    verdict = onnx.load(changing / "model" / web.VERDICT)
    (last,) = (each for each in verdict.graph.node if web.LOGIT in each.output)
    last.output[0] = "before"
    verdict.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float32), "two"))
    verdict.graph.node.append(onnx.helper.make_node("Sub", ["before", "two"], [web.LOGIT]))
    onnx.save(verdict, changing / "model" / web.VERDICT)


def list_anew(changing: Path) -> None:
    site.list_files(changing, page=export.PAGE)


def date(changing: Path, *, hours: int) -> None:
    """Date graphs so that a browser takes them out of its own cache for years, and asks for all else."""
    for path in changing.rglob("*"):
        start = 0 if path.suffix == ".onnx" else time.time()
        os.utime(path, (start + 3600 * (hours + 1),) * 2)
