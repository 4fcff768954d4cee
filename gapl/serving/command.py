"""The options of `gapl serve` and serve.py, and what starts the service."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gapl.names import FULL, VIEWS, VIEWS_HELP

if TYPE_CHECKING:
    import uvicorn

    from gapl.detector import Detector
    from gapl.serving.config import Setup
    from gapl.serving.service import Service

log = logging.getLogger(__name__)

DESCRIPTION = """Judge images over HTTP.

    gapl serve
    curl -F image=@photo.jpg http://127.0.0.1:8000/v1/detect

    [{"path": "photo.jpg", "score": 0.009, "label": "real", ...}]

The log is lines of JSON on stderr. docs/serving.md tells what is answered, the limits and the configuration.
"""
HOST, PORT = "127.0.0.1", 8000
WORKERS = 2
PACKAGES = {  # and the modules that they bring
    "fastapi": "fastapi",
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
    "uvicorn": "uvicorn",
}
MARGIN_S = 5  # for the answers of what is judged at the end


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command line."""
    parser.add_argument(
        "--host", default=HOST, metavar="ADDRESS", help="listen there (default: %(default)s); others need tokens"
    )
    parser.add_argument(
        "--port", type=_port, default=PORT, metavar="N", help="default: %(default)s; 0: any free one"
    )
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="limits, tokens and origins")
    parser.add_argument(
        "--new-token", metavar="NAME", help="show a new token, and what --config needs for it; then end"
    )
    parser.add_argument(
        "--jobs",
        type=Path,
        metavar="DIR",
        help="keep jobs of /v1/batches there (default: serving in GAPL_CACHE); without --jobs-url, one service "
        "uses it at a time",
    )
    parser.add_argument(
        "--jobs-url",
        metavar="URL",
        help="share jobs with other services, which share --jobs too, in the PostgreSQL database at "
        "postgresql://USER:PASSWORD@HOST/NAME (default: GAPL_JOBS_URL, which ps does not show)",
    )
    parser.add_argument("--views", choices=VIEWS, default=FULL, help=VIEWS_HELP)
    parser.add_argument(
        "--workers",
        type=_above_0,
        default=WORKERS,
        metavar="N",
        help="processes that decode images of requests; a job has another one (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=_above_0,
        metavar="N",
        help="images that are judged at once, when so many wait (default: 1, and 16 where torch judges them)",
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text}; expected a number from 0 to 65535")
    return int(text)


def _above_0(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}; expected a whole number above 0")
    return int(text)


def run_command(args: argparse.Namespace, load: Callable[[], Detector], *, model: str, batch_size: int = 1) -> int:
    """Show a new token, or serve until the process is told to end, and return the exit code.

    load        loads the detector
    model       what results call it
    batch_size  where the options name none

    Raises ValueError, one line, when an option, the configuration or the detector is wrong; OSError when the
    address or the folder of jobs cannot be used.
    """
    from gapl.serving.config import Setup, read_config
    from gapl.serving.tokens import is_loopback, new_token

    if args.new_token is not None:
        print(new_token(args.new_token), end="")
        return 0
    config = read_config(args.config)
    if not config.tokens and not is_loopback(args.host):
        raise ValueError(f"--host {args.host} needs tokens: --new-token NAME makes one for --config FILE")
    size = args.batch_size or batch_size
    url = args.jobs_url if args.jobs_url is not None else os.environ.get("GAPL_JOBS_URL", "")
    folder = args.jobs or _default_folder()
    return _serve(args, load, Setup(config, model, args.views, size, args.workers, folder, url))


def _default_folder() -> Path:
    from gapl.files.cache import cache_dir

    return cache_dir() / "serving"


def _serve(args: argparse.Namespace, load: Callable[[], Detector], setup: Setup) -> int:
    _check_packages()
    from gapl.serving.logs import log_as_json, log_event
    from gapl.serving.service import Service

    listener = _listen(args.host, args.port)
    service = Service(load, setup)
    log_as_json()  # from now on: a mistake of the user is told as by other commands
    server = _make_server(service)
    for each in (signal.SIGINT, signal.SIGTERM):  # also before and after the server handles them itself
        signal.signal(each, server.handle_exit)
    host, port = listener.getsockname()[:2]
    log_event(log, "listening", host=host, port=port)
    server.run(sockets=[listener])
    log_event(log, "ended")
    if service.error:
        raise service.error
    return 0


def _check_packages() -> None:
    """Raise ValueError when packages are missing that the service needs."""
    missing = [package for package, module in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        named = " ".join(missing)
        raise ValueError(f"the service needs packages that are not installed: pip install {named}")


def _make_server(service: Service) -> uvicorn.Server:
    """Return what answers requests to a service, and ends when its detector cannot be loaded."""
    import uvicorn

    from gapl.serving.app import build_app
    from gapl.serving.connections import Connection

    def end() -> None:
        server.should_exit = True

    limits = service.config.requests
    config = uvicorn.Config(
        build_app(service, on_error=end),
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(limits.upload_seconds + limits.deadline_seconds + MARGIN_S),
    )
    server = uvicorn.Server(config)
    return server


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError, which names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {host}:{port} ({error.strerror})") from error
