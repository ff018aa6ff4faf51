"""The training step of HiFT: generator and discriminators take one step together, of the same weights.

One optimizer with a group of parameters for each is two that step at once: a training step is one optimizer step to
the trainer, its checkpoints and its curves. HiFi-GAN lets the discriminators go first and shows the generator their
new weights; here both gradients are taken at the old ones, and the recorded wave is judged once instead of twice.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from components.shared.lm_config import OptimizerKind
from components.shared.muon import MuonWithAdamW
from components.shared.training import ClippedModule, linear_schedule
from components.speech_decoder.averaging import follow
from components.speech_decoder.config import VocoderConfig
from components.speech_decoder.discriminators import Discriminators, Judged
from components.speech_decoder.hift import Hift
from components.speech_decoder.mel import HOP, log_mel
from components.speech_decoder.vocoder import whole_wave
from components.speech_decoder.vocoder_data import EDGE_FRAMES, Crops
from components.speech_decoder.vocoder_losses import (
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    mel_loss,
    pitch_errors,
    relativistic_loss,
    spectral_loss,
    upsampled,
)

_SEED_STRIDE = 1_000_003


class VocoderModule(ClippedModule):
    """Trains a Hift and keeps its running average, which is what is saved."""

    def __init__(self, network: Hift, discriminators: Discriminators, config: VocoderConfig, *, seed: int) -> None:
        """seed: of the source's noise, with the number of the batch."""
        super().__init__()
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.network, self.discriminators = network, discriminators
        self.config, self.seed = config, seed

    def training_step(self, batch: Crops, batch_idx: int) -> Tensor:
        """One batch; its noise comes from (seed, number of the batch), so that a resumed run is the same."""
        weights, step = self.config.losses, self.global_step
        edge = EDGE_FRAMES * HOP
        real = batch.wave[:, edge:-edge]
        noise = torch.Generator().manual_seed(self.seed * _SEED_STRIDE + batch.index)
        with self._exactly():
            mel = log_mel(batch.wave)[:, :, EDGE_FRAMES:-EDGE_FRAMES]
            predicted = self.network.f0_predictor(mel)
            sung = batch.pitch if step < self.config.reference_pitch_until_step else predicted.detach()
            source = self.network.source(upsampled(sung), noise)
        made = self.network.decode(mel, source)
        with self._exactly():
            losses = {"mel": mel_loss(made, real), "pitch": (predicted - batch.pitch).abs().mean()}
            total = weights.mel_weight * losses["mel"] + weights.pitch_weight * losses["pitch"]
            if weights.spectral_weight:
                losses["spectral"] = spectral_loss(made, real, self.config.discriminators.resolutions)
                total = total + weights.spectral_weight * losses["spectral"]
        if step >= self.config.discriminators_from_step:
            of_real, of_made = self.discriminators(real), self.discriminators(made.detach())
            with _frozen(self.discriminators):
                heard = self.discriminators(made)
            with self._exactly():
                total = total + self._against(of_real, of_made, heard, losses)
        for name, value in losses.items():
            self.log(f"vocoder/{name}", value.detach(), batch_size=len(real))
        return total

    def _against(
        self, of_real: list[Judged], of_made: list[Judged], heard: list[Judged], losses: dict[str, Tensor]
    ) -> Tensor:
        """Losses of both sides: `of_made` moves the discriminators alone, `heard` the generator alone."""
        weights = self.config.losses
        losses["discriminators"] = discriminator_loss(of_real, of_made)
        losses["adversarial"] = adversarial_loss(heard)
        losses["features"] = feature_loss(of_real, heard)
        total = losses["discriminators"] + weights.adversarial_weight * losses["adversarial"]
        total = total + weights.feature_weight * losses["features"]
        if weights.relativistic_weight:
            limit = weights.relativistic_limit
            fixed = [Judged(verdict=judged.verdict.detach(), features=[]) for judged in of_real]
            both = relativistic_loss(of_real, of_made, limit) + relativistic_loss(heard, fixed, limit)
            total = total + weights.relativistic_weight * both
        return total

    def validation_step(self, batch: Crops, batch_idx: int) -> None:
        """The averaged network as it is served: predicted pitch, fixed noise, whole utterances."""
        with self._exactly(), torch.no_grad():
            mel = log_mel(batch.wave)
            made = whole_wave(self.average, mel[0])
            predicted = self.average.f0_predictor(mel)[0]
            errors = pitch_errors(predicted, batch.pitch[0], self.average.config.nsf_voiced_threshold)
            self.log("validation/vocoder/vocoder_mel", mel_loss(made[None], batch.wave), batch_size=1)
            self.log("validation/vocoder/vocoder_voicing", errors.voicing, batch_size=1)
            self.log("validation/vocoder/vocoder_cents", errors.cents.nan_to_num(1200.0), batch_size=1)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Each part by its own norm: a pitch that is wrong by 100 Hz would else silence the rest.

        gradient_clip_val: largest norm, None: only log.
        """
        for name, parameters in self._parts().items():
            norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or float("inf"))
            self.log(f"vocoder/gradient_norm_{name}", norm, batch_size=1)

    def _parts(self) -> dict[str, list[nn.Parameter]]:
        pitch = list(self.network.f0_predictor.parameters())
        others = {id(parameter) for parameter in pitch}
        wave = [parameter for parameter in self.network.parameters() if id(parameter) not in others]
        return {"wave": wave, "pitch": pitch, "discriminators": list(self.discriminators.parameters())}

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """The step and, as a part of it, the average's move."""
        super().optimizer_step(*arguments, **named)
        follow(self.average, self.network, self.global_step + 1, self.config.ema_decay)

    def transfer_batch_to_device(self, batch: Crops, device: torch.device, dataloader_idx: int) -> Crops:
        """Batches are our own class, which Lightning does not know how to move."""
        return batch.to(device)

    def configure_optimizers(self) -> Any:
        """One optimizer for both sides, each with its learning rate, linear warm-up and decay of both."""
        config = self.config
        ours, theirs = list(self.network.parameters()), list(self.discriminators.parameters())
        sides = [{"params": ours, "lr": config.generator_lr}, {"params": theirs, "lr": config.discriminator_lr}]
        betas = (config.betas[0], config.betas[1])
        optimizer: torch.optim.Optimizer
        if config.optimizer is OptimizerKind.muon:
            kernels = [p for p in ours if p.ndim >= 2 and len(p) > 1 and p[0].numel() > 1]  # not the lengths weight_g
            rest = [p for p in ours if all(p is not kernel for kernel in kernels)]
            decay, lr = config.weight_decay, config.generator_lr
            optimizer = MuonWithAdamW(kernels, rest, lr=lr, weight_decay=decay, betas=betas, more=sides[1:])
        else:
            optimizer = torch.optim.AdamW(sides, betas=betas, weight_decay=config.weight_decay, fused=True)
        factor = linear_schedule(1.0, config.final_lr_share, config.warmup_steps, config.trainer.num_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _exactly(self) -> torch.autocast:
        """A region without mixed precision: pitch, transforms and losses."""
        return torch.autocast(self.device.type, enabled=False)


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Gradients flow through the network but not into it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
