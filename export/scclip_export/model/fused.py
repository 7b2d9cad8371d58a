"""The blocks before the last on Triton kernels: what lies between their products is read and written once.

Block by block, x + attention(ln_1 x), then + mlp(ln_2 x), is a row of products with a sum and a norm before each pair.
The sum that ends a block and the norm that begins the next are one kernel here, so sums cross the blocks' borders.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from scclip_export.model.blocks import Block
from scclip_kernels.triton.linear import linear_quick_gelu
from scclip_kernels.triton.residual_norm import add_layer_norm


def run_fused(blocks: Iterable[Block], tokens: Tensor, length: int, quick_gelu: bool) -> list[Tensor]:
    """Run blocks whose products are float16 or bfloat16.

    Args:
        blocks: of a trunk.
        tokens: (B * N, D) float32, the first block's input.
        length: N.
        quick_gelu: whether the blocks' activation is QuickGELU, which goes into its product; others stand behind it.

    Returns:
        The output of each block, (B * N, D) float32.
    """
    outputs: list[Tensor] = []
    delta: Tensor | None = None
    for block in blocks:
        tokens, normed = _add_norm(tokens, delta, block, block.ln_1)
        if delta is not None:
            outputs.append(tokens)
        attended = block.attend(*block.heads(normed, length), None)
        tokens, normed = _add_norm(tokens, block.attention_product(attended), block, block.ln_2)
        if quick_gelu:
            hidden = linear_quick_gelu(normed, block.fc.weight, block.fc.bias)
        else:
            hidden = block.activation(block.fc(normed))
        delta = block.proj(hidden)
    return outputs if delta is None else [*outputs, tokens + delta.float()]


def _add_norm(x: Tensor, delta: Tensor | None, block: Block, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return add_layer_norm(x, delta, norm.weight, norm.bias, norm.eps, block.policy.linear)
