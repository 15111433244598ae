"""`imgtf push`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import command, json_option, option, own_model_option
from .reporting import log_to_stderr, report


@command()
@click.argument("repository")
@own_model_option
@option(
    "--license",
    metavar="NAME",
    group="run",
    help="License of the model as the Hub names it, such as apache-2.0.",
)
@option("--private", is_flag=True, group="run", help="Make a new repository private.")
@option(
    "--revision",
    metavar="NAME",
    group="run",
    default_text="the main branch",
    common=False,
    help="Branch to upload to, created where it is missing.",
)
@option("--message", metavar="TEXT", default="Upload with imgtf", group="run", help="Message of the commit.")
@option(
    "--pictures/--no-pictures",
    default=True,
    default_text="on",
    group="output",
    help="Upload samples and reconstructions of data, and report.html.",
)
@option("--dry-run", is_flag=True, group="output", help="Print the files that would be uploaded, and stop.")
@json_option
def push(
    repository: str, model: Path, license: str | None, private: bool, revision: str | None, message: str,
    pictures: bool, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Upload a model folder to the Hugging Face Hub, with its card.

    REPOSITORY is user/model; it is created where it is missing. Log in first with `hf auth login`, or set HF_TOKEN.
    Training state, token caches and paths of this machine are not uploaded.
    """
    log_to_stderr()
    from ..pipelines.publish import Publication, push_folder, sizes
    from ..runtime.upload import Target

    target = Target(repository, private or None, message=message, revision=revision)
    if dry_run:
        files = Publication(model, target.resolved()[0], license, pictures).files()
        report({"files": sizes(files)}, as_json)
        return
    address = push_folder(model, target, license=license, pictures=pictures)
    report({"commit": address}, as_json)
