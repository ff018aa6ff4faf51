"""Training on packed batches: pieces are blind to each other, whatever computes the step and on however many ranks."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.attention.flex_attention import flex_attention

import components.shared.packed_attention as packed_attention
from components.shared.causal_lm_module import optimizer_of
from components.shared.lm_config import ComputeConfig, Kept, OptimizerConfig, OptimizerKind
from components.shared.packed_attention import packed
from components.shared.packed_lm import PackedLM, prepare, release, shard
from components.shared.packing import Piece, collate, pack
from components.shared.speech_lm import random_model
from tests.live_bytes import LiveBytes
from tests.test_pretrain import SHAPE
from tests.test_speech_lm import vocabulary_of

LENGTHS = ((7, 12, 5), (30,), (3, 20))
PAD_TO = 32
ADAMW = OptimizerConfig(
    kind=OptimizerKind.adamw, peak_lr=1e-2, final_lr=1e-3, warmup_steps=1, weight_decay=0.1, beta1=0.9, beta2=0.95
)


def documents_of(vocabulary: Any) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[rng.integers(0, vocabulary.size, n) for n in lengths] for lengths in LENGTHS]


def batch_of(vocabulary: Any) -> dict[str, torch.Tensor]:
    sequences = documents_of(vocabulary)
    return collate([pack([Piece(d, 0) for d in pieces], PAD_TO, vocabulary.pad, False) for pieces in sequences])


def lm_of(vocabulary: Any, seed: int = 1, num_layers: int = 2) -> PackedLM:
    model = random_model(replace(SHAPE, num_layers=num_layers), vocabulary, 64, seed=seed)
    return PackedLM(model, num_real=vocabulary.size, chunk=4)


def gradients(lm: PackedLM, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    lm.zero_grad()
    with packed(lm.model):
        loss, _, _ = lm(batch)
        loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


WAYS = ["outside packed", "explicit", "by piece", "flex"]


@pytest.mark.parametrize("way", WAYS)
def test_a_packed_document_has_the_loss_that_it_has_alone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = vocabulary_of()
    lm, batch = lm_of(vocabulary), batch_of(vocabulary)
    if way in ("by piece", "flex"):
        monkeypatch.setattr(packed_attention, "LONGEST_EXPLICIT", 8)
    if way == "flex":  # as on a GPU without the variable-length kernel; it has no backward pass on a CPU
        blocks = {"attention_mask": None, "blocks": packed_attention._block_mask(batch["segments"])}
        monkeypatch.setattr("components.shared.packed_lm.arguments", lambda *_: blocks)
        monkeypatch.setattr(packed_attention, "_flex", lambda: flex_attention)
    with nullcontext() if way == "outside packed" else packed(lm.model), torch.no_grad():
        loss, nll, learnt = lm(batch)
    assert int(learnt.sum()) == len(nll) == sum(n - 1 for lengths in LENGTHS for n in lengths)
    alone = []
    for document in [document for sequence in documents_of(vocabulary) for document in sequence]:
        ids = torch.tensor(document)[None]
        logits = lm.model(ids).logits[0, :-1, : vocabulary.size]
        alone.append(F.cross_entropy(logits, ids[0, 1:], reduction="none"))
    torch.testing.assert_close(nll, torch.cat(alone).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, torch.cat(alone).mean().detach(), atol=1e-5, rtol=1e-5)


def test_long_sequences_go_piece_by_piece_to_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = vocabulary_of()
    lm, batch = lm_of(vocabulary), batch_of(vocabulary)
    loss, explicit = gradients(lm, batch)
    monkeypatch.setattr(packed_attention, "LONGEST_EXPLICIT", 8)
    assert "borders" in packed_attention_arguments(lm, batch)
    other, by_piece = gradients(lm, batch)
    assert other == pytest.approx(loss, abs=1e-6)
    for name, gradient in explicit.items():
        torch.testing.assert_close(by_piece[name], gradient, atol=1e-6, rtol=1e-4)


def packed_attention_arguments(lm: PackedLM, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    with packed(lm.model):
        return packed_attention.arguments(lm.model, batch["segments"])


def test_the_variable_length_kernel_is_told_where_pieces_begin() -> None:
    segments = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1], [1, 2, 3, 3]])
    assert packed_attention.borders(segments).tolist() == [0, 2, 3, 4, 8, 9, 10, 12]
    settings = packed_attention._varlen_settings()
    assert settings == {"return_aux": None, "enable_gqa": True}  # of the pinned torch


def test_fused_norms_change_nothing_but_rounding_and_are_given_back() -> None:
    vocabulary = vocabulary_of()
    lm, batch = lm_of(vocabulary), batch_of(vocabulary)
    loss, plain = gradients(lm, batch)
    prepare(lm, None)
    assert all("forward" in vars(norm) for name, norm in lm.named_modules() if name.endswith("norm"))
    again, ours = gradients(lm, batch)
    release(lm)
    assert not [name for name, module in lm.named_modules() if "forward" in vars(module)]
    assert again == pytest.approx(loss, abs=1e-6)
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kept", [Kept.products, Kept.inputs])
def test_what_is_computed_again_gives_the_same_gradients_and_is_not_held(kept: Kept) -> None:
    vocabulary = vocabulary_of()
    lm, batch = lm_of(vocabulary), batch_of(vocabulary)
    held, results = [], []
    for settings in (Kept.everything, kept):
        prepare(lm, ComputeConfig(compile=False, kept=settings))
        prepare(lm, ComputeConfig(compile=False, kept=settings))  # twice is once
        results.append(gradients(lm, batch))
        with packed(lm.model), LiveBytes() as live:
            loss = lm(batch)[0]
            held.append(live.now)
            del loss
        release(lm)
    (loss, plain), (again, ours) = results
    assert again == loss and all(torch.equal(ours[name], plain[name]) for name in plain)
    assert held[1] < (0.75 if kept is Kept.products else 0.4) * held[0]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [Kept.everything, Kept.products])
def test_compiled_layers_give_the_same_gradients_and_are_compiled_once(kept: Kept) -> None:
    vocabulary = vocabulary_of()
    lm, batch = lm_of(vocabulary, num_layers=3), batch_of(vocabulary)
    loss, plain = gradients(lm, batch)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    prepare(lm, ComputeConfig(compile=True, kept=kept))
    again, ours = gradients(lm, batch)
    release(lm)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert again == pytest.approx(loss, abs=1e-5)
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-3)


def steps(rank: int, world_size: int, folder: Path, compute: ComputeConfig) -> None:
    """Three clipped steps on two sequences, sharded where there are several ranks; losses and norms are written."""
    vocabulary = vocabulary_of()
    lm = lm_of(vocabulary)
    prepare(lm, compute)
    if world_size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
        os.environ.update(address | {"RANK": str(rank), "WORLD_SIZE": str(world_size)})
        torch.distributed.init_process_group("gloo")
        shard(lm, init_device_mesh("cpu", (world_size,)), "32-true")
        shard(lm, init_device_mesh("cpu", (world_size,)), "32-true")  # twice is once
    optimizer = optimizer_of(lm.model, ADAMW)
    batch = equal_batch(vocabulary)
    rows = len(batch["labels"]) // world_size
    mine = {name: value[rank * rows : (rank + 1) * rows] for name, value in batch.items()}
    told = []
    with packed(lm.model):
        for _ in range(3):
            loss, _, _ = lm(mine)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), 0.5)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            optimizer.step()
            optimizer.zero_grad()
            mean = loss.detach().clone()
            if world_size > 1:
                torch.distributed.all_reduce(mean)
            told.append([float(mean) / world_size, float(norm)])
    head = lm.model.get_output_embeddings().weight
    whole = head.full_tensor() if isinstance(head, DTensor) else head
    if rank == 0:
        torch.save({"told": torch.tensor(told), "head": whole.detach()}, folder / f"{world_size}.pt")
    if world_size > 1:
        torch.distributed.destroy_process_group()


def equal_batch(vocabulary: Any) -> dict[str, torch.Tensor]:
    """Two sequences with as many labels each, so that the mean over ranks is the mean over labels."""
    rng = np.random.default_rng(3)
    made = [[rng.integers(0, vocabulary.size, n) for n in lengths] for lengths in ((7, 12, 5), (3, 10, 11))]
    return collate([pack([Piece(d, 0) for d in pieces], PAD_TO, vocabulary.pad, False) for pieces in made])


@pytest.mark.slow
def test_two_sharded_ranks_equal_one_in_loss_norm_clipping_and_weights(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    steps(0, 1, tmp_path, ComputeConfig(compile=False, kept=Kept.everything))
    compute = ComputeConfig(compile=False, kept=Kept.products)
    torch.multiprocessing.spawn(steps, args=(2, tmp_path, compute), nprocs=2)
    one, two = (torch.load(tmp_path / f"{n}.pt") for n in (1, 2))
    assert (one["told"][:, 1] > 0.5).all()  # it is clipped
    torch.testing.assert_close(two["told"], one["told"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(two["head"], one["head"], atol=1e-4, rtol=1e-4)


def test_a_precision_that_ranks_cannot_exchange_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.precision: got 16-mixed"):
        shard(lm_of(vocabulary_of()), None, "16-mixed")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_the_kernel_for_pieces_equals_the_explicit_products_of_a_cpu(compiled: bool) -> None:
    vocabulary = vocabulary_of()
    lm, batch = lm_of(vocabulary), batch_of(vocabulary)
    loss, plain = gradients(lm, batch)
    lm.cuda()
    if compiled:
        prepare(lm, ComputeConfig(compile=True, kept=Kept.products))
    with torch.autocast("cuda", torch.bfloat16):
        again, ours = gradients(lm, {name: value.cuda() for name, value in batch.items()})
    assert again == pytest.approx(loss, abs=2e-2)
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name].cpu(), gradient, atol=2e-2, rtol=5e-2)
