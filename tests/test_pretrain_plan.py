"""The plan of pre-training: sums that close, parameters that are counted, refusals that say what to change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.config import load_config
from components.pretrain.footprint import footprint, meta_model, product_width
from components.pretrain.plan import Cluster, arithmetic, main, report, run_of, sources
from components.shared.lm_config import Kept
from components.shared.rates import Rates

ROOT = Path(__file__).resolve().parents[1]
RATES = Rates(ROOT / "docs/rates.yaml")
PAPER = Cluster(nodes=8, gpus_per_node=8, gpu_memory_gb=80.0)
ONE = Cluster(nodes=1, gpus_per_node=1, gpu_memory_gb=80.0)


def settings(*overrides: str, scale: str = "h800"):
    return load_config([f"scale={scale}", *overrides], ROOT)


def model_of(config):
    given = config.pretrain
    return meta_model(given.base, given.shape, config.speech_tokenizer.num_codes, config.mix.vocab_size)


def test_the_papers_trillion_closes() -> None:
    found = sources(settings(), 1e12, RATES)
    assert found == pytest.approx({"text": 300e9, "speech": 31.5e9, "pairs": 68.5e9, "interleaved": 600e9})
    assert found["speech"] / 12.5 / 3600 == pytest.approx(700e3)
    with pytest.raises(ValueError, match=r"mix.text_share: got 0.95, but with speech 0.0315 and pairs 0.0685"):
        sources(settings("mix.text_share=0.95"), 1e12, RATES)


@pytest.mark.parametrize(
    ("scale", "published", "rows", "width", "matrices"),
    [("h800", 9_400_279_040, 151_552, 4096, 2), ("h100", 1_543_714_304, 151_936, 1536, 1)],
)
def test_parameters_are_the_bases_own_and_the_new_rows(scale, published, rows, width, matrices) -> None:
    model = model_of(settings(scale=scale))
    counted = sum(p.numel() for p in model.parameters())
    assert counted - published == (model.config.vocab_size - rows) * width * matrices
    assert model.config.vocab_size % 128 == 0 and 0 <= model.config.vocab_size - rows - 16384 < 256


def test_steps_read_every_token_once_and_time_follows_the_rates() -> None:
    config = settings()
    run = run_of(config, 1e12, PAPER, RATES)
    per_step = 512 * 8192 * 0.99
    assert (run.steps - 1) * per_step < 1e12 <= run.steps * per_step
    model = model_of(config)
    cost = arithmetic(config, run, model, PAPER, RATES)
    by_hand = 6 * (cost.parameters - model.config.vocab_size * 4096) + 12 * 40 * 4096 * 1500
    assert cost.flops_per_token == pytest.approx(by_hand, rel=1e-3)  # norms and biases multiply nothing
    assert cost.gpu_hours * 3600 * 0.5 * 989e12 == pytest.approx(1e12 * cost.flops_per_token)
    shorter = arithmetic(
        config, run_of(settings("pretrain.trainer.num_steps=2000"), 1e12, PAPER, RATES), model, PAPER, RATES
    )
    assert shorter.gpu_hours == pytest.approx(cost.gpu_hours * 2000 / run.steps)


class Products(TorchDispatchMode):
    """Counts what matrix products put out."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._opname in ("mm", "addmm"):
            self.numbers += result.numel()
        return result


@pytest.mark.parametrize("scale", ["h800", "h100", "tiny"])
def test_what_a_layers_products_hold_is_what_they_put_out(scale) -> None:
    model = model_of(settings(scale=scale))
    lm, num_tokens = model.config, 64
    with Products() as products, torch.device("meta"):
        hidden = torch.empty(1, num_tokens, lm.hidden_size)
        positions = torch.zeros(1, num_tokens, dtype=torch.long)
        turned = model.get_decoder().rotary_emb(hidden, positions)
        products.numbers = 0
        model.get_decoder().layers[0](hidden, position_embeddings=turned, position_ids=positions)
    attention = lm.head_dim * lm.num_attention_heads
    assert products.numbers == num_tokens * (product_width(lm) - attention)


