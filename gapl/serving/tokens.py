"""Who may ask: named tokens, of which the service knows no more than their SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

NAME = re.compile(r"[\w.-]{1,40}", re.ASCII)
NOBODY = ""  # the name of whoever asks where there are no tokens


@dataclass(frozen=True)
class Token:
    """What the configuration says of a token.

    sha256               of the token, in hexadecimal digits
    requests_per_minute  that it may make; None: any number
    """

    sha256: str
    requests_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 is 64 hexadecimal digits in small letters")
        if self.requests_per_minute is not None and self.requests_per_minute < 1:
            raise ValueError(f"requests_per_minute is above 0, not {self.requests_per_minute}")


class Tokens:
    """The tokens of a service, and how often each may still be used."""

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        self._tokens = tokens
        rates = {name: token.requests_per_minute for name, token in tokens.items()}
        self._rates = {name: Rate(rate) for name, rate in rates.items() if rate}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def name_of(self, text: str) -> str:
        """Return the name of a token, or an empty text when it is none."""
        sha256, found = hashlib.sha256(text.encode()).hexdigest(), ""
        for name, token in self._tokens.items():  # all of them: the time tells nothing
            if hmac.compare_digest(sha256, token.sha256):
                found = name
        return found

    def charge(self, name: str) -> float:
        """Count a request, and return 0; or return after how many seconds this token may be used again."""
        return self._rates[name].take() if name in self._rates else 0.0


class Rate:
    """So many requests a minute, and as many at once after a minute without any."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def take(self) -> float:
        """Take one and return 0, or return after how many seconds there is one."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._most / 60)
        self._at = now
        if self._left < 1:
            return (1 - self._left) * 60 / self._most
        self._left -= 1
        return 0.0


def new_token(name: str) -> str:
    """Return a new token and, below it, what the configuration needs. Raises ValueError for a wrong name."""
    check_name(name)
    token = secrets.token_urlsafe(32)
    sha256 = hashlib.sha256(token.encode()).hexdigest()
    return f'{token}\n\n[tokens."{name}"]\nsha256 = "{sha256}"\n'


def check_name(name: str) -> None:
    """Raise ValueError unless a token may have this name."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"a token's name has up to 40 letters, digits, dots, dashes and underscores, not {name!r}"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a host can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
