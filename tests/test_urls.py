"""Images behind URLs: what is fetched, and which addresses, sizes, times and redirects are refused."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gapl.decode import UnreadableImage
from gapl.inputs.scan import Ways, scan_images
from gapl.inputs.urls import UrlPolicy, fetch, is_public

ANY = UrlPolicy(allows=lambda _address: True, seconds=20)
IMAGE = b"the bytes of an image"


@dataclass
class Site:
    """A server of this machine, and what it was asked for."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    hosts: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        self.site.asked.append(self.path)
        self.site.hosts.append(self.headers["Host"])
        name, _, value = self.path.strip("/").partition("/")
        answers: dict[str, Callable[[str], None]] = {
            "to": lambda place: self.answer(302, Location=place.replace("%3A", ":")),
            "loop": lambda _: self.answer(301, Location="/loop"),
            "gone": lambda _: self.answer(404),
            "packed": lambda _: self.answer(200, IMAGE, **{"Content-Encoding": "gzip"}),
            "short": lambda _: self.answer(200, IMAGE, **{"Content-Length": "1000"}),
            "stream": lambda count: self.answer(200, bytes(int(count)), **{"Content-Length": ""}),
            "large": lambda count: self.answer(200, b"", **{"Content-Length": count}),
            "slow": lambda content: self.trickle(content),
        }
        answers.get(name, lambda _: self.answer(200, IMAGE))(value)

    def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def trickle(self, content: str) -> None:
        """Send a byte of a header, or of the content, at a time: each comes soon, and they never end."""
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if content else b"X: "))
            for _ in range(400):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            return

    def log_message(self, format: str, *_arguments: Any) -> None:
        pass


def serving(context: ssl.SSLContext | None = None) -> Iterator[Site]:
    site = Site()
    handler = type("OfSite", (Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        site.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
        yield site
        server.shutdown()


@pytest.fixture
def site() -> Iterator[Site]:
    yield from serving()


def refusal(url: str, policy: UrlPolicy = ANY) -> str:
    with pytest.raises(UnreadableImage) as caught:
        fetch(url, policy)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_image_is_fetched(site: Site) -> None:
    scan = scan_images([f"{site.url}/a b.png?x=1", f"{site.url}/ö"], Ways(urls=ANY))
    assert site.asked == []
    assert [image.read() for image in scan.images] == [IMAGE, IMAGE]
    assert [image.name for image in scan.images] == [f"{site.url}/a b.png?x=1", f"{site.url}/ö"]
    assert site.asked == ["/a%20b.png?x=1", "/%C3%B6"]
    assert fetch(f"{site.url}/to//b.png", ANY) == IMAGE
    assert len(fetch(f"{site.url}/stream/70000", ANY)) == 70000


def test_urls_are_refused_unless_they_are_allowed(site: Site) -> None:
    (image,) = scan_images([f"{site.url}/a.png"]).images
    with pytest.raises(UnreadableImage, match="URLs are read only with --allow-urls"):
        image.read()
    (image,) = scan_images(["ftp://example.org/a.png"], Ways(urls=ANY)).images
    with pytest.raises(UnreadableImage, match="ftp URLs are not read; http and https are"):
        image.read()
    assert site.asked == []


def test_private_addresses_are_not_asked(site: Site) -> None:
    policy = UrlPolicy()
    port = site.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "127.1"):
        assert "is no address of the public internet" in refusal(f"http://{host}:{port}/a.png", policy), host
    assert site.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "::7f00:1",
        "64:ff9b:1::7f00:1",
        "fec0::1",
        "5f00::1",
        "192.0.0.8",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:93.184.215.14"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_each_redirect_is_checked(site: Site) -> None:
    host, port = "127.0.0.1", site.url.rpartition(":")[2]
    first_only = replace(ANY, allows=lambda address: address != ipaddress.ip_address("127.0.0.2"))
    assert "127.0.0.2 is no address of" in refusal(f"{site.url}/to/http://127.0.0.2:{port}/a.png", first_only)
    assert site.asked == [f"/to/http://127.0.0.2:{port}/a.png"]
    assert "a URL of file" in refusal(f"http://{host}:{port}/to/file:///etc/passwd")
    assert refusal(f"{site.url}/loop") == "more than 5 redirects"
    assert site.asked.count("/loop") == 6


def test_the_address_that_was_checked_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that has a private address when it is asked for again gains nothing."""
    resolved: list[str] = []
    getaddrinfo = socket.getaddrinfo

    def rebinding(host: str, *arguments: Any, **keywords: Any) -> Any:
        if host == "images.test":
            resolved.append(host)
            return getaddrinfo("127.0.0.1" if len(resolved) == 1 else "127.0.0.9", *arguments, **keywords)
        return getaddrinfo(host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    policy = replace(ANY, allows=lambda address: str(address) == "127.0.0.1")
    port = site.url.rpartition(":")[2]
    assert fetch(f"http://images.test:{port}/a.png", policy) == IMAGE
    assert resolved == ["images.test"]
    assert site.hosts == [f"images.test:{port}"]
    assert "images.test is 127.0.0.9, which is no address of" in refusal(
        f"http://images.test:{port}/a.png", policy
    )


def test_what_servers_say_is_one_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(ANY, max_bytes=50_000)
    assert refusal(f"{site.url}/gone") == "the server says 404 Not Found"
    assert "packs it (gzip)" in refusal(f"{site.url}/packed")
    assert "broke off" in refusal(f"{site.url}/short")
    assert refusal(f"{site.url}/stream/70000", small).startswith("larger than")
    assert refusal(f"{site.url}/large/70000", small).startswith("larger than")
    assert "user name" in refusal(site.url.replace("//", "//me:secret@"))
    assert "without a host" in refusal("http:///a.png")
    assert "cannot be fetched" in refusal("http://[::1/a.png")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "cannot be fetched: " in refusal(f"http://127.0.0.1:{closed.getsockname()[1]}/a.png")

    def unknown(*_arguments: object, **_keywords: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refusal("http://no.such.test/a.png") == "no.such.test is not found: Name or service not known"


@pytest.mark.parametrize("path", ["slow", "slow/content"])
def test_a_server_that_trickles_is_given_up(path: str, site: Site) -> None:
    started = time.monotonic()
    assert refusal(f"{site.url}/{path}", replace(ANY, seconds=0.4)) == "not fetched within 0.4 s"
    assert time.monotonic() - started < 10


def test_the_certificate_must_be_that_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    made = [*options.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([openssl, *map(str, made)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for site in serving(context):
        url = site.url.replace("127.0.0.1", "localhost")
        assert "certificate verify failed" in refusal(url)  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(url, ANY) == IMAGE
        assert "certificate is not valid for '127.0.0.1'" in refusal(site.url)
