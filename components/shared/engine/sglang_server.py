"""The main module of one SGLang server: run by serve.py in SGLang's own environment, imports nothing of the project.

SGLang starts its children with this file as their main module, so what is changed here holds in all three processes:
the two torchvision operators that only the CUDA build registers exist; rows of the output matrix beyond the vocabulary
are never generated and take no probability; `allowed` of a request's custom_params restricts what it may generate; only
a request's stop ids end it. Logit processors that clients send are pickles: none is ever read, only our name is known.
Written against SGLang 0.5.14; a version without one of these places stops with a line that names it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
from typing import Any

import torch

PROCESSOR = "speechloom.allowed"
"""What a client sends as custom_logit_processor; SGLang keeps custom_params only beside one."""
VOCAB_SIZE, PARENT = "SPEECHLOOM_VOCAB_SIZE", "SPEECHLOOM_PARENT"
"""Environment: ids of the tokenizer; process that this server must not outlive."""
_PR_SET_PDEATHSIG = 1
_MASKS: dict[tuple[Any, ...], torch.Tensor] = {}


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; SGLang's children do the same with this one."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("sglang_server: the process that started it is gone")


def define_torchvision_operators() -> None:
    """Schemas that torchvision's Python code refers to and its CPU wheel may not register."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_torchvision"] = library  # it takes its operators with it when it is collected


def change_sglang(vocab_size: int) -> None:
    """Put our rules into the three places of SGLang that decide what may be generated."""
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.layers import sampler
    from sglang.srt.layers.logits_processor import LogitsProcessor
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

    places = [
        (ModelConfig, "_get_hf_eos_token_id", lambda self: set()),
        (LogitsProcessor, "_get_logits", _masking(LogitsProcessor, vocab_size)),
        (CustomLogitProcessor, "from_str", classmethod(_by_name)),
        (sampler, "apply_custom_logit_processor", restrict),
    ]
    for owner, name, new in places:
        if not hasattr(owner, name):
            raise SystemExit(f"sglang_server: this SGLang has no {owner.__name__}.{name}; wanted one like 0.5.14")
        setattr(owner, name, new)


def _masking(owner: type, vocab_size: int) -> Any:
    original = getattr(owner, "_get_logits", None)

    def get_logits(*args: Any, **kwargs: Any) -> torch.Tensor:
        logits = original(*args, **kwargs)  # type: ignore[misc]
        logits[:, vocab_size:] = float("-inf")
        return logits

    return get_logits


def _by_name(cls: type, name: str) -> str:
    """SGLang would unpickle what the client sent here."""
    if name != PROCESSOR:
        raise ValueError(f"custom_logit_processor: got {name[:40]!r}, wanted {PROCESSOR!r}")
    return name


def restrict(logits: torch.Tensor, batch: Any, num_tokens_in_batch: int = 1) -> None:
    """Set to -inf what each request may not generate.

    logits: (requests * num_tokens_in_batch, vocabulary) float32, changed in place; batch.custom_params: one dict or
    None a request, "allowed": [first, stop, stop id, ...]. Masks stay on the device, so that a step waits for nothing.
    """
    wanted = [tuple((params or {}).get("allowed") or ()) for params in batch.custom_params]
    kinds = sorted(set(wanted))
    table = torch.stack([_forbidden(kind, logits) for kind in kinds])
    if len(kinds) == 1:
        logits.masked_fill_(table, float("-inf"))
        return
    rows = torch.tensor([kinds.index(kind) for kind in wanted for _ in range(num_tokens_in_batch)])
    logits.masked_fill_(table[rows.to(logits.device, non_blocking=True)], float("-inf"))


def _forbidden(kind: tuple[int, ...], logits: torch.Tensor) -> torch.Tensor:
    key = (kind, logits.shape[-1], logits.device)
    if key not in _MASKS:
        mask = torch.full((logits.shape[-1],), bool(kind))
        if kind:
            mask[slice(*kind[:2])] = False
            mask[list(kind[2:])] = False
        _MASKS[key] = mask.to(logits.device)
    return _MASKS[key]


def refuse_what_kills(vocab_size: int) -> None:
    """Answer 400, before the scheduler sees it, to a foreign logit processor and to an id outside the vocabulary."""
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    original = TokenizerManager._validate_one_request

    def validate(self: Any, obj: Any, input_ids: list[int]) -> Any:
        if getattr(obj, "custom_logit_processor", None):
            _by_name(type(self), obj.custom_logit_processor)
        if input_ids and not 0 <= min(input_ids) <= max(input_ids) < vocab_size:
            raise ValueError(f"input_ids: got {min(input_ids)}..{max(input_ids)}, wanted 0..{vocab_size - 1}")
        return original(self, obj, input_ids)

    TokenizerManager._validate_one_request = validate


if importlib.util.find_spec("sglang") is not None and VOCAB_SIZE in os.environ:
    define_torchvision_operators()
    change_sglang(int(os.environ[VOCAB_SIZE]))

if __name__ == "__main__":
    die_with(int(os.environ[PARENT]))
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    refuse_what_kills(int(os.environ[VOCAB_SIZE]))
    try:
        run_server(prepare_server_args(sys.argv[1:]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
