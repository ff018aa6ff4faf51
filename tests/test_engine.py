"""The embedded engine against plain transformers: the same tokens, the same likelihoods, whatever shares the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.engine import EngineConfig, EngineKind, Request, make_engine
from components.shared.engine.embedded import EmbeddedEngine
from components.shared.engine.sampling import choose, uniforms

VOCAB, PADDED = 90, 96
STOP_ID = 7


def _config(**changes) -> EngineConfig:
    config = EngineConfig(
        kind=EngineKind.transformers,
        model="",
        dtype="float32",
        max_batch=6,
        max_length=128,
        max_tokens=256,
        num_threads=1,
        logprobs=True,
        servers=[],
        in_flight=64,
        timeout_s=60.0,
        patience_s=10.0,
    )
    return dataclasses.replace(config, **changes)


def _model() -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=PADDED,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return _model()


@pytest.fixture(scope="module")
def engine(model) -> EmbeddedEngine:
    return EmbeddedEngine(model, VOCAB, _config())


def _requests(count: int, seed: int = 0, **settings) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(
            key=f"r{i}",
            token_ids=rng.integers(0, VOCAB, rng.integers(1, 30)).tolist(),
            max_new_tokens=int(rng.integers(1, 60)),
            stop_ids=(STOP_ID,),
            seed=i,
            **settings,
        )
        for i in range(count)
    ]


def _plain(model, request: Request) -> list[int]:
    """model.generate, one request at a time, rows of padding masked."""
    bad = [[i] for i in range(VOCAB, PADDED)]
    made = model.generate(
        torch.tensor([request.token_ids]),
        attention_mask=torch.ones(1, len(request.token_ids), dtype=torch.long),
        max_new_tokens=request.max_new_tokens,
        do_sample=False,
        eos_token_id=list(request.stop_ids),
        pad_token_id=0,
        bad_words_ids=bad,
    )[0, len(request.token_ids) :].tolist()
    return made[:-1] if made[-1] in request.stop_ids else made


def test_greedy_tokens_equal_plain_generate_token_by_token(engine, model):
    requests = _requests(25)
    completions = engine.generate_all(requests)
    for request, completion in zip(requests, completions, strict=True):
        assert completion.key == request.key
        assert completion.token_ids == _plain(model, request)
        full = len(completion.token_ids) == request.max_new_tokens
        assert completion.finish_reason == ("length" if full else "stop")
    assert {completion.finish_reason for completion in completions} == {"length", "stop"}


def test_sampled_tokens_depend_on_the_request_and_its_seed_alone(engine, model):
    requests = _requests(20, temperature=0.8, top_p=0.9)
    together = engine.generate_all(requests)
    alone = EmbeddedEngine(model, VOCAB, _config(max_batch=1)).generate_all(requests)
    backwards = engine.generate_all(requests[::-1])[::-1]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone] == [c.token_ids for c in backwards]
    other = engine.generate_all([dataclasses.replace(request, seed=request.seed + 1) for request in requests])
    assert [c.token_ids for c in other] != [c.token_ids for c in together]


def test_generate_pulls_requests_only_as_room_comes_free(engine):
    pulled = 0

    def endless():
        nonlocal pulled
        for request in _requests(10_000):
            pulled += 1
            yield request

    completions = engine.generate(endless())
    for count, _ in zip(range(1, 30), completions, strict=False):
        assert pulled <= count + 2 * engine.config.max_batch


def test_only_allowed_and_stop_ids_are_generated_and_never_padding(engine):
    requests = [
        dataclasses.replace(request, allowed_range=(20, 40)) for request in _requests(12, temperature=2.0)
    ] + _requests(12, seed=1, temperature=5.0)
    completions = engine.generate_all(requests)
    limited = [i for completion in completions[:12] for i in completion.token_ids]
    assert limited and all(20 <= i < 40 for i in limited)
    assert all(i < VOCAB for completion in completions for i in completion.token_ids)
    assert any(completion.finish_reason == "stop" for completion in completions[:12])


def test_stream_gives_the_tokens_of_generate_as_they_come(engine):
    for request in _requests(5, temperature=0.7):
        parts = list(engine.stream(request))
        assert all(parts)
        assert [i for part in parts for i in part] == engine.generate_all([request])[0].token_ids


def test_scores_equal_the_plain_forward_and_the_generated_logprobs(engine, model):
    rng = np.random.default_rng(1)
    shared = rng.integers(0, VOCAB, 20).tolist()
    prompts = [shared if i % 3 else rng.integers(0, VOCAB, rng.integers(1, 20)).tolist() for i in range(40)]
    continuations = [rng.integers(0, VOCAB, rng.integers(1, 15)).tolist() for _ in prompts]
    scores = engine.score(prompts, continuations)
    for prompt, continuation, got in zip(prompts, continuations, scores, strict=True):
        logits = model(torch.tensor([prompt + continuation])).logits[0, len(prompt) - 1 : -1, :VOCAB]
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None]).squeeze(1)
        np.testing.assert_allclose(got, wanted.detach().numpy(), atol=1e-5)
    requests = _requests(8)
    made = [(r, c) for r, c in zip(requests, engine.generate_all(requests), strict=True) if c.token_ids]
    again = engine.score([list(r.token_ids) for r, _ in made], [c.token_ids for _, c in made])
    for (_, completion), nats in zip(made, again, strict=True):
        np.testing.assert_allclose(completion.logprobs, nats, atol=1e-5)


def test_many_candidates_of_one_prompt_are_split_over_rows(engine):
    prompt, continuations = [1, 2, 3], [[i % VOCAB] * 30 for i in range(20)]
    together = engine.score([prompt] * 20, continuations)
    apart = [engine.score([prompt], [continuation])[0] for continuation in continuations]
    np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_ids": [1, VOCAB]}, "got id 90, wanted 0..89"),
        ({"token_ids": [-1]}, "got id -1"),
        ({"token_ids": []}, "empty prompt"),
        ({"stop_ids": (99,)}, "stop_ids: got id 99"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"allowed_range": (80, 91)}, "allowed_range"),
        ({"allowed_range": (5, 5)}, "allowed_range"),
    ],
)
def test_a_request_the_model_cannot_take_is_refused_in_one_line(engine, changes, words):
    request = dataclasses.replace(_requests(1)[0], **changes)
    with pytest.raises(ValueError, match="request 'r0'.*" + words.split("..")[0]) as raised:
        engine.generate_all([_requests(2)[1], request])
    assert "\n" not in str(raised.value)


def test_a_request_that_is_too_long_comes_back_as_an_error_and_the_others_are_done(engine):
    requests = _requests(3)
    requests[1] = dataclasses.replace(requests[1], token_ids=[1] * 100, max_new_tokens=29)
    completions = engine.generate_all(requests)
    assert completions[1].finish_reason == "error" and "max_length=128" in completions[1].error
    assert all(completions[i].token_ids for i in (0, 2))


@pytest.mark.parametrize(
    ("prompts", "continuations", "words"),
    [
        ([[1]], [[]], "empty continuation"),
        ([[]], [[1]], "empty prompt"),
        ([[1]], [[VOCAB]], "got id 90"),
        ([[1] * 100], [[1] * 29], "max_length"),
        ([[1]], [], "1 prompts but 0"),
    ],
)
def test_pairs_that_cannot_be_scored_are_refused(engine, prompts, continuations, words):
    with pytest.raises(ValueError, match=words):
        engine.score(prompts, continuations)


def test_a_folder_is_loaded_and_a_wrong_one_refused(tmp_path, model):
    from components.shared.tokens import train_bpe

    with pytest.raises(ValueError, match=r"no config\.json"):
        make_engine(_config(model=str(tmp_path)))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    train_bpe(["a few words", "and some more words"], 260).save_pretrained(tmp_path)
    engine = make_engine(_config(model=str(tmp_path)))
    assert engine.exact and engine.name.startswith("transformers ")
    request = Request(key="a", token_ids=[65], max_new_tokens=40, temperature=5.0)
    assert max(engine.generate_all([request])[0].token_ids) < 260
    with pytest.raises(ValueError, match=r"engine\.dtype"):
        make_engine(_config(model=str(tmp_path), dtype="float99"))
    with pytest.raises(ValueError, match="not a pair"):
        EmbeddedEngine(model, PADDED + 1, _config())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 10_000))
def test_random_numbers_are_a_function_of_seed_and_step(seed, step):
    one = uniforms(np.array([seed], dtype=np.uint64), np.array([step], dtype=np.uint64))
    many = uniforms(np.array([1, seed, 5], dtype=np.uint64), np.array([1, step, 5], dtype=np.uint64))
    assert 0 <= one[0] < 1 and one[0] == many[1]


def test_random_numbers_are_uniform_over_seeds_and_over_steps():
    count = np.arange(20_000, dtype=np.uint64)
    for numbers in (uniforms(count, np.zeros_like(count)), uniforms(np.full_like(count, 17), count)):
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03


def test_sampling_follows_the_distribution_and_the_nucleus():
    rows, size = 40_000, 300
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)).mul(2)
    uniform = torch.from_numpy(uniforms(np.arange(rows, dtype=np.uint64), np.zeros(rows, dtype=np.uint64)))
    batch = logits.expand(rows, size)
    ones = torch.ones(rows)
    probabilities = logits.softmax(0).double()
    counts = torch.bincount(choose(batch, ones, ones, uniform, False), minlength=size)
    assert stats.chisquare(counts, probabilities / probabilities.sum() * rows).pvalue > 1e-3
    order = probabilities.argsort(descending=True)
    nucleus = order[: int((probabilities[order].cumsum(0) < 0.5).sum()) + 1]
    chosen = choose(batch, ones, ones * 0.5, uniform, False)
    assert set(chosen.tolist()) == set(nucleus.tolist())
    assert (choose(batch[:5], ones[:5] * 0, ones[:5], uniform[:5], False) == logits.argmax()).all()
