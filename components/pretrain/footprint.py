"""What a model takes of a GPU's memory while it is trained, by formula: nothing is allocated.

The model itself stands on torch's meta device, so that its parameters are counted and not estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.pretrain.config import PretrainConfig
from components.shared.lm_config import Kept, LmShapeConfig, OptimizerKind
from components.shared.rates import Rates
from components.shared.training_config import StrategyKind

BASES = {
    "zai-org/GLM-4-9B-0414": ("glm4", 151552),
    "zai-org/GLM-4-32B-0414": ("glm4", 151552),
    "Qwen/Qwen2.5-1.5B": ("qwen2", 151936),
    "Qwen/Qwen2.5-7B": ("qwen2", 152064),
}
"""Bases planned for without a download: architecture, rows of the embedding; the sizes are `pretrain.shape`."""
NUM_SPECIAL = 7
"""Tokens beside text and speech codes that a base may lack (DESIGN: roles, begin and end of audio, end, padding)."""
BYTES = {"bf16-mixed": 4, "bf16-true": 2, "32-true": 4}
"""Of a weight, of its gradient and of each of its optimizer's numbers, under Lightning's precisions."""


def meta_model(base: str, shape: LmShapeConfig, num_codes: int, text_tokens: int) -> Any:
    """The causal LM with rows for speech tokens, on the meta device.

    base: hub id or folder, empty for a random start; text_tokens: rows of the vocabulary of a random start.
    Raises ValueError for a base that is neither known here nor readable.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    kind, rows = BASES.get(base, ("llama", text_tokens))
    if base and base not in BASES:
        try:
            config: Any = AutoConfig.from_pretrained(base)
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise ValueError(
                f"pretrain.base: {base!r}: {line}; wanted a folder or one of {', '.join(BASES)}"
            ) from error
        rows = config.vocab_size
    else:
        make: Any = CONFIG_MAPPING[kind]
        config = make(
            hidden_size=shape.hidden_size,
            intermediate_size=shape.feed_forward_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_key_value_heads,
            head_dim=shape.hidden_size // shape.num_heads,
            tie_word_embeddings=shape.tied,
        )
    grown = rows + NUM_SPECIAL + num_codes
    config.vocab_size = -(-grown // shape.pad_vocabulary_to) * shape.pad_vocabulary_to
    config.pad_token_id = 0  # GLM's default is a row that a small vocabulary does not have
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on one GPU."""

    states: float
    """Weights, gradients and the optimizer's numbers: this rank's part."""
    gathered: float
    """Whole weights in bfloat16 while they are used: embedding, head and two layers under FSDP2; all under autocast."""
    held: float
    """Kept of the forward pass for the backward pass."""
    again: float
    """One layer's forward pass while it is computed again."""
    loss: float
    """Logits of a chunk, and the gradients of the head and of its input until the backward pass takes them."""
    exchange: float
    """Gradients of embedding and head on their way to their shards; the activations are gone by then."""
    margin: float
    """The driver, communication, workspaces, and what the allocator cannot use."""

    @property
    def total(self) -> float:
        """At the fuller of two moments: the end of the forward pass, and the end of the backward pass."""
        return self.states + self.gathered + max(self.held + self.again + self.loss, self.exchange) + self.margin


def footprint(config: PretrainConfig, model: Any, num_tokens: int, ranks: int, rates: Rates) -> Footprint:
    """Memory of a rank that passes num_tokens forward and backward at a time; model: from meta_model."""
    width, lm = BYTES[config.trainer.precision], model.config
    parameters = sum(p.numel() for p in model.parameters())
    first = model.get_decoder().layers[0]
    layer = sum(p.numel() for p in first.parameters())
    outer = parameters - lm.num_hidden_layers * layer
    sharded = ranks > 1 and config.trainer.strategy is StrategyKind.fsdp2
    compute = 4 if config.trainer.precision == "32-true" else 2
    residual = 4 if width == 4 and not sharded else compute  # autocast adds in float32, FSDP2 in what it gathers
    numbers = 4 if config.optimizer.kind is OptimizerKind.adamw else 3  # weight, gradient, mean, mean of squares
    cast = 0 if width == compute else parameters * compute
    whole = (outer + 2 * layer) * compute if sharded else cast
    products = num_tokens * compute * product_width(lm)
    inputs = num_tokens * residual * lm.hidden_size
    again = products + num_tokens * compute * between_width(first, lm) + inputs
    kept = {Kept.inputs: inputs, Kept.products: inputs + products, Kept.everything: again}[config.compute.kept]
    head = lm.vocab_size * lm.hidden_size * (compute if sharded else width)
    chunk = min(config.loss_chunk, num_tokens)
    found = {
        "states": parameters * width * numbers / (ranks if sharded else 1),
        "gathered": whole,
        "held": lm.num_hidden_layers * kept,
        "again": 0 if config.compute.kept is Kept.everything else again,
        "loss": chunk * lm.vocab_size * (compute + 4) + head + 2 * num_tokens * lm.hidden_size * compute,
        "exchange": outer * (compute + 4) if sharded else 0,
    }
    moment = max(found["held"] + found["again"] + found["loss"], found["exchange"])
    used = found["states"] + found["gathered"] + moment
    margin = rates.of("pretrain", "runtime_bytes") + rates.of("pretrain", "margin_share") * used
    return Footprint(**found, margin=margin)


def product_width(lm: Any) -> int:
    """Numbers a token that a layer's matrix products and its attention put out (what Kept.products holds)."""
    heads = lm.head_dim * lm.num_attention_heads
    keys = lm.head_dim * lm.num_key_value_heads
    return heads + 2 * keys + heads + lm.hidden_size + 2 * lm.intermediate_size + lm.hidden_size


def between_width(layer: Any, lm: Any) -> int:
    """Numbers a token between the products: turned queries and keys, the gate and its product, the norms.

    A norm counts three times: its input in float32 and its result in half that.
    """
    turned = lm.head_dim * (lm.num_attention_heads + lm.num_key_value_heads)
    norms = sum(type(module).__name__.endswith("Norm") for module in layer.modules())
    return turned + 2 * lm.intermediate_size + norms * 3 * lm.hidden_size
