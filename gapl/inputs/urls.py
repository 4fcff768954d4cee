"""Images behind http and https URLs. Only addresses of the public internet are asked, unless a policy allows more.

A name is resolved once, and the connection goes to the address that was checked: a name that has another address a
moment later helps nobody. The certificate must be that of the name.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from gapl.decode import UnreadableImage
from gapl.files.refusal import first_line
from gapl.inputs.input import Input, refused_input

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_PIECE_BYTES = 1 << 16
_HEADERS = {"User-Agent": "gapl", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What Python's is_global lets through, and where no public server is: they stand for IPv4, or are reserved.
_NEVER = tuple(map(ipaddress.ip_network, ("::/96", "64:ff9b:1::/48", "fec0::/10", "5f00::/16", "192.0.0.0/24")))


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet, and so is the IPv4 address that it stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return False
        teredo = address.teredo[1] if address.teredo else None
        nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        if inner := address.ipv4_mapped or address.sixtofour or teredo or nat64:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not any(address in each for each in _NEVER)


@dataclass(frozen=True)
class UrlPolicy:
    """Which addresses may be asked for an image, and for how much.

    allows     whether an address may be asked
    max_bytes  of an image
    seconds    for an image, with all redirects
    redirects  that are followed
    """

    allows: Callable[[Address], bool] = is_public
    max_bytes: int = 100 << 20
    seconds: float = 30
    redirects: int = 5


def url_input(url: str, policy: UrlPolicy | None) -> Input | None:
    """Return the input that is a URL, or None when the text is none. Nothing is asked before it is read.

    policy  None: URLs are not read
    """
    scheme, found, _ = url.partition("://")
    if not found or not scheme.isalnum() or not scheme.isascii():
        return None
    if scheme.lower() not in _PORTS:
        return refused_input(url, f"{scheme} URLs are not read; http and https are")
    if policy is None:
        return refused_input(url, "URLs are read only with --allow-urls")
    return Input(url, partial(fetch, url, policy))


def fetch(url: str, policy: UrlPolicy) -> bytes:
    """Return what is behind a URL. Raises UnreadableImage, one line, when it is refused or cannot be had."""
    deadline = time.monotonic() + policy.seconds
    for _ in range(policy.redirects + 1):
        try:
            content, moved = _ask(url, policy, deadline)
        except UnreadableImage:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                raise UnreadableImage(_too_slow(policy)) from error
            raise UnreadableImage(f"cannot be fetched: {first_line(error)}") from error
        if not moved:
            return content
        url = moved
    raise UnreadableImage(f"more than {policy.redirects} redirects")


def _too_slow(policy: UrlPolicy) -> str:
    return f"not fetched within {policy.seconds:g} s"


def _ask(url: str, policy: UrlPolicy, deadline: float) -> tuple[bytes, str]:
    """Return the content behind a URL, or the URL to which it has moved."""
    parts = urlsplit(url)
    connection = _connect(parts, policy, deadline)
    # The limits of a socket are for each of its answers, of which a slow server sends many.
    alarm = threading.Timer(deadline - time.monotonic(), connection.abort)
    alarm.start()
    try:
        connection.connect()
        query = f"?{parts.query}" if parts.query else ""
        connection.request(
            "GET", quote(f"{parts.path or '/'}{query}", safe="/%?&=:;,+~!$'()*@[]|"), headers=_HEADERS
        )
        answer = connection.getresponse()
        if answer.status in _REDIRECTS and (place := answer.headers.get("Location")):
            return b"", urljoin(url, place)
        content = _read(answer, policy)
    finally:
        alarm.cancel()
        connection.close()
    if time.monotonic() >= deadline:  # the alarm may have cut it off
        raise UnreadableImage(_too_slow(policy))
    return content, ""


def _read(answer: http.client.HTTPResponse, policy: UrlPolicy) -> bytes:
    if answer.status != http.HTTPStatus.OK:
        raise UnreadableImage(f"the server says {answer.status} {answer.reason}")
    if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise UnreadableImage(f"the server packs it ({encoding}), which it was asked not to")
    too_large = f"larger than {policy.max_bytes / 2**20:g} MiB"
    if (answer.length or 0) > policy.max_bytes:
        raise UnreadableImage(too_large)
    content = bytearray()
    while piece := answer.read(_PIECE_BYTES):
        content += piece
        if len(content) > policy.max_bytes:
            raise UnreadableImage(too_large)
    if answer.length:
        raise UnreadableImage(f"broke off after {len(content)} bytes")
    return bytes(content)


class _Connection(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked, for a host whose certificate it must show."""

    def __init__(self, host: str, port: int, *, addresses: list[Address], is_tls: bool, deadline: float) -> None:
        self.default_port = _PORTS["https" if is_tls else "http"]
        super().__init__(host, port, timeout=max(0.001, deadline - time.monotonic()))
        self._addresses, self._is_tls, self._deadline = addresses, is_tls, deadline
        self._opened: socket.socket | None = None  # to the end: `sock` is given away with the answer

    def connect(self) -> None:
        """Connect to the first address that answers, and with TLS to the host."""
        sock = self._dial()
        if self._is_tls:
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self._opened = sock
        if time.monotonic() >= self._deadline:  # too late for abort()
            raise TimeoutError
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()

    def _dial(self) -> socket.socket:
        *others, last = self._addresses
        for number, address in enumerate(others):
            with suppress(OSError):  # such as where the machine has no IPv6; the last one tells
                return self._dial_one(address, share=len(self._addresses) - number)
        return self._dial_one(last, share=1)

    def _dial_one(self, address: Address, *, share: int) -> socket.socket:
        seconds = max(0.001, (self._deadline - time.monotonic()) / share)
        sock = socket.create_connection((str(address), self.port), seconds)
        sock.settimeout(self.timeout)
        return sock

    def abort(self) -> None:
        """End the connection, whatever waits for it."""
        if self._opened:
            with suppress(OSError):  # it has ended by itself
                socket.socket.shutdown(self._opened, socket.SHUT_RDWR)  # that of SSLSocket would go on unencrypted


def _connect(parts: SplitResult, policy: UrlPolicy, deadline: float) -> _Connection:
    """Return the connection for a URL, not opened yet. Raises UnreadableImage where it may not be opened."""
    is_tls = parts.scheme == "https"
    if parts.scheme not in _PORTS:
        raise UnreadableImage(f"it leads to a URL of {parts.scheme or 'no scheme'}; http and https are read")
    if parts.username is not None or parts.password is not None:
        raise UnreadableImage("URLs with a user name or a password are not read")
    if not parts.hostname:
        raise UnreadableImage("a URL without a host")
    port = parts.port or _PORTS[parts.scheme]
    host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
    addresses = _resolve(host, port, policy)
    return _Connection(host, port, addresses=addresses, is_tls=is_tls, deadline=deadline)


def _resolve(host: str, port: int, policy: UrlPolicy) -> list[Address]:
    """Return the addresses of a host. Raises UnreadableImage when any of its addresses may not be asked."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnreadableImage(f"{host} is not found: {error.strerror or first_line(error)}") from error
    addresses = [ipaddress.ip_address(str(sockaddr[0])) for *_, sockaddr in found]
    if refused := [each for each in addresses if not policy.allows(each)]:
        named = host if host == str(refused[0]) else f"{host} is {refused[0]}, which"
        raise UnreadableImage(f"{named} is no address of the public internet")
    return addresses
