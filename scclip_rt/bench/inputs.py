"""The image and the queries of a benchmark: the same numbers on every machine."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scclip_rt.bench.case import Workload

if TYPE_CHECKING:
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.vocabulary.file import Vocabulary


def bench_image(workload: Workload) -> NDArray[np.uint8]:
    """The pixels that every iteration starts from: reading and decoding a file is not part of what is timed.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the file can't be read.
    """
    from PIL import Image

    from scclip_rt.image.load import load_image

    source = Path(workload.image) if workload.image is not None else packaged_scene()
    image = load_image(source)
    if workload.size is None or workload.size == image.shape[:2]:
        return image
    height, width = workload.size
    how = Image.Resampling.BOX if height < image.shape[0] else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(image).resize((width, height), how))


def packaged_scene() -> Path:
    """The rendered scene that comes with the package."""
    return Path(str(resources.files("scclip_rt").joinpath("demo/scene.png")))


def random_queries(count: int, embed_dim: int) -> NDArray[np.float32]:
    """Unit vectors (count, embed_dim) float32, the same for the same arguments."""
    drawn = np.random.default_rng(0).standard_normal((count, embed_dim)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


def bench_vocabulary(workload: Workload, bundle: Bundle) -> Vocabulary:
    """The vocabulary file if one is named, else random queries with a class each: decoding costs the same.

    Raises:
        VocabularyError: the file is no vocabulary, or of another model.
    """
    from scclip_rt.vocabulary.file import Vocabulary, load_vocabulary

    if workload.vocabulary is not None:
        loaded = load_vocabulary(Path(workload.vocabulary))
        loaded.check_model(
            bundle.text_encoder.model_sha256, embed_dim=bundle.model.embed_dim, name=workload.vocabulary
        )
        return loaded
    names = tuple(f"query {index}" for index in range(workload.queries))
    return Vocabulary(
        embeddings=random_queries(workload.queries, bundle.model.embed_dim),
        classes=names,
        queries=names,
        query_class=np.arange(workload.queries, dtype=np.int64),
        background=None,
        templates="none",
        text_model_sha256=bundle.text_encoder.model_sha256,
    )
