"""A Hugging Face model card, made from what bundle.json says and nothing else."""

from collections.abc import Iterator

from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.manifest import EncoderSpec


def model_card(bundle: Bundle, repository: str = "OWNER/NAME") -> str:
    """The text of a README.md for the hub.

    Args:
        bundle: to describe.
        repository: where it will be, for the lines that show how it is used.
    """
    return "\n".join(_lines(bundle, repository)) + "\n"


def _lines(bundle: Bundle, repository: str) -> Iterator[str]:
    model, manifest = bundle.model, bundle.manifest
    yield from ("---", "library_name: scclip-rt", "pipeline_tag: image-segmentation")
    yield from ("tags:", "- onnx", "- clip", "- open-vocabulary", "- semantic-segmentation", "---", "")
    yield from (f"# {bundle.name}", "")
    trained = f"{model.architecture}, {model.pretrained}" if model.pretrained else model.architecture
    yield (
        f"An image segmenter for any class names: CLIP ({trained}), calibrated by SC-CLIP without training "
        "(arXiv 2411.15869) and exported by scclip-rt. Check the licence of the weights it was made from."
    )
    yield from (
        "",
        "```sh",
        f'scclip segment hf://{repository} photo.jpg --classes "sky; grass; dog" --output out',
    )
    yield from ("```", "```python", "from scclip_rt import Segmenter")
    yield f'segment = Segmenter("hf://{repository}", classes=["sky", "grass, lawn", "dog, puppy"])'
    yield from ("```", "", "| | |", "|---|---|")
    yield f"| patch, image | {model.patch_size}, {model.image_size} pixels |"
    yield f"| blocks, heads, width, embedding | {model.layers}, {model.heads}, {model.width}, {model.embed_dim} |"
    yield f"| calibration | {_pairs(manifest.calibration)} |"
    yield f"| made with | {_pairs(manifest.created_with)} |"
    yield f"| checkpoint | SHA-256 `{model.checkpoint_sha256}` |"
    for assumption in model.assumptions:
        yield f"| assumed | {_cell(assumption)} |"
    yield from (
        "",
        "| encoder | precision | grid | runs on | labels as float32 torch |",
        "|---|---|---|---|---|",
    )
    yield from (_encoder(encoder) for encoder in bundle.encoders)


def _encoder(encoder: EncoderSpec) -> str:
    labels = encoder.parity.get("labels_agreement")
    share = f"{100 * labels:.2f} %" if isinstance(labels, float) else "see bundle.json"
    return (
        f"| {encoder.file} | {encoder.precision} | {encoder.grid} | {', '.join(encoder.runs_on)} | {share} |"
    )


def _pairs(values: object) -> str:
    pairs = values.items() if hasattr(values, "items") else ()
    return _cell(", ".join(f"{key} {value}" for key, value in pairs))


def _cell(text: str) -> str:
    """Text of a bundle inside a table: nothing that begins a row or a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
