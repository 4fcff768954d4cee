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
    found = b"\n".join(_CERTIFICATE.findall(path.read_bytes())).decode("ascii", errors="replace")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: no certificate, or a damaged one; expected {WHAT}") from error
    return found
