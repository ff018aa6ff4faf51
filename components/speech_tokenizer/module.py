"""Training of a WhisperVQ: cross-entropy of transcripts, distance to the un-quantised Whisper, commitment.

Works without mlflow, dvc, prefect and great_expectations.
Source  Zeng et al. 2024, section 2.1; the distance to the un-quantised Whisper is ours
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from components.shared.contracts import ORIGINS
from components.shared.recognizer import error_measure, word_error_rate
from components.shared.training import ClippedModule, linear_schedule
from components.speech_tokenizer.batch import Batch
from components.speech_tokenizer.codebook_start import start_codebook
from components.speech_tokenizer.config import SpeechTokenizerConfig
from components.speech_tokenizer.quantizer import all_sum, broadcast, code_use, gather, global_mean, world_size
from components.speech_tokenizer.teacher import pooled_states
from components.speech_tokenizer.transcripts import NO_LABEL, Transcripts, decode_greedily
from components.speech_tokenizer.whisper_vq import Encoder, Quantised, WhisperVQ


@dataclass
class _Seen:
    """One batch at its N valid tokens."""

    hidden: Tensor
    """(N, D) float32: states that the bottleneck will quantise."""
    places: Tensor
    """(N,) int64: each token's place in its clip."""
    wanted: Tensor | None
    """(N, D) float32: final states of the un-quantised Whisper."""
    count: int
    """Tokens of the batch on all ranks."""


