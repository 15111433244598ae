"""`imgtf serve`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click

from ..serving.config import ServingConfig
from .options import (
    command,
    device_option,
    json_help,
    local_model,
    name_type,
    named,
    option,
    precision_option,
    settings_options,
)
from .reporting import log_to_stderr
from .types import SAMPLING_PRECISIONS


@command()
@click.argument("model", metavar="[MODEL]", default="model", type=name_type)
@settings_options(ServingConfig)
@device_option
@precision_option("bf16 where that is faster", SAMPLING_PRECISIONS)
@option("--json", "as_json", common=False, **json_help)
def serve(model: str, device: str, precision: str, as_json: bool, **given: Any) -> None:
    """Answer HTTP requests for images, in the shape of OpenAI's images API.

    MODEL is the folder, `model` by default, or an id of the Hub. Prints one line with the address when it is ready.
    SIGTERM and Ctrl-C let running requests finish. There is no authentication: see docs/serving.md.
    """
    log_to_stderr()
    from ..errors import ImgtfError

    config = ServingConfig(**named(given))
    try:
        from ..serving.server import address_of, bind
        from ..serving.server import serve as run
        from ..serving.service import Service
    except ImportError as error:
        raise ImgtfError(f'serving needs packages ({error}): pip install "imgtf[serve]"') from error
    from ..pipelines.pipeline import Pipeline

    with bind(config.host, config.port) as bound:
        folder = local_model(model)
        pipeline = Pipeline.from_pretrained(folder, device, precision=precision)
        name = folder.resolve().name if Path(model).is_dir() else model
        with Service(pipeline, config, name) as service:
            service.warm_up()
            facts = service.facts
            address = address_of(bound)
            line = f"{address} ({name}, {facts['precision']} on {facts['device']}, {config.batch_size} images at once)"
            ready = json.dumps({"address": address, **facts}) if as_json else line
            _log_no_requests()
            run(service, bound, lambda: click.echo(ready))


def _log_no_requests() -> None:
    """Keep captions and images of clients out of the log; they get those lines as notes."""
    logging.getLogger("imgtf").setLevel(logging.WARNING)
    logging.getLogger("imgtf.serving").setLevel(logging.INFO)
