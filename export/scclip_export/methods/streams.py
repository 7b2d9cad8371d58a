"""Methods with a second stream through the last blocks: CLIP Surgery and GEM (docs/methods.md, family C)."""

from dataclasses import dataclass

from scclip_export.methods.base import Defaults, Method, MethodOptions, option
from scclip_export.model.parts import StreamParts


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeryOptions(MethodOptions):
    """CLIP Surgery (arXiv 2304.05653): value-value attention, and a weight per class from the class token."""

    blocks: int = option(6, "last blocks that the second stream runs through", metavar="N")

    def parts(self, *, layers: int, patch_size: int) -> StreamParts:  # noqa: ARG002
        """The class token's features come along, for the weights."""
        return StreamParts(attention="vv", blocks=self.blocks, class_row=True)

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Its code makes maps, no labels: scale and thresholds are SC-CLIP's."""
        return Defaults(class_weighting="surgery", templates="surgery")


@dataclass(frozen=True, slots=True, kw_only=True)
class GemOptions(MethodOptions):
    """GEM (arXiv 2312.00878): self-self attention of queries, keys and values."""

    blocks: int = option(6, "last blocks that the second stream runs through (gem_depth - 1)", metavar="N")
    iterations: int = option(
        1, "how often queries, keys and values attend to themselves", metavar="N", limit="self_iterations"
    )
    temperature: float | None = option(None, "τ of the attention (default: from the tokens' length)")

    def parts(self, *, layers: int, patch_size: int) -> StreamParts:  # noqa: ARG002
        """The stream of three attentions."""
        return StreamParts(
            attention="self",
            blocks=self.blocks,
            iterations=self.iterations,
            temperature=self.temperature,
            positions="bicubic-antialias",
        )

    def defaults(self, *, layers: int, patch_size: int) -> Defaults:  # noqa: ARG002
        """Each class's map is stretched to 0..1 over the image; then its code takes the arg-max."""
        return Defaults(maps="minmax", logit_scale=1.0, templates="photo")


METHODS = (
    Method(name="surgery", title="CLIP Surgery: a value-value stream", options=SurgeryOptions),
    Method(name="gem", title="GEM: a self-self stream", options=GemOptions),
)
