"""Which stage of the encoder computes in which dtype: one table, read by the modules that are traced.

The casts stand in the modules (`encoder.py`), so an exported graph says by itself what runs in which dtype: TensorRT 11
has no other way to be told, and older ones drop layers silently. Always float32, because `scclip_kernels` computes
them so: the softmaxes, anomaly detection (distances, scores, TopK), cosine similarities with their thresholds and
row sums, and the unit features and cosines that come out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Largest finite value of float16; a cast turns what lies above into infinity.
_FLOAT16_MAX = 65504.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypePolicy:
    """The dtypes of METHOD §2, stage by stage.

    Attributes:
        linear: every projection (patches, q, k, v, attention output, MLP with its activation, the last one): weights as
            they are stored, inputs and outputs. The product sums in float32 inside, as tensor cores do.
        attention: the products of attention, q kᵀ and k kᵀ, and weights times v; P v.
        aggregation: A X̂ and B · (…), the averages by similarity; inputs and outputs.
        residual: the tokens between blocks, their sums and the sum of levels, and every LayerNorm with its statistics.
            Narrow sums would round a patch's token at each of 2 · L additions, and a token of norm 500 times the
            median (ViT-L/14 has such) leaves the range of float16 once levels are summed.
    """

    linear: torch.dtype = torch.float32
    attention: torch.dtype = torch.float32
    aggregation: torch.dtype = torch.float32
    residual: torch.dtype = torch.float32

    @property
    def narrow(self) -> torch.dtype | None:
        """The dtype that is narrower than float32, if there is one."""
        return next((d for d in (self.linear, self.attention, self.aggregation) if d.itemsize < 4), None)


FLOAT32 = DtypePolicy()
POLICIES: Mapping[str, DtypePolicy] = {
    "fp32": FLOAT32,
    "fp16": DtypePolicy(linear=torch.float16, attention=torch.float16, aggregation=torch.float16),
    "bf16": DtypePolicy(linear=torch.bfloat16, attention=torch.bfloat16, aggregation=torch.bfloat16),
}


def saturate(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast, with values beyond float16 held at its largest: for sums that no LayerNorm has bounded.

    Args:
        x: float32, any shape.
        dtype: of the result.
    """
    if dtype == torch.float16:
        x = x.clamp(-_FLOAT16_MAX, _FLOAT16_MAX)
    return x.to(dtype)
