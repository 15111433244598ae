"""Plain, slow implementations of the published networks.

They follow the papers and the published names of the tensors, without the code under test. A network runs on
`Weights`, which creates each tensor at random at its first use and is a state dict afterwards.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights(dict[str, Tensor]):
    """A state dict whose tensors are created at their first use."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 25
            self[name] = torch.randn(shape, generator=self.generator) / math.sqrt(fan_in)
            if len(shape) == 1 and name.endswith("weight"):
                self[name] += 1  # of a norm
        assert self[name].shape == shape, name
        return self[name]


# --- the convolutional networks ---


def conv(w: Weights, name: str, x: Tensor, out: int, kernel: int, stride: int = 1) -> Tensor:
    weight = w(f"{name}.weight", out, x.shape[1], kernel, kernel)
    if stride == 2:
        x = torch.cat([x, torch.zeros_like(x[..., :1])], dim=-1)  # one column to the right
        x = torch.cat([x, torch.zeros_like(x[..., :1, :])], dim=-2)  # one row below
        return F.conv2d(x, weight, w(f"{name}.bias", out), stride=2)
    return F.conv2d(x, weight, w(f"{name}.bias", out), padding=kernel // 2)


def group_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    B, C = x.shape[:2]
    groups = x.reshape(B, 32, -1)
    mean = groups.mean(-1, keepdim=True)
    variance = ((groups - mean) ** 2).mean(-1, keepdim=True)
    x = ((groups - mean) / torch.sqrt(variance + 1e-6)).reshape(x.shape)
    return x * w(f"{name}.weight", C).view(1, C, 1, 1) + w(f"{name}.bias", C).view(1, C, 1, 1)


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def residual(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    h = conv(w, f"{name}.conv1", swish(group_norm(w, f"{name}.norm1", x)), out, 3)
    h = conv(w, f"{name}.conv2", swish(group_norm(w, f"{name}.norm2", h)), out, 3)
    return h + (x if x.shape[1] == out else conv(w, f"{name}.nin_shortcut", x, out, 1))


def attention(w: Weights, name: str, x: Tensor) -> Tensor:
    B, C, H, W = x.shape
    normed = group_norm(w, f"{name}.norm", x)
    q, k, v = (conv(w, f"{name}.{n}", normed, C, 1).reshape(B, C, H * W) for n in "qkv")
    scores = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(C)
    mixed = torch.einsum("bij,bcj->bci", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
    return x + conv(w, f"{name}.proj_out", mixed.reshape(B, C, H, W), C, 1)


NAMES = {
    "taming": ("encoder.down.{}", "decoder.up.{}", "block", ("block_1", "attn_1", "block_2")),
    "llamagen": ("encoder.conv_blocks.{}", "decoder.conv_blocks.{}", "res", ("0", "1", "2")),
}
WIDTHS, ATTENDED, LATENT, CODES, DIM = (32, 64), 1, 16, 24, 8
"""A tiny network: two levels with attention on the lower one, one block per level."""


def middle(w: Weights, half: str, x: Tensor, names: tuple[str, str, str]) -> Tensor:
    x = residual(w, f"{half}.mid.{names[0]}", x, x.shape[1])
    x = attention(w, f"{half}.mid.{names[1]}", x)
    return residual(w, f"{half}.mid.{names[2]}", x, x.shape[1])


def encode(w: Weights, family: str, image: Tensor) -> Tensor:
    """Images to latents before quantization."""
    level, _, block, mid = NAMES[family]
    x = conv(w, "encoder.conv_in", image, WIDTHS[0], 3)
    for i, width in enumerate(WIDTHS):
        x = residual(w, f"{level.format(i)}.{block}.0", x, width)
        if i == ATTENDED:
            x = attention(w, f"{level.format(i)}.attn.0", x)
        if i + 1 < len(WIDTHS):
            x = conv(w, f"{level.format(i)}.downsample.conv", x, width, 3, stride=2)
    x = middle(w, "encoder", x, mid)
    x = conv(w, "encoder.conv_out", swish(group_norm(w, "encoder.norm_out", x)), LATENT, 3)
    return conv(w, "quant_conv", x, DIM, 1)


def codebook(w: Weights, family: str) -> Tensor:
    table = w("quantize.embedding.weight", CODES, DIM)
    return table / table.norm(dim=1, keepdim=True) if family == "llamagen" else table


def quantize(w: Weights, family: str, latents: Tensor) -> Tensor:
    """The nearest code of each latent, one by one."""
    table = codebook(w, family)
    codes = torch.zeros(latents.shape[0], *latents.shape[2:], dtype=torch.long)
    for position in torch.cartesian_prod(*(torch.arange(n) for n in codes.shape)):
        b, y, x = position.tolist()
        latent = latents[b, :, y, x]
        if family == "llamagen":
            latent = latent / latent.norm()
        codes[b, y, x] = ((table - latent) ** 2).sum(1).argmin()
    return codes


def decode(w: Weights, family: str, codes: Tensor) -> Tensor:
    """Codes to images, not clamped."""
    _, level, block, mid = NAMES[family]
    x = codebook(w, family)[codes].permute(0, 3, 1, 2)
    x = conv(w, "post_quant_conv", x, LATENT, 1)
    x = middle(w, "decoder", conv(w, "decoder.conv_in", x, WIDTHS[-1], 3), mid)
    for order, i in enumerate(reversed(range(len(WIDTHS)))):
        name = level.format(order if family == "llamagen" else i)
        for j in range(2):
            x = residual(w, f"{name}.{block}.{j}", x, WIDTHS[i])
            if i == ATTENDED:
                x = attention(w, f"{name}.attn.{j}", x)
        if i > 0:
            x = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
            x = conv(w, f"{name}.upsample.conv", x, WIDTHS[i], 3)
    return conv(w, "decoder.conv_out", swish(group_norm(w, "decoder.norm_out", x)), 3, 3)


# --- the transformers ---

VOCABULARY, WIDTH, HEADS, DEPTH, SIDE, LABELS = 20, 32, 2, 2, 3, 5
HEAD = WIDTH // HEADS


def linear(w: Weights, name: str, x: Tensor, out: int, bias: bool = False) -> Tensor:
    y = x @ w(f"{name}.weight", out, x.shape[-1]).T
    return y + w(f"{name}.bias", out) if bias else y


def rms_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * w(f"{name}.weight", x.shape[-1])


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return x * w(f"{name}.weight", x.shape[-1]) + w(f"{name}.bias", x.shape[-1])


def attend(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None = None) -> Tensor:
    """Causal attention of one sequence (N, D), head by head; `padding` (N,) tokens attend to themselves only."""
    S = len(q)
    out = torch.zeros_like(q)
    for h in range(HEADS):
        head = slice(h * HEAD, (h + 1) * HEAD)
        for i in range(S):
            keys = [j for j in range(i + 1) if j == i or padding is None or not padding[j]]
            scores = torch.stack([q[i, head] @ k[j, head] / math.sqrt(HEAD) for j in keys])
            out[i, head] = scores.softmax(0) @ torch.stack([v[j, head] for j in keys])
    return out


def rotate(x: Tensor, index: int, condition: int) -> Tensor:
    """Rotate the query or key (D,) of one token: neighbouring pairs by row, then by column; zero for the condition."""
    if index < condition:
        return torch.zeros_like(x)
    row, column = divmod(index - condition, SIDE)
    x = x.clone()
    for h in range(HEADS):
        for pair in range(HEAD // 2):
            position, i = (row, pair) if pair < HEAD // 4 else (column, pair - HEAD // 4)
            angle = position * 10000.0 ** (-i / (HEAD // 4))
            at = h * HEAD + 2 * pair
            a, b = x[at].item(), x[at + 1].item()
            x[at] = a * math.cos(angle) - b * math.sin(angle)
            x[at + 1] = a * math.sin(angle) + b * math.cos(angle)
    return x


def llamagen_prefix(w: Weights, condition: int | Tensor | None, length: int = 0, features: int = 0) -> Tensor:
    """Map a label, features (S, F), or None for a missing condition to the prefix (S, D)."""
    if not features:
        label = LABELS if condition is None else condition
        return w("cls_embedding.embedding_table.weight", LABELS + 1, WIDTH)[label][None]
    null = w("cls_embedding.uncond_embedding", length, features)
    x = linear(w, "cls_embedding.cap_proj.fc1", null if condition is None else condition, WIDTH)
    x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return linear(w, "cls_embedding.cap_proj.fc2", x, WIDTH)


def llamagen(w: Weights, prefix: Tensor, codes: list[int], padding: Tensor | None = None) -> Tensor:
    """Logits (V,) of the code after `codes`, for one sequence."""
    table = w("tok_embeddings.weight", VOCABULARY, WIDTH)
    x = torch.cat([prefix, table[torch.tensor(codes, dtype=torch.long)]])
    S = len(prefix)
    if padding is not None:
        padding = torch.cat([padding, torch.zeros(len(codes), dtype=torch.bool)])
    for i in range(DEPTH):
        name = f"layers.{i}"
        normed = rms_norm(w, f"{name}.attention_norm", x)
        q, k, v = linear(w, f"{name}.attention.wqkv", normed, 3 * WIDTH).split(WIDTH, dim=-1)
        q, k = (torch.stack([rotate(row, index, S) for index, row in enumerate(y)]) for y in (q, k))
        x = x + linear(w, f"{name}.attention.wo", attend(q, k, v, padding), WIDTH)
        normed = rms_norm(w, f"{name}.ffn_norm", x)
        gate, up = (linear(w, f"{name}.feed_forward.{n}", normed, 48) for n in ("w1", "w3"))
        x = x + linear(w, f"{name}.feed_forward.w2", swish(gate) * up, WIDTH)
    return linear(w, "output", rms_norm(w, "norm", x[-1]), VOCABULARY)


def minigpt(w: Weights, tokens: list[int]) -> Tensor:
    """Logits (V,) of the token after `tokens`, for one sequence."""
    positions = w("pos_emb", 1, SIDE * SIDE, WIDTH)[0]
    x = w("tok_emb.weight", VOCABULARY, WIDTH)[torch.tensor(tokens)] + positions[: len(tokens)]
    for i in range(DEPTH):
        name = f"blocks.{i}"
        normed = layer_norm(w, f"{name}.ln1", x)
        q, k, v = (linear(w, f"{name}.attn.{n}", normed, WIDTH, bias=True) for n in ("query", "key", "value"))
        x = x + linear(w, f"{name}.attn.proj", attend(q, k, v), WIDTH, bias=True)
        h = linear(w, f"{name}.mlp.0", layer_norm(w, f"{name}.ln2", x), 4 * WIDTH, bias=True)
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = x + linear(w, f"{name}.mlp.2", h, WIDTH, bias=True)
    return linear(w, "head", layer_norm(w, "ln_f", x[-1]), VOCABULARY)
