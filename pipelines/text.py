"""Pretrained text encoders (CLIP, T5, ...) from transformers: captions to features.

Shapes: B batch, n tokens, F width of the features.
"""

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
"""Most tokens per caption; CLIP reads 77."""
TEXT_CLASSES = {
    "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "siglip": "SiglipTextModel",
    "t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel",
}  # fmt: skip
"""Model types of which only one half encodes text, and its class in transformers."""


class TextEncoder:
    """A frozen pretrained text encoder."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load a transformers model from the Hub or from a folder.

        Raises:
            ConfigError: transformers is not installed.
            CheckpointError: there is no such model, or it does not encode text.
        """
        transformers = import_transformers()
        self.name, self.device = name, device
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            self.model = _load_text_model(transformers, name).to(device).eval()
        except (OSError, ValueError, KeyError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"text encoder {name}: {reason}") from None
        config = self.model.config
        self.width = int(config.hidden_size)
        limit = int(getattr(config, "max_position_embeddings", MAX_TOKENS) or MAX_TOKENS)
        self.tokens = min(MAX_TOKENS, limit)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return features (B, n, F) float32. Padding, and all of an empty caption, is zeros."""
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        ).to(self.device)
        mask = tokens["attention_mask"]
        states = self.model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        given = torch.tensor([bool(caption) for caption in captions], device=self.device)
        return states.float() * (mask.bool() & given[:, None])[..., None]


def import_transformers() -> Any:
    """Import transformers, and first torchvision where it is installed, which the models of transformers import.

    Raises:
        ConfigError: transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("--text-encoder needs transformers: pip install 'imgtf[text]'")
    if importlib.util.find_spec("torchvision") is not None:
        import_with_torchvision("torchvision")
    return importlib.import_module("transformers")


def _load_text_model(transformers: Any, name: str) -> Any:
    """Load the text half of a model, from safetensors only, never from pickle."""
    kind = transformers.AutoConfig.from_pretrained(name).model_type
    cls = getattr(transformers, TEXT_CLASSES.get(kind, "AutoModel"))
    return cls.from_pretrained(name, use_safetensors=True)
