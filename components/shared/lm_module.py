"""The LightningModule of every language model here: packed batches, AdamW or Muon, losses by modality and by source."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from components.shared.lm_config import ComputeConfig, OptimizerConfig, OptimizerKind
from components.shared.muon import MuonWithAdamW
from components.shared.packed_lm import PackedLM, prepare, release, shard
from components.shared.strategies import among_ranks
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
        self._names = ["loss", "loss_text", "loss_speech", *(f"loss_{source}_source" for source in sources)]
        self._held_out = torch.zeros(2, len(self._names), dtype=torch.float64)
        """Sums of the losses of held-out labels and their numbers, by name."""
        self._seen = 0
        self._since = time.perf_counter()

    @property
    def model(self) -> Any:
        """The Hugging Face model inside, for saving; not a second name in checkpoints."""
        return self.packed.model

    def configure_model(self) -> None:
        """Recompute, compile and, where the strategy has a mesh of devices, shard the model; more calls do nothing."""
        if self.compute is not None:
            prepare(self.packed, self.compute)
        if self.device_mesh is not None:
            shard(self.packed, self.device_mesh["data_parallel"], self.trainer.precision)

    def teardown(self, stage: str) -> None:
        """Give the layers back as they were, for generation and export."""
        release(self.packed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a run that had only its end left says of itself."""
        checkpoint["last"] = self.last

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counterpart."""
        self.last = checkpoint["last"]

    def on_train_start(self) -> None:
        """Start the clock of the throughput."""
        self._seen, self._since = 0, time.perf_counter()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch; at every log_every_steps the parts of it and the speed."""
        loss, nll, learnt = self.packed(batch)
        loss = among_ranks(loss, learnt.sum())
        self._seen += int((batch["segments"] > 0).sum())
        if (self.global_step + 1) % self.log_every_steps == 0:
            values = self._means(self._sums(batch, nll, learnt))
            now = time.perf_counter()
            values["tokens_per_s"] = self._seen / (now - self._since)
            values["learning_rate"] = float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
            self.last = values
            self.log_dict(self.last, batch_size=1)
            self._seen, self._since = 0, now
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Losses of held-out sequences, each mean weighted by its number of tokens."""
        _, nll, learnt = self.packed(batch)
        self._held_out += self._sums(batch, nll, learnt)

    def on_validation_epoch_start(self) -> None:
        """Forget the validation before."""
        self._held_out = torch.zeros(2, len(self._names), dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """The same means on every rank, over the sequences of all."""
        for name, mean in self._means(self._held_out).items():
            self.log(f"validation_{name}", mean)

    def summary(self) -> dict[str, float]:
        """train_loss and tokens_per_s (without padding and validation) as they were logged last."""
        return {"train_loss": self.last["loss"], "tokens_per_s": self.last["tokens_per_s"]} if self.last else {}

    def on_validation_end(self) -> None:
        """Leave the time of validation out of the throughput."""
        self._seen, self._since = 0, time.perf_counter()

    def _sums(self, batch: dict[str, torch.Tensor], nll: torch.Tensor, learnt: torch.Tensor) -> torch.Tensor:
        """Sums of the labels' losses and numbers of labels, by `_names`: (2, names) float64."""
        labels, sources = batch["labels"][learnt], batch["sources"][learnt]
        v = self.vocabulary
        speech = (labels >= v.first_audio_id) & (labels < v.first_audio_id + v.num_codes)
        masks = [torch.ones_like(speech), ~speech, speech, *(sources == number for number in range(len(self.sources)))]
        shares = torch.stack(masks).double()
        return torch.stack([shares @ nll.double(), shares.sum(1)])

    def _means(self, sums: torch.Tensor) -> dict[str, float]:
        """Name -> mean over the labels of all ranks, where there are any."""
        if dist.is_initialized():
            dist.all_reduce(sums)
        pairs = zip(self._names, sums.T.tolist(), strict=True)
        return {name: total / count for name, (total, count) in pairs if count}

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
