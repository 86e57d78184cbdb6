"""A small byte-level causal transformer in plain torch: about 200 thousand parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ByteTransformer(nn.Module):
    """Predicts the next byte from those before it.

    ``width`` channels in ``depth`` pre-normalised blocks of ``heads`` heads; learned positions for
    up to ``context`` bytes.
    """

    def __init__(self, width: int = 80, depth: int = 2, heads: int = 4, context: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.position = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256)
        self.apply(_initialise)

    def forward(self, read: Tensor) -> Tensor:
        """Logits [B, T, 256] of the byte after each of ``read``, int64 [B, T]."""
        hidden = self.embedding(read) + self.position[: read.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        mixed = self.mix(self.attention_norm(hidden)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        refined: Tensor = hidden + self.mlp(hidden)
        return refined


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def byte_losses(model: nn.Module, text: Tensor) -> Tensor:
    """Mean loss of each example, [B], in nats a byte; ``text`` is int64 [B, T + 1]."""
    logits = model(text[:, :-1])
    losses = functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten(), reduction="none")
    return losses.view(len(text), -1).mean(dim=1)
