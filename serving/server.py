"""The process: a socket, uvicorn, and an end in which running requests finish."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from ..errors import ConfigError
from .app import create_app
from .service import Service

LAST_SECONDS = 5
"""Time that answers have to leave, after the last request has been answered or refused."""
KEEP_ALIVE = 60
"""Seconds that an idle connection stays open: longer than most clients keep theirs, so that they meet no closed one."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen yet: a port in use is found before the model is loaded.

    Raises:
        ConfigError: the address or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: not an address of this machine") from error
    family, _, _, _, address = found[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        reason = str(error.strerror).lower()
        raise ConfigError(
            f"port {port} of {host}: {reason}; choose another --port (0 is any free one) or --host"
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the address of a bound socket as an URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, bound: socket.socket, on_ready: Callable[[], object]) -> None:
    """Serve until SIGTERM or SIGINT, and return when running requests have been answered.

    Args:
        on_ready: called once, when requests are answered.
    """
    config = uvicorn.Config(
        create_app(service), log_config=None, access_log=False, lifespan="off", ws="none", server_header=False,
        timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=LAST_SECONDS,
    )  # fmt: skip
    Server(config, service, on_ready).run(sockets=[bound])


class Server(uvicorn.Server):
    """uvicorn that stops in two steps: it refuses new requests with 503 until the running ones are answered."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self.service, self.on_ready = service, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal. A second one ends the running requests too."""
        if self.service.draining:
            self.service.drained_by = 0.0
        self.service.drain()

    async def on_tick(self, counter: int) -> Any:
        if self.service.drained:
            self.service.batcher.stop(timeout=0)
            return True
        return await super().on_tick(counter)
