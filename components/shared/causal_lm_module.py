"""The LightningModule under every causal LM here: the model, how a step is computed, its optimizer and schedule."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from components.shared.lm_config import ComputeConfig, OptimizerConfig, OptimizerKind
from components.shared.muon import MuonWithAdamW
from components.shared.packed_lm import PackedLM, prepare, release, shard
from components.shared.tokens import Vocabulary
from components.shared.training import ClippedModule, linear_schedule


class CausalLMModule(ClippedModule):
    """Holds a causal LM; what a step's loss is, those that inherit say."""

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        optimizer: OptimizerConfig,
        *,
        num_steps: int,
        chunk: int,
        log_every_steps: int,
        compute: ComputeConfig | None = None,
    ) -> None:
        """num_steps: of the schedule; chunk: tokens whose logits are held at a time.

        compute: how a step is computed; None: nothing is compiled and nothing recomputed.
        """
        super().__init__()
        self.packed = PackedLM(model, num_real=vocabulary.size, chunk=chunk)
        self.compute = compute
        self.vocabulary = vocabulary
        self.optimizer = optimizer
        self.num_steps = num_steps
        self.log_every_steps = log_every_steps

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
