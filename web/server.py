"""The server of the page: on this machine only, without a network, with one temporary folder."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ConfigError, ImgtfError
from .guard import PageHeaders, allowed_hosts
from .site import Site
from .style import CSS
from .worker import Worker

HOST, PORT = "127.0.0.1", 7860
MAX_UPLOAD = 20
"""Megabytes of one upload."""
GRACE = 2
"""Seconds for open connections when the server stops."""
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Environment of gradio and huggingface_hub: no telemetry."""

FOLDERS = ("GRADIO_TEMP_DIR", "MPLCONFIGDIR")
"""Environment that names where gradio, and matplotlib, which gradio imports, write."""


@dataclass(frozen=True)
class Options:
    """Where the page is served."""

    host: str = HOST
    port: int = PORT
    """0: any free one."""
    max_upload: int = MAX_UPLOAD
    """Megabytes."""


def serve(site: Site, options: Options, ready: Callable[[str], object]) -> None:
    """Serve the page until Ctrl-C or SIGTERM; call `ready` with its address once it answers.

    Raises:
        ConfigError: the port is in use, or the host is not one of this machine.
        ImgtfError: gradio is missing.
        KeyboardInterrupt: at Ctrl-C, after everything was closed.
    """
    with bound(options.host, options.port) as (listener, port), temporary_environment():
        worker = Worker()
        try:
            server = _server(site, options, worker)
            host = f"[{options.host}]" if ":" in options.host else options.host
            server.ready = lambda: ready(f"http://{host}:{port}")
            server.run(sockets=[listener])
        finally:
            worker.close()


@contextmanager
def bound(host: str, port: int) -> Iterator[tuple[socket.socket, int]]:
    """Yield a socket that listens at a port, and the port. Raises ConfigError if that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            in_use = "is another page open? Name another port with --port, or 0 for any free one"
            why = in_use if error.errno in (98, 48, 10048) else "name another address with --host or --port"
            raise ConfigError(f"{host}:{port} cannot be used ({error.strerror or error}): {why}") from error
        yield listener, listener.getsockname()[1]


@contextmanager
def temporary_environment() -> Iterator[str]:
    """Yield the only folder that the page writes to. It is deleted at the end."""
    before = dict(os.environ)
    with TemporaryDirectory(prefix="imgtf-web-", ignore_cleanup_errors=True) as folder:
        own = QUIET | dict.fromkeys(FOLDERS, folder)
        os.environ |= own
        try:
            yield folder
        finally:
            for name in own:
                os.environ.pop(name, None)
                if name in before:
                    os.environ[name] = before[name]


def require_gradio() -> None:
    """Raise ImgtfError where gradio is missing. It is imported later: it asks for its folder at once."""
    missing = [package for package in ("gradio", "uvicorn") if find_spec(package) is None]
    if missing:
        raise ImgtfError(f'the page needs {" and ".join(missing)}: pip install "imgtf[web]"')


def build_app(site: Site, options: Options, worker: Worker) -> Any:
    """Return the page as an ASGI application. `GRADIO_TEMP_DIR` names its folder."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .page import build_page

    _stay_offline()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(options.host))
    app.add_middleware(PageHeaders)
    system = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", radius_size="sm", spacing_size="sm", font=system,
        font_mono=["ui-monospace", "monospace"],
    )  # fmt: skip
    return gr.mount_gradio_app(
        app, build_page(site, worker), "/", server_name=options.host, footer_links=[], run_history=False,
        show_error=True, max_file_size=options.max_upload * 2**20, ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False, theme=theme, css=CSS,
    )  # fmt: skip


def _stay_offline() -> None:
    """Refuse the download of files that a request names by their address, which gradio would fetch."""
    import gradio as gr
    from gradio import processing_utils

    async def refuse(url: str, *_: Any, **__: Any) -> str:
        raise gr.Error(f"Files are uploaded, not fetched from an address: {url[:80]}", print_exception=False)

    processing_utils.async_ssrf_protected_download = refuse


def _server(site: Site, options: Options, worker: Worker) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        ready: Callable[[], object]

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            worker.stop()
            # Requests that are cut off when the time is over are no faults of the program.
            logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
            _end_streams(app)
            await super().shutdown(sockets)

    app = build_app(site, options, worker)
    return Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE))


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


def _end_streams(app: Any) -> None:
    """End the connections that each open page holds, which gradio only does where it runs the server itself."""
    for route in app.routes:
        if stop := getattr(getattr(route, "app", None), "stop_event", None):
            stop.set()