def test_memory_falls_with_ranks_with_smaller_batches_and_with_less_that_is_held() -> None:
    config = settings()
    model = model_of(config)
    eight, sixteen = (footprint(config.pretrain, model, 8192, ranks, RATES) for ranks in (8, 16))
    assert eight.states == pytest.approx(2 * sixteen.states)
    assert eight.states * 8 == pytest.approx(16 * sum(p.numel() for p in model.parameters()))
    longer = footprint(config.pretrain, model, 16384, 8, RATES)
    assert longer.held == pytest.approx(2 * eight.held) and longer.gathered == eight.gathered
    held = {}
    for kept in Kept:
        config.pretrain.compute.kept = kept
        held[kept.value] = footprint(config.pretrain, model, 8192, 8, RATES).total
    assert held["inputs"] < held["products"] < held["everything"]


def test_the_loss_is_held_by_the_chunk_and_not_by_the_batch() -> None:
    config = settings()
    model = model_of(config)
    one, two = (footprint(config.pretrain, model, n * 8192, 64, RATES).loss for n in (1, 2))
    assert two - one == 8192 * 4096 * 2 * 2  # the hidden states and their gradient, in bfloat16


@pytest.mark.parametrize(
    ("cluster", "overrides", "message"),
    [
        (
            PAPER,
            ["pretrain.batch_sequences=500"],
            "pretrain.batch_sequences: got 500, wanted a multiple of the 64 GPUs that share a batch, such as 448",
        ),
        (
            PAPER,
            ["pretrain.batch_sequences=256", "pretrain.trainer.accumulate_batches=2"],
            r"memory: a GPU needs .* GB for 4 sequences at a time and has 80 GB; "
            "set pretrain.batch_sequences=64 pretrain.trainer.accumulate_batches=8",
        ),
        (
            PAPER,
            ["pretrain.compute.kept=everything"],
            "memory: .* set pretrain.compute.kept=inputs or take more GPUs",
        ),
        (
            PAPER,
            ["pretrain.trainer.num_steps=300000"],
            r"pretrain.trainer.num_steps: got 300000, but 1.0T tokens are 240,827 steps of 512 sequences; lower it",
        ),
        (
            PAPER,
            ["pretrain.optimizer.warmup_steps=300000"],
            "pretrain.optimizer.warmup_steps: got 300000, wanted fewer than the 240827 steps",
        ),
        (PAPER, ["pretrain.base=/no/such/folder"], "pretrain.base: '/no/such/folder': .* wanted a folder or one of"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_change(cluster, overrides, message) -> None:
    config = settings(*overrides)
    with pytest.raises(ValueError, match=message) as caught:
        report(config, 1e12, cluster, RATES)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_not_written_before_the_next_is_refused() -> None:
    config, slow = settings("pretrain.trainer.checkpoint_every_steps=1"), Rates(ROOT / "docs/rates.yaml")
    report(config, 1e12, PAPER, slow)
    slow.values["pretrain"]["write_bytes_s"]["value"] /= 2
    with pytest.raises(ValueError, match=r"checkpoint_every_steps: got 1, which are 7.35 s of training, but writing"):
        report(config, 1e12, PAPER, slow)


def test_every_shipped_scale_fits_its_machines() -> None:
    assert "of 80 GB" in report(settings(), 1e12, PAPER, RATES)
    config = settings(scale="h100")
    assert "of 80 GB" in report(config, config.mix.total_tokens, ONE, RATES)


def test_a_plan_for_no_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--nodes 0 .* wanted numbers above 0"):
        main(["--nodes", "0"])


def test_the_page_shows_what_the_command_prints() -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert report(settings(), 1e12, PAPER, RATES) in page


def test_the_page_names_settings_that_there_are() -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    overrides = re.findall(r"`((?:pretrain|mix)\.[\w.]+=[\w.]+)`", page)
    assert overrides and load_config(["scale=h800", *overrides], ROOT)
