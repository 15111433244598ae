"""`imgtf web`."""

from __future__ import annotations

import json

import click

from .options import command, device_option, json_option, local_model, name_type, option, precision_option
from .reporting import log_to_stderr
from .types import SAMPLING_PRECISIONS, WholeRange

HOST, PORT, MAX_UPLOAD = "127.0.0.1", 7860, 20
"""As in `web.server`, which takes long to import."""


@command()
@click.argument("folder", metavar="[MODEL]", default="model", type=name_type)
@option(
    "--host", metavar="ADDRESS", default=HOST, group="run",
    help="Address to listen at; 0.0.0.0 opens the page to other machines.",
)  # fmt: skip
@option(
    "--port", type=WholeRange(0, 65535), metavar="N", default=PORT, group="run", help="Port; 0 takes any free one."
)  # fmt: skip
@option(
    "--max-upload", type=WholeRange(1, 1024), metavar="MB", default=MAX_UPLOAD, group="run",
    help="Largest file that can be uploaded.",
)  # fmt: skip
@precision_option("bf16 where that is faster", SAMPLING_PRECISIONS)
@device_option
@json_option
def web(
    folder: str, host: str, port: int, max_upload: int, precision: str, device: str, as_json: bool
) -> None:  # fmt: skip
    """Open a page on this machine: sample, reconstruct, inpaint, and follow a training run.

    MODEL is the folder, `model` by default, or an id of the Hub. It may hold a tokenizer only, or only a run in
    progress. Ctrl-C ends the page. It needs gradio: pip install "imgtf[web]".
    """
    log_to_stderr()
    from ..web.server import Options, require_gradio, serve
    from .sampling import stop_on_terminate

    require_gradio()
    from ..web.site import open_site

    stop_on_terminate()
    site = open_site(local_model(folder), folder, device, precision)
    serve(site, Options(host, port, max_upload), lambda url: click.echo(_address(url, as_json)))


def _address(url: str, as_json: bool) -> str:
    return json.dumps({"url": url}) if as_json else f"{url}  (Ctrl-C ends it)"
