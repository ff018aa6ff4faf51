"""The LightningModule of every language model here: packed batches, AdamW or Muon, losses by modality and by source."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import PreTrainedModel

from components.shared.lm_config import ComputeConfig, OptimizerConfig, OptimizerKind
from components.shared.muon import MuonWithAdamW
from components.shared.packed_lm import PackedLM, prepare, release, shard
from components.shared.tokens import Vocabulary
from components.shared.training import ClippedModule, linear_schedule


class LanguageModelModule(ClippedModule):
    """Trains a causal LM on packed batches; knows neither rooms nor trackers."""

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        optimizer: OptimizerConfig,
        *,
        num_steps: int,
        sources: list[str],
        chunk: int,
        log_every_steps: int,
        compute: ComputeConfig | None = None,
    ) -> None:
        """sources: names of the numbers in batch["sources"]; chunk: tokens whose logits are held at a time.

        compute: how a step is computed; None: nothing is compiled and nothing recomputed.
        """
        super().__init__()
        self.packed = PackedLM(model, num_real=vocabulary.size, chunk=chunk)
        self.compute = compute
        self.vocabulary = vocabulary
        self.optimizer = optimizer
        self.num_steps = num_steps
        self.sources = sources
        self.log_every_steps = log_every_steps
        self.last: dict[str, float] = {}
        """What was logged last: loss and its parts, tokens_per_s, learning_rate."""
        self._seen = 0
        self._since = time.perf_counter()

    @property
    def model(self) -> Any:
        """The Hugging Face model inside, for saving; not a second name in checkpoints."""
        return self.packed.model

    def configure_model(self) -> None:
        """Fuse, recompute, compile and, where there is a mesh of devices, shard the model; once more does nothing."""
        prepare(self.packed, self.compute)
        if self.device_mesh is not None:
            shard(self.packed, self.device_mesh["data_parallel"], self.trainer.precision)

    def teardown(self, stage: str) -> None:
        """Give the layers back as they were, for generation and export."""
        release(self.packed)

    def on_train_start(self) -> None:
        """Start the clock of the throughput."""
        self._seen, self._since = 0, time.perf_counter()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch; at every log_every_steps the parts of it and the speed."""
        loss, nll, learnt = self.packed(batch)
        self._seen += int((batch["segments"] > 0).sum())
        if (self.global_step + 1) % self.log_every_steps == 0:
            values = {name: float(value.mean()) for name, value in self._parts(batch, nll, learnt).items()}
            now = time.perf_counter()
            values["tokens_per_s"] = self._seen / (now - self._since)
            values["learning_rate"] = float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
            self.last = {"loss": float(loss.detach()), **values}
            self.log_dict(self.last, batch_size=1)
            self._seen, self._since = 0, now
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Losses of held-out sequences, each mean weighted by its number of tokens."""
        _, nll, learnt = self.packed(batch)
        for name, part in {"loss": nll, **self._parts(batch, nll, learnt)}.items():
            if len(part):
                self.log(f"validation_{name}", part.mean(), batch_size=len(part), on_epoch=True, on_step=False)

    def summary(self) -> dict[str, float]:
        """train_loss and tokens_per_s (without padding and validation) as they were logged last."""
        return {"train_loss": self.last["loss"], "tokens_per_s": self.last["tokens_per_s"]} if self.last else {}

    def on_validation_end(self) -> None:
        """Leave the time of validation out of the throughput."""
        self._seen, self._since = 0, time.perf_counter()

    def _parts(
        self, batch: dict[str, torch.Tensor], nll: torch.Tensor, learnt: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The labels' losses by modality of the label and by source: name -> (labels of that part,)."""
        labels, sources = batch["labels"][learnt], batch["sources"][learnt]
        v = self.vocabulary
        speech = (labels >= v.first_audio_id) & (labels < v.first_audio_id + v.num_codes)
        parts = {"loss_text": nll[~speech], "loss_speech": nll[speech]}
        for number, name in enumerate(self.sources):
            parts[f"loss_{name}_source"] = nll[sources == number]
        return {name: part for name, part in parts.items() if len(part)}

    def configure_optimizers(self) -> Any:
        """AdamW or Muon, without decay of vectors, under the linear schedule."""
        config = self.optimizer
        optimizer = optimizer_of(self.model, config)
        factor = linear_schedule(config.peak_lr, config.final_lr, config.warmup_steps, self.num_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def optimizer_of(model: PreTrainedModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or Muon for a causal LM at the peak learning rate; vectors are not decayed."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    betas = (config.beta1, config.beta2)
    if config.kind is OptimizerKind.adamw:
        groups = [
            {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=config.peak_lr, betas=betas, fused=True)
    outer = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    matrices: list[torch.Tensor] = []
    rest: list[torch.Tensor] = []
    for parameter in learnt:
        inner = parameter.ndim == 2 and all(parameter is not other for other in outer)
        (matrices if inner else rest).append(parameter)
    return MuonWithAdamW(matrices, rest, lr=config.peak_lr, weight_decay=config.weight_decay, betas=betas)
