"""`LlamaForCausalLM.generate` of Hugging Face's transformers, on a network of the same shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..prior.config import PriorConfig
from ..runtime.optional import import_with_torchvision


def make_llama(
    config: PriorConfig, top_k: int, device: torch.device, dtype: torch.dtype
) -> Callable[[int], Tensor]:
    """Return a function that samples T tokens for a number of sequences with `generate` and its default cache.

    The network has random weights, and the prior's layers, heads, widths and vocabulary.

    Raises:
        ConfigError: the prior does not have the architecture of Llama.
        ImgtfError: transformers is not installed.
    """
    if config.feed_forward != "swiglu" or config.norm != "rms" or config.objective == "masked":
        raise ConfigError("--against transformers needs a causal prior with norm rms and feed_forward swiglu")
    transformers = import_with_torchvision("transformers.models.llama")
    import_with_torchvision("transformers.models.llama.modeling_llama")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(_llama_config(transformers, config)).to(device, dtype).eval()

    @torch.no_grad()
    def generate(rows: int) -> Tensor:
        start = torch.zeros(rows, 1, dtype=torch.long, device=device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.generate(
                start, attention_mask=torch.ones_like(start), do_sample=True, top_k=top_k,
                max_new_tokens=config.tokens, min_new_tokens=config.tokens,
            )  # fmt: skip

    return generate


def _llama_config(transformers: Any, config: PriorConfig) -> Any:
    return transformers.LlamaConfig(
        vocab_size=config.codebook_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_heads,
        max_position_embeddings=config.sequence_length + 1,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
