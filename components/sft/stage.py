"""The story of sft: dialogues in the chat format, the pre-trained model, a few epochs, a look at its answers."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from components.pretrain.model import load
from components.sft.config import SftConfig
from components.sft.data import ChatLoader, Chats, batches_of, read_chats
from components.sft.model import CHAT_FILE
from components.sft.model import load as load_chat
from components.shared.contracts import Dialogue
from components.shared.formats import ChatTurn, Formats
from components.shared.lm_module import LanguageModelModule
from components.shared.manifest import read_table, seal, write_json
from components.shared.packed_attention import packed
from components.shared.places import Inputs, Outputs
from components.shared.speech_lm import save_model
from components.shared.tracking import Tracker
from components.shared.training import fit

SOURCES = ["spoken", "written"]
NUM_SHOWN, SHOWN_TOKENS = 4, 96


def run(config: SftConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Fine-tune the pre-trained model on spoken dialogues.

    Reads   data/dialogues/dialogues, data/pretrain/model
    Writes  data/sft/model/ (Hugging Face folder)
    Metrics validation_loss, validation_loss_text, validation_loss_speech, validation_loss_<spoken|written>_source:
            nats per learnt token of held-out chats; num_chats, num_steps, epochs, padding_share, dropped_long
    Source  Zeng et al. 2024, section 2.4

    Raises ValueError when no dialogue fits into a sequence or a code is outside the model's vocabulary.
    """
    rows = list(read_table(inputs.folder("dialogues", "dialogues"), Dialogue))
    base = inputs.folder("pretrain", "model")
    lm = load(base)
    chats = {split: _chats(config, rows, split, lm.formats) for split in ("train", "validation")}
    dropped = sum(part.dropped_long for part in chats.values())
    if not chats["train"].pieces:
        raise ValueError(f"sft.sequence_length: got {config.sequence_length}, no dialogue is that short")
    if dropped:
        tracker.say(f"sft: {dropped} dialogues longer than {config.sequence_length} tokens were left out")

    accumulate = config.trainer.accumulate_batches
    whole = batches_of(chats["train"], config.sequence_length, config.batch_sequences, config.seed, config.num_epochs)
    num_steps = config.trainer.num_steps or math.ceil(whole / accumulate)
    trainer = replace(config.trainer, num_steps=num_steps)
    train = _loader(config, chats["train"], num_steps * accumulate, lm.vocabulary.pad)
    held_out = batches_of(chats["validation"], config.sequence_length, config.batch_sequences, config.seed, 1)
    validation = _loader(config, chats["validation"], held_out, lm.vocabulary.pad) if held_out else None
    tracker.say(f"sft: {len(chats['train'].pieces)} chats, {num_steps} steps")
    module = LanguageModelModule(
        lm.model,
        lm.vocabulary,
        config.optimizer,
        num_steps=num_steps,
        sources=SOURCES,
        chunk=config.loss_chunk,
        log_every_steps=trainer.log_every_steps,
        compute=config.compute,
    )
    torch.set_num_threads(config.num_threads)
    started = time.perf_counter()
    lm.model.train()
    with packed(lm.model):
        metrics = fit(module, train, validation, trainer, tracker=tracker, checkpoints=outputs.checkpoints, what="sft")
    learnt = sum(len(piece.token_ids) for piece in chats["train"].pieces)
    slots = len(train.packed(0)) * config.sequence_length
    metrics |= module.summary() | {
        "num_chats": float(len(chats["train"].pieces)),
        "num_steps": float(num_steps),
        "epochs": num_steps * accumulate * config.num_epochs / max(1, whole),
        "padding_share": 1 - learnt / slots,
        "dropped_long": float(dropped),
        "seconds": time.perf_counter() - started,
    }
    folder = outputs.folder("model")
    save_model(folder, lm.model, lm.tokenizer, lm.vocabulary)
    write_json(folder / CHAT_FILE, {"system": config.system, "num_codes": lm.vocabulary.num_codes})
    seal(folder)
    tracker.log_model(folder, "sft")
    _show(folder, rows, tracker)
    lengths = [{"chat_tokens": float(len(piece.token_ids))} for piece in chats["train"].pieces[:5000]]
    outputs.write_stats(shards=[metrics], rows=lengths)
    return metrics


def _chats(config: SftConfig, rows: list[Dialogue], split: str, formats: Formats) -> Chats:
    chosen = [row for row in rows if row.split == split]
    return read_chats(chosen, formats, config.system, config.written_share, config.sequence_length, config.seed)


def _loader(config: SftConfig, chats: Chats, num_batches: int, pad_id: int) -> ChatLoader:
    return ChatLoader(
        chats=chats,
        sequence_length=config.sequence_length,
        pad_id=pad_id,
        batch_size=config.batch_sequences,
        num_batches=num_batches,
        seed=config.seed,
    )


def _show(folder: Path, rows: list[Dialogue], tracker: Tracker) -> None:
    """Log answers to a few held-out first turns, spoken and written."""
    chosen = [row for row in rows if row.split == "validation"] or rows
    chosen = [chosen[int(i)] for i in np.linspace(0, len(chosen) - 1, min(NUM_SHOWN, len(chosen)))]
    asked = [(row, how, codes) for row in chosen for how, codes in (("spoken", row.turns[0].tokens), ("written", []))]
    chat = load_chat(folder)
    turns = [[ChatTurn(role="user", text=row.turns[0].text, codes=codes)] for row, _, codes in asked]
    requests = [chat.request(str(number), turn, SHOWN_TOKENS) for number, turn in enumerate(turns)]
    lines = []
    for (row, how, _), completion in zip(asked, chat.engine.generate_all(requests), strict=True):
        reply = chat.read(completion.token_ids, completion.finish_reason == "stop")
        said = f"{reply.text} [{len(reply.codes)} tokens]{'' if reply.finished else ' (cut)'}"
        lines.append(f"{how}: {row.turns[0].text}\n  -> {said}\n  wanted: {row.turns[1].text}")
    tracker.log_text("\n".join(lines) + "\n", "replies.txt")
