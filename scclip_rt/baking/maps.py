"""From the encoder's logits to maps and labels, in ONNX: what `scclip_rt.decode` does (METHOD §4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scclip_rt.baking.nodes import Nodes
from scclip_rt.baking.options import Result
from scclip_rt.decode.plan import DecodePlan, label_type
from scclip_rt.decode.settings import DecodeSettings

_NEVER = -1e30
"""A logit that no class has: of removed ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """How logits become a result.

    Attributes:
        plan: of the image's windows, for its own size.
        settings: classes, scale and thresholds.
        scaled: whether the logits have been multiplied by the scale (through the text) already.
    """

    plan: DecodePlan
    settings: DecodeSettings
    scaled: bool

    def result(self, nodes: Nodes, cells: str, kind: Result) -> str:
        """The output tensor.

        Args:
            nodes: what is added to.
            cells: (B · windows, N, Q) float32, the patches' logits.
            kind: which output.
        """
        queries = self._by_query(nodes, self._arranged(nodes, cells))
        classes = self._by_class(nodes, queries)
        if kind == "logits":
            return classes
        settings = self.settings
        needs_shares = kind == "probabilities" or settings.soft
        shares = self._by_class(nodes, nodes("Softmax", queries, axis=1)) if needs_shares else ""
        removed = self._removed(nodes, classes, shares) if settings.drops else ""
        if removed and shares:
            shares = nodes("Mul", shares, nodes("Sub", nodes.floats(1), nodes.cast(removed, np.float32)))
        if kind == "probabilities":
            return self._background_takes_faint(nodes, shares)
        if removed:
            classes = nodes("Where", removed, nodes.floats(_NEVER), classes)
        return self._labels(nodes, classes, shares, removed)

    def _arranged(self, nodes: Nodes, cells: str) -> str:
        """(B · windows, N, Q) to (B, Q, window rows · grid rows, window columns · grid columns)."""
        (down, across), (rows, columns) = self.plan.windows, self.plan.grid
        queries = len(self.settings.query_class)
        if down == across == 1:
            planes = nodes.reshape(cells, (-1, rows, columns, queries))
            return nodes.transpose(planes, (0, 3, 1, 2))
        parts = nodes.reshape(cells, (-1, down, across, rows, columns, queries))
        planes = nodes.transpose(parts, (0, 5, 1, 3, 2, 4))
        return nodes.reshape(planes, (-1, queries, down * rows, across * columns))

    def _by_query(self, nodes: Nodes, planes: str) -> str:
        """(B, Q, H, W): the map of every query, scaled."""
        tall = nodes("MatMul", nodes.floats(self.plan.rows.matrix()), planes)
        maps = nodes("MatMul", tall, nodes.floats(self.plan.columns.matrix().T))
        if self.settings.maps == "minmax":
            least, most = (nodes.reduce(name, maps, (2, 3)) for name in ("ReduceMin", "ReduceMax"))
            span = nodes("Add", nodes("Sub", most, least), nodes.floats(1e-12))
            scale = nodes("Div", nodes.floats(self.settings.logit_scale), span)
            return nodes("Mul", nodes("Sub", maps, least), scale)
        return maps if self.scaled else nodes("Mul", maps, nodes.floats(self.settings.logit_scale))

    def _by_class(self, nodes: Nodes, maps: str) -> str:
        """(B, C, H, W): a class has its best query's value."""
        classes, number = self.settings.query_class, self.settings.num_classes
        own = [np.flatnonzero(classes == index) for index in range(number)]
        most = max(len(queries) for queries in own)
        if most == 1 and np.array_equal(np.concatenate(own), np.arange(number)):
            return maps
        # The k-th synonym of every class; one with fewer repeats its first.
        synonyms = [
            nodes("Gather", maps, nodes.integers([q[k] if k < len(q) else q[0] for q in own]), axis=1)
            for k in range(most)
        ]
        return synonyms[0] if most == 1 else nodes("Max", *synonyms)

    def _removed(self, nodes: Nodes, classes: str, shares: str) -> str:
        """(B, C, 1, 1) bool: classes of too small an area, or without a pixel that is sure enough."""
        settings, number = self.settings, self.settings.num_classes
        labels = nodes("ArgMax", classes, axis=1, keepdims=1)
        every = nodes.constant(np.arange(number, dtype=np.int64)[None, :, None, None])
        taken = nodes.cast(nodes("Equal", labels, every), np.float32)
        foreground = np.ones((1, number, 1, 1), np.float32)
        if settings.background is not None:
            foreground[0, settings.background] = 0
        removed = ""
        if settings.area_threshold > 0:
            counts = nodes("Mul", nodes.reduce("ReduceSum", taken, (2, 3)), nodes.floats(foreground))
            allowed = nodes.reduce("ReduceSum", counts, (1,))
            allowed = nodes("Mul", allowed, nodes.floats(settings.area_threshold))
            removed = nodes("LessOrEqual", counts, allowed)
        if settings.class_threshold > 0:
            best = nodes("Mul", taken, nodes.reduce("ReduceMax", shares, (1,)))
            best = nodes.reduce("ReduceMax", best, (2, 3))
            faint = nodes("Less", best, nodes.floats(settings.class_threshold))
            removed = nodes("Or", removed, faint) if removed else faint
        return nodes("And", removed, nodes.constant(foreground > 0))

    def _background_takes_faint(self, nodes: Nodes, shares: str) -> str:
        """The background's share is at least the threshold, so that it wins where no class reaches it."""
        settings = self.settings
        if settings.prob_threshold == 0 or settings.background is None:
            return shares
        floor = np.zeros((1, settings.num_classes, 1, 1), np.float32)
        # A pixel that reaches the threshold exactly keeps its class.
        floor[0, settings.background] = np.nextafter(np.float32(settings.prob_threshold), np.float32(0))
        return nodes("Max", shares, nodes.floats(floor))

    def _labels(self, nodes: Nodes, classes: str, shares: str, removed: str) -> str:
        """(B, H, W) uint8, or uint16 above 254 classes."""
        settings = self.settings
        dtype, unlabelled = label_type(settings.num_classes)
        labels = nodes("ArgMax", classes, axis=1, keepdims=1)
        rest = unlabelled if settings.background is None else settings.background
        if removed and settings.background is None:
            none_left = nodes.cast(removed, np.float32)
            none_left = nodes("Greater", nodes.reduce("ReduceMin", none_left, (1,)), nodes.floats(0.5))
            labels = nodes("Where", none_left, nodes.integers(unlabelled), labels)
        if settings.prob_threshold > 0:
            best = nodes.reduce("ReduceMax", shares, (1,))
            faint = nodes("Less", best, nodes.floats(settings.prob_threshold))
            labels = nodes("Where", faint, nodes.integers(rest), labels)
        return nodes.cast(nodes("Squeeze", labels, nodes.integers(1)), dtype)
