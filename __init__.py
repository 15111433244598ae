"""imgtf: two-stage image generation with discrete tokens.

from imgtf import Pipeline
pictures = Pipeline.from_pretrained("model").sample(n=16, top_k=100, seed=0)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipelines.pipeline import Pipeline
    from .prior.model import Prior
    from .tokenizer.model import Tokenizer

__version__ = version("imgtf")
__all__ = ["Pipeline", "Prior", "Tokenizer", "__version__"]

_HOMES = {"Pipeline": ".pipelines.pipeline", "Prior": ".prior.model", "Tokenizer": ".tokenizer.model"}


def __getattr__(name: str) -> Any:
    """Loads a public class when it is first asked for, so that `imgtf --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
