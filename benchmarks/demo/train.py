"""Train the demo CLIP from scene–caption pairs alone.

    python -m benchmarks.demo.train --work DIR [--recipe recipe.json] [--minutes M]

Everything random is drawn from (seed, step): a run stopped and resumed ends in the identical state.
"""

import argparse
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from benchmarks.demo.data import Batch, SceneBank, render_bank
from benchmarks.demo.model import (
    ModelConfig,
    PrunedTokenizer,
    build_model,
    demo_tokenizer,
    encode_images,
    encode_texts,
)
from benchmarks.demo.muon import Muon
from scclip_rt.demo.scenes import caption

# A step that took longer was stopped from outside; the pause is no training time.
LONGEST_STEP_S = 15.0
LOG_EVERY = 20
# Images encoded at a time, by one thread.
PART = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of training at one image size."""

    size: int = 112
    keep: int = 49  # patches kept per image
    batch: int = 128
    steps: int = 1000
    value_path: float = 0.0  # share of parts whose class token skips the last residual and MLP


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that determines a run, apart from the machine."""

    model: ModelConfig = field(default_factory=ModelConfig)
    stages: tuple[Stage, ...] = (Stage(),)
    scenes: dict[int, int] = field(default_factory=lambda: {112: 65536, 224: 16384})
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 150
    decay: float = 0.35  # the last part of all steps, in which the learning rate falls to zero
    word_dropout: float = 0.03
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `json.dumps(asdict(recipe))` wrote; missing keys keep their defaults."""
        raw: dict[str, Any] = json.loads(text)
        unknown = set(raw) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown recipe keys {sorted(unknown)}")
        if "model" in raw:
            raw["model"] = ModelConfig(**raw["model"])
        if "stages" in raw:
            raw["stages"] = tuple(Stage(**stage) for stage in raw["stages"])
        if "scenes" in raw:
            raw["scenes"] = {int(size): count for size, count in raw["scenes"].items()}
        return cls(**raw)

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, constant, then linear to zero."""
        left = (self.steps - step) / max(self.decay * self.steps, 1)
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1), left)


class Trainer:
    """Model, optimisers and position of a run."""

    def __init__(self, recipe: Recipe, banks: dict[int, SceneBank], threads: int = 2) -> None:
        self.recipe, self.banks = recipe, banks
        torch.manual_seed(recipe.seed)
        self.tokenizer: PrunedTokenizer = demo_tokenizer()
        self.model: CLIP = build_model(recipe.model, self.tokenizer.size)
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        named = dict(self.model.named_parameters())
        self._image_parameters = [p for name, p in named.items() if name.startswith("visual.")]
        self._text_parameters = [
            p for name, p in named.items() if not name.startswith("visual.") and name != "logit_scale"
        ]
        self.optimizers = _optimizers(self.model, recipe, self.pool)
        self.step = 0
        self.active_s = 0.0
        self.images_seen = 0
        self._batches: Iterator[Batch] | None = None

    def stage(self) -> tuple[int, Stage, int]:
        """(index, stage, step within the stage) of the next step."""
        begin = 0
        for index, stage in enumerate(self.recipe.stages):
            if self.step < begin + stage.steps:
                return index, stage, self.step - begin
            begin += stage.steps
        raise StopIteration

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns loss and in-batch retrieval accuracy."""
        index, stage, within = self.stage()
        if self._batches is None or within == 0:
            self._batches = self.banks[stage.size].batches(
                self.recipe.seed * 1000 + index, stage.batch, within
            )
        images, classes = next(self._batches)
        rate = self.recipe.rate(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        tokens = self._captions(classes)
        same = torch.from_numpy((classes[:, None] == classes[None]).all(-1))
        loss, logits = self._gradients(torch.from_numpy(images), tokens, same, stage)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, np.log(100.0))
            accuracy = same.gather(1, logits.argmax(1, keepdim=True)).float().mean().item()
        self.step += 1
        self.images_seen += len(images)
        return {"loss": loss.item(), "accuracy": accuracy, "rate": rate, "batch": len(images)}

    def _gradients(self, images: Tensor, tokens: Tensor, same: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        """Set the gradients of one batch; returns the loss and the logits.

        Small parts of the batch run in parallel, each on one thread: on a shared machine a thread that is
        descheduled then delays its own part only, where threads inside each operation would all wait.
        """
        jobs = [
            (self._image_parameters, partial(self._encode_part, part, stage, number))
            for number, part in enumerate(images.split(PART))
        ]
        images_end = len(jobs)
        jobs += [
            (self._text_parameters, partial(encode_texts, self.model, part))
            for part in tokens.split(4 * PART)
        ]
        outputs = list(self.pool.map(lambda job: job[1](), jobs))
        leaves = [output.detach().requires_grad_() for output in outputs]
        image, text = torch.cat(leaves[:images_end]), torch.cat(leaves[images_end:])
        logits = self.model.logit_scale.exp() * image @ text.T
        loss = contrastive_loss(logits, same)
        loss.backward()
        parts = self.pool.map(
            lambda job, output, leaf: torch.autograd.grad(output, job[0], leaf.grad, allow_unused=True),
            jobs,
            outputs,
            leaves,
        )
        for (parameters, _), gradients in zip(jobs, parts, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is None:  # the last MLP, where the value path was taken
                    continue
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return loss.detach(), logits.detach()

    def _encode_part(self, part: Tensor, stage: Stage, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(
            ((self.recipe.seed * 1_000_003) + self.step) * 1009 + number
        )
        return encode_images(
            self.model, part, keep=stage.keep, generator=generator, value_path=stage.value_path
        )

    def _captions(self, classes: NDArray[np.int8]) -> Tensor:
        rng = np.random.default_rng([self.recipe.seed, 7, self.step])
        templates = open_clip.OPENAI_IMAGENET_TEMPLATES
        texts = [caption([c for c in row if c >= 0], rng, templates=templates) for row in classes.tolist()]
        tokens = self.tokenizer(texts)
        ends = tokens >= self.tokenizer.size - 2
        dropped = torch.from_numpy(rng.random(tuple(tokens.shape)) < self.recipe.word_dropout)
        return torch.where(dropped & ~ends, 0, tokens)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "active_s": self.active_s,
            "images_seen": self.images_seen,
            "token_index": self.tokenizer.index,
            "recipe": json.dumps(asdict(self.recipe)),
        }
        written = path.with_suffix(".partial")
        torch.save(state, written)
        written.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; the recipe may differ in its stages and rates."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.active_s, self.images_seen = state["step"], state["active_s"], state["images_seen"]


def contrastive_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric image–text cross-entropy; captions that name the same materials count as equally right.

    Args:
        logits: float (B, B), images by captions.
        same: bool (B, B), symmetric, true on the diagonal.
    """
    targets = same.float() / same.sum(1, keepdim=True)
    return 0.5 * (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets))


