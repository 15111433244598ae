"""What others do on a network of the same shape: `LlamaForCausalLM.generate` of Hugging Face's transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError
from ..prior.config import PriorConfig
from ..runtime.optional import import_with_torchvision


def llama(
    config: PriorConfig, top_k: int, device: torch.device, dtype: torch.dtype
) -> Callable[[int], Tensor]:
    """A function that draws T tokens for a number of sequences with `generate` as it comes, weights random.

    Same layers, heads, width, feed-forward width and vocabulary. Its keys and values grow as `generate` has it by
    default.

    Raises:
        ConfigError: for a prior that is no Llama in shape.
        ImgtfError: when transformers is not installed.
    """
    if config.feed_forward != "swiglu" or config.norm != "rms" or config.objective == "masked":
        raise ConfigError("--against transformers takes a causal prior with norm rms and feed_forward swiglu")
    transformers = import_with_torchvision("transformers.models.llama")
    import_with_torchvision("transformers.models.llama.modeling_llama")
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=config.codebook_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_heads,
        max_position_embeddings=config.sequence_length + 1,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(shape).to(device, dtype).eval()

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
