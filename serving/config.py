"""Settings of the server. No heavy imports: the command line reads them to print its help."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option


@dataclass(frozen=True)
class ServingConfig:
    """Where the server listens, how it batches, and what it refuses."""

    host: str = option(
        "127.0.0.1", "Address to listen on; 0.0.0.0 is every network.", group="run", common=True
    )
    port: int = option(
        8000, "Port to listen on; 0 is any free one.", minimum=0, maximum=65535, group="run", common=True
    )
    batch_size: int = option(
        16, "Images sampled together at most.", minimum=1, maximum=4096, group="device", common=True
    )
    queue: int = option(
        128,
        "Images that may wait; requests beyond are answered 429.",
        minimum=1,
        maximum=2**20,
        group="limits",
        common=True,
    )
    batch_wait: float = option(
        20.0,
        "Milliseconds that a batch waits for more images.",
        minimum=0,
        maximum=60000,
        group="device",
    )
    max_n: int = option(10, "Images of one request.", minimum=1, maximum=2**20, group="limits")
    max_side: int | None = option(
        None,
        "Longest side of an image that is asked for, in pixels.",
        minimum=1,
        auto="twice the model's longest side",
        group="limits",
    )
    max_upload: int = option(
        8, "Megabytes of one request with its images.", minimum=1, maximum=1024, group="limits"
    )
    max_pixels: int = option(
        16, "Megapixels of an image that is sent.", minimum=1, maximum=150, group="limits"
    )
    drain_seconds: float = option(
        30.0,
        "Seconds that running requests have to finish after SIGTERM.",
        minimum=0,
        maximum=86400,
        group="run",
    )
    access_log: bool = option(False, "Log a line for every request on stderr.", group="run")

    def __post_init__(self) -> None:
        if self.max_n > self.queue:
            raise ConfigError(
                f"a request of max_n = {self.max_n} images does not fit in a queue of {self.queue}: raise --queue, "
                f"or lower --max-n"
            )
