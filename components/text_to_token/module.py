"""Training of the text-to-token model: cross-entropy of the speech tokens and their end, and an early nudge."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from components.shared.causal_lm_module import CausalLMModule
from components.shared.packing import IGNORED, attention_mask
from components.text_to_token.config import TextToTokenConfig
from components.text_to_token.guidance import Guide


class TextToTokenModule(CausalLMModule):
    """A causal LM with label smoothing, token accuracy and guided attention."""

    def __init__(self, model: Any, vocabulary: Any, config: TextToTokenConfig) -> None:
        """model: a Llama; vocabulary: of its tokenizer."""
        super().__init__(
            model,
            vocabulary,
            config.optimizer,
            num_steps=config.trainer.num_steps,
            chunk=1,
            log_every_steps=config.trainer.log_every_steps,
        )
        self.config = config
        self.guide = Guide(model, config.guidance.layer) if config.guidance.weight else None

    def forward(self, batch: dict[str, torch.Tensor], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """logits (learnt tokens, vocabulary) float32 and their labels (learnt tokens,) of a packed batch."""
        hidden = self.model.get_decoder()(
            input_ids=batch["token_ids"], position_ids=batch["positions"], attention_mask=mask, use_cache=False
        ).last_hidden_state
        learnt = batch["labels"] != IGNORED
        logits = self.model.get_output_embeddings()(hidden[learnt])
        return logits[:, : self.vocabulary.size].float(), batch["labels"][learnt]

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch, nats per token, with the nudge while it lasts."""
        mask = attention_mask(batch["segments"])
        logits, labels = self(batch, mask)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        values = {"loss": loss.detach()}
        weight = self._guidance_weight()
        if self.guide is not None and weight:
            astray = self.guide.loss(batch, mask)
            values["guidance"] = astray.detach()
            loss = loss + weight * astray
        if (self.global_step + 1) % self.log_every_steps == 0:
            with torch.no_grad():
                values["token_accuracy"] = (logits.argmax(-1) == labels).float().mean()
            self.log_dict(values, batch_size=1)
        return loss

    def _guidance_weight(self) -> float:
        """From its full weight down to 0 at its last step, linearly."""
        last = self.config.guidance.until * self.num_steps
        return self.config.guidance.weight * max(0.0, 1 - self.global_step / last) if last else 0.0

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Loss and accuracy on unseen sentences, averaged over tokens."""
        logits, labels = self(batch, attention_mask(batch["segments"]))
        values = {
            "validation_loss": F.cross_entropy(logits, labels),
            "validation_token_accuracy": (logits.argmax(-1) == labels).float().mean(),
        }
        self.log_dict(values, batch_size=len(labels), on_epoch=True, on_step=False)
