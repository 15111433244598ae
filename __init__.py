"""imgtf: two-stage image generation with discrete tokens.

from imgtf import Pipeline, train_prior, train_tokenizer

train_tokenizer(data="my-images", model="model")
train_prior(model="model")
images = Pipeline.from_pretrained("model").sample(n=16, top_k=100, seed=0)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.config import AugmentationConfig as AugmentationConfig
    from .data.config import ConditionDataConfig as ConditionDataConfig
    from .data.config import DataConfig as DataConfig
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import ImgtfError as ImgtfError
    from .errors import Interrupted as Interrupted
    from .pipelines.canvas import Canvas as Canvas
    from .pipelines.judge import JudgeOptions as JudgeOptions
    from .pipelines.pipeline import Pipeline as Pipeline
    from .pipelines.python import train_prior as train_prior
    from .pipelines.python import train_tokenizer as train_tokenizer
    from .pipelines.python import tune_decoder as tune_decoder
    from .pipelines.request import Sample as Sample
    from .prior.config import PriorConfig as PriorConfig
    from .prior.config import SamplingConfig as SamplingConfig
    from .prior.model import Prior as Prior
    from .prior.recipe import CacheRecipe as CacheRecipe
    from .prior.recipe import PriorRecipe as PriorRecipe
    from .tokenizer.config import TokenizerConfig as TokenizerConfig
    from .tokenizer.model import Tokenizer as Tokenizer
    from .tokenizer.recipe import TokenizerRecipe as TokenizerRecipe
    from .training.config import TrainingConfig as TrainingConfig
    from .training.loop import TrainingResult as TrainingResult

__version__ = version("imgtf")

_MODULES = {
    "AugmentationConfig": "data.config",
    "CacheRecipe": "prior.recipe",
    "Canvas": "pipelines.canvas",
    "CheckpointError": "errors",
    "ConditionDataConfig": "data.config",
    "ConfigError": "errors",
    "DataConfig": "data.config",
    "DataError": "errors",
    "ImgtfError": "errors",
    "Interrupted": "errors",
    "JudgeOptions": "pipelines.judge",
    "Pipeline": "pipelines.pipeline",
    "Prior": "prior.model",
    "PriorConfig": "prior.config",
    "PriorRecipe": "prior.recipe",
    "Sample": "pipelines.request",
    "SamplingConfig": "prior.config",
    "Tokenizer": "tokenizer.model",
    "TokenizerConfig": "tokenizer.config",
    "TokenizerRecipe": "tokenizer.recipe",
    "TrainingConfig": "training.config",
    "TrainingResult": "training.loop",
    "train_prior": "pipelines.python",
    "train_tokenizer": "pipelines.python",
    "tune_decoder": "pipelines.python",
}
__all__ = sorted(["__version__", *_MODULES])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `imgtf --help` does not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
