"""Training of the text-to-token model: cross-entropy of the speech tokens and their end."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from components.shared.lm_module import LanguageModelModule
from components.shared.packing import IGNORED, attention_mask


class TextToTokenModule(LanguageModelModule):
    """The shared module of language models, with label smoothing and token accuracy."""

    label_smoothing = 0.0

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """logits (learnt tokens, vocabulary) float32 and their labels (learnt tokens,) of a packed batch."""
        hidden = self.model.get_decoder()(
            input_ids=batch["token_ids"],
            position_ids=batch["positions"],
            attention_mask=attention_mask(batch["segments"]),
            use_cache=False,
        ).last_hidden_state
        learnt = batch["labels"] != IGNORED
        logits = self.model.get_output_embeddings()(hidden[learnt])
        return logits[:, : self.vocabulary.size].float(), batch["labels"][learnt]

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch, nats per token."""
        logits, labels = self(batch)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if (self.global_step + 1) % self.log_every_steps == 0:
            with torch.no_grad():
                accuracy = (logits.argmax(-1) == labels).float().mean()
            self.log_dict({"loss": loss.detach(), "token_accuracy": accuracy}, batch_size=1)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Loss and accuracy on unseen sentences, averaged over tokens."""
        logits, labels = self(batch)
        values = {
            "validation_loss": F.cross_entropy(logits, labels),
            "validation_token_accuracy": (logits.argmax(-1) == labels).float().mean(),
        }
        self.log_dict(values, batch_size=len(labels), on_epoch=True, on_step=False)