class TokenizerTraining(ClippedModule):
    """One WhisperVQ, the Whisper it came from, and what is watched while it learns."""

    def __init__(
        self, network: WhisperVQ, teacher: Encoder | None, transcripts: Transcripts, config: SpeechTokenizerConfig
    ) -> None:
        super().__init__()
        self.network, self.config, self.transcripts = network, config, transcripts
        # In a list, so that its weights are neither trained nor saved with the run.
        self._teacher = [teacher.eval().requires_grad_(False)] if teacher is not None else []
        self.is_closed = False
        """Whether the bottleneck quantises; before that, states pass through pooled only."""
        self.seen: list[_Seen] = []
        """The latest batches, until k-means has taken them."""
        self.codes_used = torch.zeros(network.config.quantize_vocab_size or 0)
        self.restarts = 0
        self.said: dict[tuple[str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        self.validation_codes = torch.zeros_like(self.codes_used)
        network.encoder.restart_seed = config.seed
        network.encoder.checkpoint_activations = config.checkpoint_activations
        for name, value in network.model.named_parameters():
            if any(name.startswith(prefix) for prefix in config.frozen):
                value.requires_grad_(False)

    @property
    def needs_teacher(self) -> bool:
        """Whether the distance to the un-quantised Whisper is part of the loss."""
        return bool(self._teacher) and self.config.distil_weight > 0

    def configure_optimizers(self) -> Any:
        """AdamW, matrices decayed, everything else not; linear warm-up and linear decay."""
        config = self.config
        groups: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, value in self.network.named_parameters():
            if value.requires_grad:
                groups[value.dim() > 1 and "embed" not in name].append(value)
        options = [
            {"params": groups[True], "weight_decay": config.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(options, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
        factor = linear_schedule(config.lr, config.final_lr, config.warmup_steps, config.trainer.num_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch."""
        return batch.to(device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Close the bottleneck when its time has come."""
        enough = sum(seen.count for seen in self.seen) >= len(self.codes_used)
        if not self.is_closed and enough and self.global_step >= self.config.quantize_from_step:
            self.close()

    def close(self) -> None:
        """Start the codebook from the states seen last, on all ranks the same."""
        encoder, config = self.network.encoder, self.config
        # Batch by batch, so that the order is that of one process.
        hidden = torch.cat([gather(seen.hidden.to(self.device)) for seen in self.seen])
        places = torch.cat([gather(seen.places.to(self.device)[:, None])[:, 0] for seen in self.seen])
        kept = [gather(seen.wanted.to(self.device)) for seen in self.seen if seen.wanted is not None]
        wanted = torch.cat(kept) if kept else None
        centres, counts = start_codebook(
            hidden,
            wanted,
            places,
            len(self.codes_used),
            config.kmeans_directions,
            config.kmeans_iterations,
            config.seed,
        )
        centres, counts = broadcast(centres), broadcast(counts)
        shares = (counts / counts.sum() * self.seen[-1].count).clamp(min=config.ema_decay**config.restart_interval)
        encoder.codebook.weight.data.copy_(centres)
        encoder.ema_count.copy_(shares)
        encoder.ema_weight.copy_(centres * shares[:, None])
        self.seen, self.is_closed = [], True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the three losses on one batch."""
        encoder, config = self.network.encoder, self.config
        hidden, valid = self._hidden(batch)
        wanted = self._wanted(batch, valid) if self.needs_teacher else None
        loss = torch.zeros((), device=self.device)
        if self.is_closed:
            quantised = encoder.quantise(hidden, valid)
            hidden = quantised.hidden
            loss = loss + config.commit_scale * config.commit_coefficient * quantised.commitment
            self._watch(quantised, len(batch.clips))
        else:
            self._remember(hidden.detach(), valid, wanted)
        states = encoder.after(hidden, valid)
        seen: dict[str, Tensor] = {}
        if self.global_step >= config.text_from_step:
            seen["text_loss"] = self._text_loss(batch, states, valid)
            loss = loss + seen["text_loss"]
        elif world_size() > 1:  # ranks wait for the gradient of every parameter
            loss = loss + sum(0.0 * value.sum() for value in self.network.decoder.parameters() if value.requires_grad)
        if wanted is not None:
            seen["distance_to_whisper"] = self._distance(states[valid], wanted)
            loss = loss + config.distil_weight * seen["distance_to_whisper"]
        seen |= {"loss": loss, "lr": torch.tensor(self.lr_schedulers().get_last_lr()[0])}  # type: ignore[union-attr]
        self.log_dict({name: value.detach() for name, value in seen.items()}, batch_size=len(batch.clips))
        return loss

    def _hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States before the quantiser (B, K, D) and valid (B, K)."""
        if batch.front is not None:
            return self.network.encoder.middle(batch.front, batch.mask), batch.mask
        assert batch.features is not None
        return self.network.encoder.before(batch.features, batch.mask)

    def _text_loss(self, batch: Batch, states: Tensor, valid: Tensor) -> Tensor:
        """Nats per text token, over all ranks."""
        decoder, learnt = self.network.decoder, batch.targets != NO_LABEL
        hidden = decoder.hidden(batch.inputs, decoder.start(states), valid)
        # Only the positions that are learnt meet the vocabulary, which costs as much as the layers below it.
        logits = decoder.project(hidden[learnt]).float()
        return global_mean(functional.cross_entropy(logits, batch.targets[learnt], reduction="sum"), learnt.sum())

    @torch.no_grad()
    def _wanted(self, batch: Batch, valid: Tensor) -> Tensor:
        """Pooled final states of the un-quantised Whisper at the valid tokens: (N, D) float32."""
        wanted = batch.wanted
        if wanted is None:
            assert batch.clean is not None
            teacher = self._teacher[0].to(self.device)
            wanted = pooled_states(teacher, batch.clean, batch.mask, self.network.config.kernel)
        length = min(wanted.shape[1], valid.shape[1])
        return wanted[:, :length][valid[:, :length]].float()

    def _distance(self, states: Tensor, wanted: Tensor) -> Tensor:
        """Squared distance of states to the wanted ones, (N, D) each, as a share of the variance of these."""
        count = torch.tensor(float(len(wanted)), device=self.device)
        total = all_sum(count).clamp(min=1.0)
        mean = all_sum(wanted.sum(0)) / total
        variance = all_sum((wanted - mean).square().mean(-1).sum()) / total
        squared = (states.float() - wanted).square().mean(-1) / variance.clamp(min=1e-6)
        return global_mean(squared.sum(), count)

    def _remember(self, hidden: Tensor, valid: Tensor, wanted: Tensor | None) -> None:
        """Keep the latest states for k-means, as many as it wants."""
        places = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)[valid]
        self.seen.append(_Seen(hidden[valid].float(), places, wanted, int(all_sum(valid.sum()))))
        while len(self.seen) > 1 and sum(seen.count for seen in self.seen[1:]) >= self.config.kmeans_frames:
            self.seen.pop(0)

    def _watch(self, quantised: Quantised, size: int) -> None:
        counts = quantised.counts.cpu()
        self.codes_used = 0.95 * self.codes_used + counts
        self.restarts += quantised.restarted
        used, perplexity = code_use((self.codes_used > 0.05) * self.codes_used)
        dead = (self.network.encoder.ema_count < self.config.ema_decay**self.config.restart_interval).float().mean()
        self.log_dict({"codes_used": used, "perplexity": perplexity, "restarts": float(self.restarts)}, batch_size=size)
        self.log_dict({"commitment": quantised.commitment.detach(), "dead_codes": dead}, batch_size=size)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and transcripts of one batch."""
        encoder = self.network.encoder
        hidden, valid = self._hidden(batch)
        if self.is_closed:
            quantised = encoder.quantise(hidden, valid)
            hidden = quantised.hidden
            self.log("validation_commitment", quantised.commitment, batch_size=len(batch.clips))
            ids = quantised.token_ids[valid].cpu()
            self.validation_codes += torch.bincount(ids, minlength=len(self.validation_codes))
        states = encoder.after(hidden, valid)
        self.log("validation_text_loss", self._text_loss(batch, states, valid), batch_size=len(batch.clips))
        prompts = [self.transcripts.prompt(clip.language) for clip in batch.clips]
        found = decode_greedily(self.network.decoder, states, valid, prompts, self.network.config, self.transcripts.end)
        for clip, ids_found in zip(batch.clips, found, strict=True):
            wanted, said = self.said[clip.language, clip.origin]
            wanted.append(clip.text)
            said.append(self.transcripts.text(ids_found))

    def on_validation_epoch_end(self) -> None:
        """Word (Mandarin: character) error rates per language and origin, and how the codes were used."""
        # Every rank goes through all groups, whether its clips hold them or not, since the sums are over the ranks.
        for language in sorted(self.config.languages):
            for origin in ORIGINS[:2]:
                found = word_error_rate(*self.said[language, origin], language)
                errors, length = all_sum(torch.tensor([found.errors, found.length], device=self.device)).tolist()
                if length:
                    self.log(f"validation_{error_measure(language)}_{language}_{origin}", errors / length)
        used, perplexity = code_use(all_sum(self.validation_codes.to(self.device)))
        self.log_dict({"validation_codes_used": used, "validation_perplexity": perplexity})
        self.said.clear()
        self.validation_codes.zero_()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a resumed run needs beside the weights."""
        checkpoint["bottleneck"] = {
            "is_closed": self.is_closed,
            "seen": [vars(seen) for seen in self.seen],
            "codes_used": self.codes_used,
            "restarts": self.restarts,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counterpart."""
        state = checkpoint["bottleneck"]
        self.is_closed, self.restarts = state["is_closed"], state["restarts"]
        self.codes_used, self.seen = state["codes_used"], [_Seen(**seen) for seen in state["seen"]]
