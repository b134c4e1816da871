"""The visual encoder: an EVA-CLIP vision transformer with post-norm blocks (paper section 2.1).

Parameter names are those of the published weights (`visual.blocks.0.attn.qkv.weight`, ...).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from emu2_lit.model.configuration import Emu2VisionConfig
from emu2_lit.model.images import normalized


class QKVLinear(nn.Linear):
    """Queries, keys and values in one product. The keys have no bias: their third of it is masked, so it gets no
    gradient, stays zero while the tower trains and the native form (q_bias, v_bias) can always be written."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat([q, torch.zeros_like(k), v]))


class Attention(nn.Module):
    """Full self-attention over the patches, scaled by the head width."""

    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = QKVLinear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(GradientCheckpointingLayer):
    """One post-norm block: the normalisation follows each branch, inside its residual."""

    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


class PatchEmbed(nn.Module):
    """Cuts the picture into square patches and embeds each."""

    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        self.proj = nn.Conv2d(3, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class Emu2VisionModel(nn.Module):
    """Pictures to patch features: no final norm and no head, the last block's output as it is."""

    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid_size**2 + 1, config.hidden_size))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Patch features with the class token first.

        Args:
            pixel_values: (images, 3, image_size, image_size), normalised; or uint8, to be normalised here: training
                batches come so, at a quarter of the bytes.
        Returns:
            (images, 1 + patches, hidden_size).
        Raises:
            ValueError: pictures of another size.
        """
        size = self.config.image_size
        if pixel_values.shape[-2:] != (size, size):
            raise ValueError(f"the tower takes {size}x{size} px, not {tuple(pixel_values.shape[-2:])}")
        if pixel_values.dtype == torch.uint8:
            pixel_values = normalized(pixel_values)
        patches = self.patch_embed(pixel_values.to(self.cls_token.dtype))
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


def pool(features: Tensor, n_query: int) -> Tensor:
    """Average the patch grid down to `n_query` visual tokens, row by row (paper section 2.1).

    Args:
        features: (images, 1 + grid * grid, width), class token first; it is dropped.
    Returns:
        (images, n_query, width).
    """
    images, patches, width = features[:, 1:].shape
    grid, side = round(patches**0.5), round(n_query**0.5)
    x = features[:, 1:].transpose(1, 2).reshape(images, width, grid, grid)
    return F.avg_pool2d(x, grid // side).flatten(2).transpose(1, 2)
