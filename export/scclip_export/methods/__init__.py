"""The methods that `--calibration` names. Adding one: docs/methods.md."""

from types import MappingProxyType

from scclip_export.methods import last_block, mid_layer, streams
from scclip_export.methods.base import Defaults, Method, MethodOptions

__all__ = ["METHODS", "Defaults", "Method", "MethodOptions"]

METHODS = MappingProxyType(
    {method.name: method for method in (*mid_layer.METHODS, *reversed(last_block.METHODS), *streams.METHODS)}
)
"""Name → method, SC-CLIP first."""
