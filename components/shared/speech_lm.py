"""Speech-text language models on disk and in memory: random start, growth of a text LM.

A model folder is a stock causal LM of Hugging Face (config.json, safetensors, tokenizer) with speech.json beside it:
num_codes, vocabulary_size. Rows of the embedding past vocabulary_size only pad the matrix and are never a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from components.shared.formats import Formats
from components.shared.lm_config import LmShapeConfig
from components.shared.manifest import read_json, write_json
from components.shared.tokens import Vocabulary, load_tokenizer

SPEECH_FILE = "speech.json"
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Glm4ForCausalLM")
"""Causal LMs that transformers and SGLang both list."""
NOISE_TIED, NOISE_APART = 1.0, 0.1
"""Spread of new embedding rows around the mean of the old ones, relative to theirs (docs/results.md, "New rows")."""


@dataclass(frozen=True)
class SpeechTextLM:
    """A model with its tokenizer; `formats` builds every prompt that the model was trained on."""

    folder: Path
    model: Any
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary

    @property
    def formats(self) -> Formats:
        """Documents and prompts as token ids."""
        return Formats(self.tokenizer, self.vocabulary)


def random_model(shape: LmShapeConfig, vocabulary: Vocabulary, max_length: int, seed: int) -> LlamaForCausalLM:
    """A Llama of the shape with random weights; the same seed gives the same weights."""
    config = LlamaConfig(
        vocab_size=_padded(vocabulary.size, shape.pad_vocabulary_to),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=max_length,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        initializer_range=shape.init_std,
        tie_word_embeddings=shape.tied,
        **_special_ids(vocabulary),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def grown_model(base: str, vocabulary: Vocabulary, num_base_tokens: int, pad_to: int, seed: int) -> Any:
    """A pre-trained text LM with rows for the new tokens; its logits of text tokens do not change.

    base: hub id or folder; num_base_tokens: ids below it are the base's own. New rows of the embedding are the mean of
    the base's rows plus noise: a speech token starts as an average word, and no two start alike. Where it is the head
    as well (tied), the noise is as wide as the base's rows are spread. New rows of a head of its own are small random
    numbers, as in a fresh model: an average word there would make every speech token as likely as one.
    Raises ValueError when the base cannot be read or is of an architecture that no engine runs.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"pretrain.base: {base!r}: {line}; wanted a hub id or the folder of a causal LM") from error
    if type(model).__name__ not in ARCHITECTURES:
        raise ValueError(f"pretrain.base: got {type(model).__name__}, wanted one of {', '.join(ARCHITECTURES)}")
    window = getattr(model.config, "sliding_window", None)
    if window and getattr(model.config, "use_sliding_window", True):
        raise ValueError(f"pretrain.base: {base!r} has an attention window of {window} tokens, wanted full attention")
    rows = model.get_input_embeddings().weight.shape[0]
    if num_base_tokens > rows:
        raise ValueError(
            f"pretrain.base: {base!r} has {rows} rows, but its tokenizer in data/mix {num_base_tokens} ids"
        )
    size = max(rows, _padded(vocabulary.size, pad_to))
    model.resize_token_embeddings(size, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    new = (size - num_base_tokens, embedding.shape[1])
    with torch.no_grad():
        old, noise = embedding[:num_base_tokens], NOISE_TIED if head is embedding else NOISE_APART
        embedding[num_base_tokens:] = old.mean(0) + noise * old.std(0) * torch.randn(new, generator=generator)
        if head is not embedding:
            head[num_base_tokens:] = model.config.initializer_range * torch.randn(new, generator=generator)
    for name, value in _special_ids(vocabulary).items():
        setattr(model.config, name, value)
    return model


def save_model(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: Vocabulary,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a folder that transformers and SGLang load. Nothing is written through pickle.

    state: the model's tensors when they are not whole in the model itself; {} writes nothing, for a rank without them.
    """
    if state == {}:
        return
    model.generation_config.eos_token_id = vocabulary.end_of_text
    model.generation_config.pad_token_id = vocabulary.pad
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    write_json(folder / SPEECH_FILE, {"num_codes": vocabulary.num_codes, "vocabulary_size": vocabulary.size})


def load_formats(folder: Path | str) -> Formats:
    """The prompts of a model folder of pretrain or sft, without its weights: for who gives them to an engine.

    Raises ValueError when the folder is none.
    """
    folder = Path(folder)
    if not (folder / SPEECH_FILE).is_file():
        raise ValueError(f"{folder}: no {SPEECH_FILE}; wanted a model folder of pretrain or sft")
    tokenizer = load_tokenizer(folder)
    return Formats(tokenizer, Vocabulary.of(tokenizer, int(read_json(folder / SPEECH_FILE)["num_codes"])))


def load_model(folder: Path | str) -> SpeechTextLM:
    """A model folder of pretrain or sft, float32, in evaluation mode.

    Raises ValueError when the folder is none or its tokenizer does not fit the model.
    """
    folder, formats = Path(folder), load_formats(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < formats.vocabulary.size:
        raise ValueError(f"{folder}: the embedding has {rows} rows, but the tokenizer {formats.vocabulary.size} ids")
    return SpeechTextLM(folder, model, formats.tokenizer, formats.vocabulary)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _special_ids(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "bos_token_id": vocabulary.end_of_text,
        "eos_token_id": vocabulary.end_of_text,
        "pad_token_id": vocabulary.pad,
    }
