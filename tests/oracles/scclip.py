"""SC-CLIP as the method states it, naively: the eager baseline of the benchmarks and the oracle of the tests.

One window at a time; every N × N matrix of the text; every head's attention on its own; then upsample, pad, add,
divide, resize, softmax over a (Q, H, W) tensor. Nothing here is shared with the packages it is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from open_clip.model import CLIP

MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


@dataclass(frozen=True, kw_only=True)
class NaiveScclip:
    """The calibrated segmenter, written out. `dtype` float64 makes it an oracle."""

    clip: CLIP
    pre: int
    post: int
    multi: tuple[int, int]
    res_cls: float
    beta: float = 0.4
    neighbors: int = 30
    contamination: float = 0.05
    short_side: int = 336
    window: int = 224
    stride: int = 112
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def segment(
        self,
        image: NDArray[np.uint8],
        text: Tensor,
        query_class: list[int],
        *,
        logit_scale: float = 40.0,
        prob_thd: float = 0.0,
        area_thd: float | None = None,
    ) -> NDArray[np.int64]:
        """Label an image: uint8 (H, W, 3) RGB, float (Q, E) unit rows → int64 (H, W); class 0 is the background."""
        logits = self.resized_logits(image, text)
        probabilities = (logits * logit_scale).softmax(dim=0)
        scores = self.class_scores(probabilities, query_class)
        if area_thd is not None:
            winner = scores.argmax(dim=0)
            counts = torch.bincount(winner.flatten(), minlength=len(scores)).float()
            small = counts <= area_thd * counts[1:].sum()
            small[0] = False
            scores = scores * (~small).reshape(-1, 1, 1)
        best = scores.max(dim=0)
        return torch.where(best.values < prob_thd, 0, best.indices).cpu().numpy()

    def class_scores(self, probabilities: Tensor, query_class: list[int]) -> Tensor:
        """The best query of each class: (Q, H, W) → (classes, H, W)."""
        classes = torch.tensor(query_class, device=probabilities.device)
        return torch.stack([probabilities[classes == c].amax(dim=0) for c in range(int(classes.max()) + 1)])

    def resized_logits(self, image: NDArray[np.uint8], text: Tensor) -> Tensor:
        """Window logits, averaged where windows overlap and resized to the image: (Q, H, W)."""
        height, width = image.shape[:2]
        scale = min(2048 / max(height, width), self.short_side / min(height, width))
        scale = max(scale, self.window / min(height, width))
        new_h, new_w = int(height * scale + 0.5), int(width * scale + 0.5)
        resized = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        place = {"dtype": self.dtype, "device": text.device}
        pixels = torch.from_numpy(resized).to(**place).permute(2, 0, 1)
        mean, std = (torch.tensor(v, **place).reshape(3, 1, 1) for v in (MEAN, STD))
        pixels = (pixels - mean) / std
        total = torch.zeros(len(text), new_h, new_w, **place)
        count = torch.zeros(1, new_h, new_w, **place)
        w, s = self.window, self.stride
        for i in range(max(new_h - w + s - 1, 0) // s + 1):
            for j in range(max(new_w - w + s - 1, 0) // s + 1):
                y, x = min(s * i + w, new_h) - w, min(s * j + w, new_w) - w
                features = self.window_features(pixels[:, y : y + w, x : x + w])
                side = round(len(features) ** 0.5)
                logits = (features @ text.to(self.dtype).T).T.reshape(1, -1, side, side)
                logits = F.interpolate(logits, size=(w, w), mode="bilinear", align_corners=False)
                total += F.pad(logits[0], (x, new_w - x - w, y, new_h - y - w))
                count[:, y : y + w, x : x + w] += 1
        average = (total / count).unsqueeze(0)
        return F.interpolate(average, size=(height, width), mode="bilinear", align_corners=False)[0]

    def window_features(self, pixels: Tensor) -> Tensor:
        """Unit patch features (N, E) of one normalised window (3, w, w)."""
        visual = self.clip.visual
        side = pixels.shape[-1] // visual.conv1.weight.shape[-1]
        hidden = self.hidden_states(pixels)
        cls, patches = hidden[-1][0], hidden[-1][1:]
        outliers = self.outliers(patches)
        repaired = self.repair(patches, outliers, side)
        guide = self.repair(hidden[self.pre][1:], outliers, side)

        similarity = F.normalize(guide, dim=-1) @ F.normalize(guide, dim=-1).T
        adjusted = self.similarity_weights(similarity) @ repaired
        levels = torch.stack(hidden[self.multi[0] : self.multi[1]]).sum(dim=0)
        smooth_guide = F.normalize(hidden[self.post][1:], dim=-1)
        smoothing = self.similarity_weights(smooth_guide @ smooth_guide.T)
        out = smoothing @ (self.last_attention(adjusted, similarity) + self.res_cls * cls)
        out = out + smoothing @ (self.last_attention(levels[1:], similarity) + self.res_cls * levels[0])
        return F.normalize(visual.ln_post(out) @ visual.proj, dim=-1)

    def hidden_states(self, pixels: Tensor) -> list[Tensor]:
        """Outputs of every block but the last, each (1 + N, D)."""
        visual = self.clip.visual
        tokens = visual.conv1(pixels.unsqueeze(0)).flatten(2).transpose(1, 2)
        tokens = (
            torch.cat([visual.class_embedding.reshape(1, 1, -1), tokens], dim=1) + visual.positional_embedding
        )
        tokens, hidden = visual.ln_pre(tokens), []
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
            hidden.append(tokens[0])
        return hidden

    def outliers(self, patches: Tensor) -> set[int]:
        """Patches whose local outlier factor is above its quantile."""
        distances = torch.cdist(patches, patches, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        nearest = distances.topk(self.neighbors + 1, largest=False)
        values, indices = nearest.values[:, 1:], nearest.indices[:, 1:]
        reach = torch.maximum(values, values[:, -1:])
        density = 1 / reach.mean(dim=1)
        scores = density[indices].mean(dim=1) / density
        return set((scores > torch.quantile(scores, 1 - self.contamination)).nonzero().flatten().tolist())

    @staticmethod
    def repair(patches: Tensor, outliers: set[int], side: int) -> Tensor:
        """Replace each outlier by the mean of its sound 8-neighbours."""
        out = patches.clone()
        for index in outliers:
            row, column = divmod(index, side)
            around = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
            inside = [r * side + c for r, c in around if 0 <= r < side and 0 <= c < side]
            sound = [patch for patch in inside if patch not in outliers]
            if sound:
                out[index] = patches[sound].mean(dim=0)
        return out

    def similarity_weights(self, similarity: Tensor) -> Tensor:
        """Similarities of at least beta, rows divided by their sum."""
        kept = similarity.masked_fill(similarity < self.beta, 0)
        return kept / (kept.sum(dim=-1, keepdim=True) + 1e-6)

    def last_attention(self, tokens: Tensor, similarity: Tensor) -> Tensor:
        """attn(Z) of the last block for one pass: (N, D) → (N, D)."""
        block = self.clip.visual.transformer.resblocks[-1]
        attention, heads = block.attn, block.attn.num_heads
        _, k, v = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias).chunk(
            3, dim=-1
        )
        scores = (similarity - similarity.mean()) * 3
        scores[scores < 0] = float("-inf")
        common = scores.softmax(dim=-1)
        out = []
        for key, value in zip(k.chunk(heads, dim=-1), v.chunk(heads, dim=-1), strict=True):
            own = (key @ key.T / key.shape[-1] ** 0.5).softmax(dim=-1)
            out.append((common @ value + own @ value) / 2)
        return F.linear(torch.cat(out, dim=-1), attention.out_proj.weight, attention.out_proj.bias)
