"""Captions to features of a pretrained text encoder (CLIP, T5, ...), through transformers."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..runtime.optional import import_with_torchvision

MAX_TOKENS = 128
"""Tokens of a caption at most; CLIP takes 77."""


class TextEncoder:
    """A pretrained encoder, frozen. Features (B, S, F) of captions; padding is zeros."""

    def __init__(self, name: str, device: torch.device) -> None:
        """`name`: a transformers model on the Hub or a folder.

        Raises:
            ConfigError: transformers is not installed.
            CheckpointError: there is no such model, or it is no text encoder.
        """
        transformers = import_transformers()
        self.name, self.device = name, device
        try:
            self.words = transformers.AutoTokenizer.from_pretrained(name)
            self.model = _text_model(transformers, name).to(device).eval()
        except (OSError, ValueError, KeyError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"text encoder {name}: {reason}") from None
        config = self.model.config
        self.width = int(config.hidden_size)
        known = int(getattr(config, "max_position_embeddings", MAX_TOKENS) or MAX_TOKENS)
        self.tokens = min(MAX_TOKENS, known)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Features (B, S, F) float32; an empty caption gives zeros."""
        words = self.words(
            list(captions), padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        ).to(self.device)
        states = self.model(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).last_hidden_state
        said = torch.tensor([bool(caption) for caption in captions], device=self.device)
        return states.float() * (words["attention_mask"].bool() & said[:, None])[..., None]


def import_transformers() -> Any:
    """The package. It imports torchvision where that is there, though not before its models are used.

    Raises ConfigError where it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("--text-encoder needs transformers: pip install 'imgtf[text]'")
    if importlib.util.find_spec("torchvision") is not None:
        import_with_torchvision("torchvision")
    return importlib.import_module("transformers")


def _text_model(transformers: Any, name: str) -> Any:
    """Of a model with two halves only the one that reads text. Safetensors only: no pickle is read."""
    kind = transformers.AutoConfig.from_pretrained(name).model_type
    halves = {
        "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "siglip": "SiglipTextModel",
        "t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel",
    }  # fmt: skip
    cls = getattr(transformers, halves.get(kind, "AutoModel"))
    return cls.from_pretrained(name, use_safetensors=True)
