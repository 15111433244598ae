"""The command line: the group `imgtf` and its entry point. The commands are in `commands/`.

Commands are imported when they are used, and import heavy packages inside their functions.
"""

from __future__ import annotations

import os
import sys
import warnings

import click

from .commands.lazy import LazyGroup
from .commands.reporting import FAILED, failure

COMMANDS = {
    "data": ("data.data", "Show what would be trained on, before any training."),
    "tokenizer": ("tokenizer.tokenizer", "Stage one: encode images to grids of tokens and decode them."),
    "prior": ("prior.prior", "Stage two: learn the distribution of the token grids."),
    "sample": ("sample.sample", "Sample images."),
    "edit": ("edit.group.edit", "Edit images: complete, inpaint, vary, mix, upscale, translate, ..."),
    "score": ("score.score", "Find unlikely images and unlikely parts of images."),
    "attention": ("attention.attention", "Show where a token of an image looks."),
    "compress": ("compress.compress", "Compress images to small files, with the prior's probabilities."),
    "decompress": ("compress.decompress", "Decode files of compress."),
    "evaluate": ("evaluate.evaluate", "Compare samples with real images, and search for sampling settings."),
    "serve": ("serve.serve", "Answer HTTP requests for images, in the shape of OpenAI's API."),
    "web": ("web.web", "Open a page on this machine: sample, inpaint, follow a run."),
    "push": ("push.push", "Upload a model folder to the Hugging Face Hub."),
    "import": ("exchange.import_command", "Convert published weights into a model folder."),
    "export": ("exchange.export_command", "Write a model with the tensor names of a published code base."),
    "bench": ("bench.bench", "Measure the speed of this machine."),
    "info": ("info.info", "Describe a model folder."),
}
"""Command -> module in `commands/` with the command's name in it, and a line for `imgtf --help`."""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="imgtf")
def cli() -> None:
    """Train a tokenizer on your images, train a prior on its tokens, and sample new images.

    \b
    imgtf tokenizer train --data my-images
    imgtf prior train
    imgtf sample --n 64 --top-k 100

    Without --data, the built-in handwritten digits are used.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Every expected error becomes one line on stderr and an exit code."""
    if arguments is None:
        _use_utf8()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata that is not used
    try:
        code = cli.main(arguments, prog_name="imgtf", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(FAILED)
    except (Exception, KeyboardInterrupt) as error:
        known = failure(error)
        if known is None:
            raise
        line, code = known
        if line:
            click.echo(" ".join(line.split()), err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _use_utf8() -> None:
    """Start Python again in its UTF-8 mode where the locale has another encoding, which garbles names of files."""
    if os.name == "posix" and not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
