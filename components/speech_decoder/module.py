"""The training step of the flow: conditional flow matching, guidance dropout, prefix prompts, prior loss, averaging."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.shared.lm_config import OptimizerKind
from components.shared.muon import MuonWithAdamW
from components.shared.training import ClippedModule, linear_schedule
from components.speech_decoder.averaging import follow
from components.speech_decoder.config import ObjectiveConfig, PhaseConfig
from components.speech_decoder.data import Batch
from components.speech_decoder.flow import SPEAKER_SIZE, MelFlow, cosine_time
from components.speech_decoder.layout import MelScale

_SEED_STRIDE = 1_000_003


class Weights(nn.Module):
    """All that is trained: the flow and, where no extractor gave them, a table of speaker vectors."""

    def __init__(self, flow: MelFlow, num_speakers: int, vectors: Tensor | None = None) -> None:
        """vectors: (speakers, 192), which stay as they are; None: the table is learned."""
        super().__init__()
        self.flow, self.learns_speakers = flow, vectors is None
        self.speakers = nn.Embedding(num_speakers, SPEAKER_SIZE, _weight=vectors)

    def learn(self) -> Weights:
        """Itself, in training mode, with gradients for whatever is trained: an average that was heard has neither."""
        self.train()
        self.requires_grad_(True)
        self.speakers.requires_grad_(self.learns_speakers)
        return self


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Means over a batch, in units of the normalised mel squared."""

    flow: Tensor
    prior: Tensor


def losses(
    weights: Weights, mel: Tensor, batch: Batch, objective: ObjectiveConfig, *, flow: bool, prompt_unit: float
) -> Losses:
    """Flow-matching and prior loss of a batch; randomness from torch's global generator.

    mel: (B, 80, F), normalised. prompt_unit: prompts are cut at multiples of so many frames.
    """
    content = weights.flow.content(batch.tokens, mel.shape[-1])
    prior = (content.float() - mel).square().mean()
    if not flow:
        return Losses(flow=torch.zeros_like(prior), prior=prior)
    num_rows, device = len(mel), mel.device
    kept = (torch.rand(num_rows, device=device) >= objective.drop_share).float()
    prompt = mel * _prefixes(num_rows, mel.shape[-1], objective, prompt_unit, device)[:, None]
    time = cosine_time(torch.rand(num_rows, device=device))
    noise = torch.randn_like(mel)
    left = 1.0 - objective.sigma_min
    noisy = (1.0 - left * time)[:, None, None] * noise + time[:, None, None] * mel
    speaker = weights.flow.speaker(weights.speakers(batch.speaker))
    velocity = weights.flow.velocity(
        noisy, time, content * kept[:, None, None], speaker * kept[:, None], prompt * kept[:, None, None]
    )
    return Losses(flow=(velocity.float() - (mel - left * noise)).square().mean(), prior=prior)


def _prefixes(rows: int, num_frames: int, objective: ObjectiveConfig, unit: float, device: torch.device) -> Tensor:
    """(rows, frames), 1 where a row shows its own mel as prompt, 0 elsewhere."""
    shown = (torch.rand(rows, device=device) < objective.prompt_share).float()
    longest = torch.rand(rows, device=device) * objective.max_prompt * num_frames * shown
    length = torch.floor(torch.floor(longest / unit) * unit)
    return (torch.arange(num_frames, device=device)[None] < length[:, None]).float()


class DecoderModule(ClippedModule):
    """Trains Weights for one phase and keeps their running average, which is what is saved."""

    def __init__(
        self,
        weights: Weights,
        scale: MelScale,
        objective: ObjectiveConfig,
        phase: PhaseConfig,
        *,
        optimizer: OptimizerKind,
        weight_decay: float,
        betas: tuple[float, float],
        ema_decay: float,
        prompt_unit: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.average = copy.deepcopy(weights).requires_grad_(False)
        self.weights = weights.learn()
        self.scale, self.objective, self.phase = scale, objective, phase
        self.weight_decay, self.betas, self.ema_decay = weight_decay, betas, ema_decay
        self.prompt_unit, self.seed = prompt_unit, seed

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch; its noise and dropout come from (seed, number of the batch), so that a resumed run is the same."""
        torch.manual_seed(self.seed * _SEED_STRIDE + batch.index)
        made = self._losses(self.weights, batch)
        total = made.flow + self.objective.prior_weight * made.prior
        name = self.phase.name
        if self.phase.flow:
            self.log(f"{name}/loss_flow", made.flow.detach())
        self.log(f"{name}/loss_prior", made.prior.detach())
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses of the averaged weights with the same noise at every validation."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed * _SEED_STRIDE + batch.index)
            made = self._losses(self.average, batch)
        name = f"validation/{self.phase.name}"
        if self.phase.flow:
            self.log(f"{name}/loss_flow", made.flow, batch_size=len(batch.mel))
        self.log(f"{name}/loss_prior", made.prior, batch_size=len(batch.mel))

    def _losses(self, weights: Weights, batch: Batch) -> Losses:
        mel = self.scale.normalise(batch.mel)
        return losses(weights, mel, batch, self.objective, flow=self.phase.flow, prompt_unit=self.prompt_unit)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """The step and, as a part of it, the average's move."""
        super().optimizer_step(*arguments, **named)
        follow(self.average, self.weights, self.global_step + 1, self.ema_decay)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Batches are our own class, which Lightning does not know how to move."""
        return batch.to(device)

    def configure_optimizers(self) -> Any:
        """AdamW or Muon under a linear warm-up and decay; vectors are not decayed."""
        phase = self.phase
        optimizer = optimizer_of(self.weights, self.optimizer, phase.peak_lr, self.weight_decay, self.betas)
        factor = linear_schedule(phase.peak_lr, phase.final_lr, phase.warmup_steps, phase.trainer.num_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


_NO_MATRICES = ("input_embedding.weight", "speakers.weight", "pos_bias_u", "pos_bias_v")
"""Ends of the names of tables and biases of two dimensions."""


def optimizer_of(
    weights: Weights, kind: OptimizerKind, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW, or Muon for matrices and kernels with AdamW for the rest, of whatever is trained."""
    learnt = [(name, p) for name, p in weights.named_parameters() if p.requires_grad]
    if kind is OptimizerKind.muon:
        matrices: list[Tensor] = []
        rest: list[Tensor] = []
        for name, p in learnt:
            (matrices if p.ndim >= 2 and not name.endswith(_NO_MATRICES) else rest).append(p)
        return MuonWithAdamW(matrices, rest, lr=lr, weight_decay=weight_decay, betas=betas)
    groups = [
        {"params": [p for _, p in learnt if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for _, p in learnt if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
