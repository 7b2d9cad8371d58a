"""scclip-rt: open-vocabulary segmentation from SC-CLIP bundles, without torch.

    from scclip_rt import Segmenter

    segment = Segmenter("vitb16.scclip", classes=["sky", "grass, lawn", "dog, puppy"])
    result = segment("photo.jpg")
    result.labels       # (H, W) uint8
    result.shares       # {"sky": 0.41, "grass": 0.38, "dog": 0.21}

Names load when they are first used: `import scclip_rt` alone brings in neither numpy nor onnxruntime.
"""

import importlib
from typing import TYPE_CHECKING

from scclip_rt.errors import (
    BackendError,
    BundleError,
    ImageError,
    OptionError,
    OutputError,
    ScclipError,
    VocabularyError,
)

if TYPE_CHECKING:
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.encoded import Encoded
    from scclip_rt.image.load import load_image
    from scclip_rt.segmentation import Segmentation
    from scclip_rt.segmenter import Segmenter
    from scclip_rt.vocabulary.file import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "Encoded",
    "ImageError",
    "OptionError",
    "OutputError",
    "ScclipError",
    "Segmentation",
    "Segmenter",
    "Vocabulary",
    "VocabularyError",
    "load_image",
]

_LAZY = {
    "Bundle": "scclip_rt.bundle.bundle",
    "Encoded": "scclip_rt.encoded",
    "Segmentation": "scclip_rt.segmentation",
    "Segmenter": "scclip_rt.segmenter",
    "Vocabulary": "scclip_rt.vocabulary.file",
    "load_image": "scclip_rt.image.load",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'scclip_rt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