def _optimizers(model: CLIP, recipe: Recipe, pool: ThreadPoolExecutor) -> list[torch.optim.Optimizer]:
    """AdamW for vectors, embeddings and projections; Muon or AdamW for the blocks' matrices."""
    matrices, decayed, plain = [], [], []
    for name, param in model.named_parameters():
        if ".resblocks." in name and param.ndim == 2:
            matrices.append(param)
        elif param.ndim >= 2 and "embedding" not in name:
            decayed.append(param)
        else:
            plain.append(param)
    if recipe.optimizer == "adamw":
        decayed, matrices = decayed + matrices, []
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        eps=1e-8,
    )
    if not matrices:
        return [adamw]
    return [adamw, Muon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, pool=pool)]


def run(trainer: Trainer, work: Path, *, minutes: float = float("inf"), save_every_s: float = 120.0) -> None:
    """Train to the end of the recipe, or for `minutes` of active time, logging to `work`/log.jsonl."""
    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    previous = signal.signal(signal.SIGTERM, ask_to_stop)
    checkpoint = work / "checkpoint.pt"
    begin = saved = trainer.active_s
    recent: list[dict[str, float]] = []
    with (work / "log.jsonl").open("a") as log:
        while trainer.step < trainer.recipe.steps and not stop and trainer.active_s - begin < minutes * 60:
            clock = time.monotonic()
            recent.append(trainer.train_step())
            elapsed = time.monotonic() - clock
            trainer.active_s += min(elapsed, LONGEST_STEP_S)
            recent[-1]["step_s"] = elapsed if elapsed < LONGEST_STEP_S else float("nan")
            if trainer.step % LOG_EVERY == 0:
                print(json.dumps(_log_row(trainer, recent)), file=log, flush=True)
                recent.clear()
            if trainer.active_s - saved > save_every_s:
                trainer.save(checkpoint)
                saved = trainer.active_s
    trainer.save(checkpoint)
    signal.signal(signal.SIGTERM, previous)


def _log_row(trainer: Trainer, recent: list[dict[str, float]]) -> dict[str, float]:
    """Means over recent steps and the position of the run."""
    mean = {key: float(np.nanmean([row[key] for row in recent])) for key in recent[0]}
    mean["images_per_s"] = mean.pop("batch") / mean.pop("step_s")
    position = {"step": trainer.step, "images": trainer.images_seen, "active_s": round(trainer.active_s, 1)}
    return position | mean | {"logit_scale": trainer.model.logit_scale.exp().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoint.pt and log.jsonl")
    parser.add_argument("--bank", type=Path, help="folder of rendered scenes (default: WORK/bank)")
    parser.add_argument("--recipe", type=Path, help="JSON file of a Recipe")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so much active time")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe.from_json(options.recipe.read_text()) if options.recipe else Recipe()
    options.work.mkdir(parents=True, exist_ok=True)
    bank = options.bank or options.work / "bank"
    sizes = sorted({stage.size for stage in recipe.stages})
    for size in sizes:
        render_bank(bank, size, recipe.scenes[size])
    trainer = Trainer(recipe, {size: SceneBank.open(bank, size) for size in sizes}, options.threads)
    if (options.work / "checkpoint.pt").exists():
        trainer.load(options.work / "checkpoint.pt")
    run(trainer, options.work, minutes=options.minutes)


if __name__ == "__main__":
    main()
