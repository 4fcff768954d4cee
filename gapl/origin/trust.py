"""The certificates of those whose C2PA signatures a user trusts."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from gapl.files.refusal import check_is_file

WHAT = "a file of certificates in PEM"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def read_trusted(path: Path) -> str:
    """Return the certificates in a file, in PEM and without what stands between them.

    Raises ValueError, one line, when there are none, or one is damaged; OSError when it cannot be read.
    """
    check_is_file(path, what=WHAT)
    found = [each.decode("latin-1") for each in _CERTIFICATE.findall(path.read_bytes())]
    if not found:
        raise ValueError(f"{path}: no certificate; expected {WHAT}")
    for i, each in enumerate(found, start=1):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=each)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"{path}: certificate {i} is damaged; expected {WHAT}") from error
    return "\n".join(found)
