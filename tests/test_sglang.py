"""The real SGLang on this machine's CPU beside the embedded engine: `make test-sglang`."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.engine import Engine, EngineConfig, EngineKind, Request, make_engine
from components.shared.manifest import seal
from components.shared.tokens import train_bpe

pytestmark = pytest.mark.sglang
ROOT = Path(__file__).resolve().parents[1]
VOCAB, ROWS = 260, 320
END_OF_TEXT, STOP_ID = 5, 7
"""The model's own end of text, which is an id like any other to our engines; the id that ends requests here."""
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=END_OF_TEXT,
    )
    model = tmp_path_factory.mktemp("sglang") / "model"
    LlamaForCausalLM(config).save_pretrained(model)
    train_bpe(["a few words", "and some more words"], VOCAB).save_pretrained(model)
    seal(model)
    return model


def config_of(folder: Path, kind: EngineKind, *urls: str) -> EngineConfig:
    return EngineConfig(
        kind=kind,
        model=str(folder),
        dtype="float32",
        max_batch=16,
        max_length=256,
        max_tokens=4096,
        num_threads=1,
        logprobs=True,
        servers=list(urls),
        in_flight=32,
        timeout_s=60.0,
        patience_s=PATIENCE_S,
    )


@pytest.fixture(scope="module")
def command(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """`serve` with two servers."""
    logs = tmp_path_factory.mktemp("logs")
    line = [sys.executable, "-m", "components.shared.engine.serve", "--model", str(folder), "--device", "cpu"]
    line += ["--num-servers", "2", "--port", "0", "--logs", str(logs)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield process
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def urls(command: subprocess.Popen[str]) -> list[str]:
    assert command.stdout is not None
    return [command.stdout.readline().strip() for _ in range(2)]


@pytest.fixture(scope="module")
def served(folder: Path, urls: list[str]) -> Engine:
    return make_engine(config_of(folder, EngineKind.sglang, *urls))


@pytest.fixture(scope="module")
def embedded(folder: Path) -> Engine:
    return make_engine(config_of(folder, EngineKind.transformers))


def requests_of(count: int, seed: int = 0, **settings: object) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(
            key=f"r{i}",
            token_ids=rng.integers(0, VOCAB, rng.integers(1, 40)).tolist(),
            max_new_tokens=int(rng.integers(1, 100)),
            **({"stop_ids": (STOP_ID,) if i % 2 else (), "allowed_range": (20, 60) if i % 3 == 0 else None} | settings),
        )
        for i in range(count)
    ]


def test_greedy_tokens_and_their_likelihoods_equal_those_of_the_embedded_engine(served, embedded):
    requests = requests_of(120)
    theirs, ours = served.generate_all(requests), embedded.generate_all(requests)
    assert [made.token_ids for made in theirs] == [made.token_ids for made in ours]
    assert [made.finish_reason for made in theirs] == [made.finish_reason for made in ours]
    assert {made.finish_reason for made in theirs} == {"stop", "length"}
    assert any(END_OF_TEXT in made.token_ids for made in theirs)
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    assert served.name == "sglang 0.5.14 float32 cpu" and not served.exact and not served.counts


def test_scores_agree_within_1e_4_of_a_nat(served, embedded):
    rng = np.random.default_rng(1)
    shared = rng.integers(0, VOCAB, 20).tolist()
    prompts = [shared if i % 3 else rng.integers(0, VOCAB, rng.integers(1, 40)).tolist() for i in range(60)]
    continuations = [rng.integers(0, VOCAB, rng.integers(1, 15)).tolist() for _ in prompts]
    continuations[0][0] = VOCAB - 1
    for one, other in zip(served.score(prompts, continuations), embedded.score(prompts, continuations), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_is_sampled_stays_in_the_range_and_never_in_the_padding_rows(served):
    requests = requests_of(60, temperature=5.0, top_p=0.99)
    for request, made in zip(requests, served.generate_all(requests), strict=True):
        first, stop = request.allowed_range or (0, VOCAB)
        assert made.finish_reason != "error" and all(first <= i < stop for i in made.token_ids)
    free = [i for request, made in zip(requests, served.generate_all(requests), strict=True) for i in made.token_ids]
    assert max(free) > 200


def test_streams_give_the_tokens_as_they_come(served, embedded):
    for request in requests_of(6):
        parts = list(served.stream(request))
        assert all(parts) and [i for part in parts for i in part] == embedded.generate_all([request])[0].token_ids


def test_the_servers_outlive_pickles_and_ids_outside_the_vocabulary(urls, served):
    sampling = {"max_new_tokens": 1}
    pickled = {"input_ids": [1], "sampling_params": sampling, "custom_logit_processor": '{"callable": "80049500"}'}
    for body in (pickled, {"input_ids": [1, VOCAB], "sampling_params": sampling}):
        for url in urls:
            assert httpx.post(f"{url}/generate", json=body, timeout=30.0).status_code == 400
    assert all(made.token_ids for made in served.generate_all(requests_of(4, stop_ids=())))


def process_of(command: subprocess.Popen[str], url: str) -> psutil.Process:
    """The main process of a server."""
    port = url.rsplit(":", 1)[1]
    (found,) = [p for p in psutil.Process(command.pid).children() if port in p.cmdline()]
    return found


def test_a_server_that_is_killed_in_the_middle_loses_nothing_and_is_started_again(command, urls, served, embedded):
    requests = requests_of(300, seed=4)
    engine = make_engine(dataclasses.replace(served.config, logprobs=False))
    completions = engine.generate(iter(requests))
    made = [next(completions) for _ in range(60)]
    killed = process_of(command, urls[0])
    family = [killed, *killed.children(recursive=True)]
    assert len(family) >= 3
    os.kill(killed.pid, signal.SIGKILL)
    by_key = {completion.key: completion for completion in [*made, *completions]}
    wanted = embedded.generate_all(requests)
    assert [by_key[request.key].token_ids for request in requests] == [completion.token_ids for completion in wanted]
    assert engine.counts["lost_servers"] and engine.counts["failed_calls"]
    assert psutil.wait_procs(family, timeout=PATIENCE_S)[1] == []
    assert healthy(urls[0]) and make_engine(engine.config).generate_all(requests[:4])


def healthy(url: str) -> bool:
    """Whether a server is well within a while."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health", timeout=30.0).status_code == 200:
                return True
        except httpx.HTTPError:
            pass  # not listening yet
        time.sleep(0.5)
    return False


def test_no_process_is_left_when_serve_is_killed(command):
    family = psutil.Process(command.pid).children(recursive=True)
    assert len(family) >= 6
    command.kill()
    assert psutil.wait_procs(family, timeout=PATIENCE_S)[1] == []


def test_an_engine_without_servers_starts_one_and_takes_it_with_it(folder, embedded):
    code = f"""
import os, psutil
from components.shared.engine import *
engine = make_engine(EngineConfig(**{{
    **{ {k: v for k, v in vars(config_of(folder, EngineKind.sglang)).items() if k != "kind"}!r},
    "kind": EngineKind.sglang,
}}))
made = engine.generate_all([Request(key="a", token_ids=[1, 2, 3], max_new_tokens=20)])
print([p.pid for p in psutil.Process().children(recursive=True)])
print(made[0].token_ids)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pids, ids = (json.loads(line) for line in done.stdout.strip().splitlines()[-2:])
    request = Request(key="a", token_ids=[1, 2, 3], max_new_tokens=20)
    assert len(pids) >= 3 and ids == embedded.generate_all([request])[0].token_ids
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_synthesize_makes_the_same_documents_by_either_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import letters
    from test_synthesize import _config, _text

    import components.speech_tokenizer.model as door
    from components.shared.contracts import Interleaved, Text
    from components.shared.manifest import read_manifest, read_table, write_table
    from components.shared.places import Inputs, Outputs
    from components.shared.tracking import TerminalTracker
    from components.synthesize.stage import run

    monkeypatch.setattr(door, "load", lambda path: letters.EAR)
    letters.train(tmp_path)
    grammar = letters.sentences(60, seed=5)
    texts = [_text(i, " ".join(grammar[3 * i : 3 * i + 3])) for i in range(20)]
    write_table(tmp_path / "data/collect/texts", texts, Text)
    made = {}
    for kind in EngineKind:
        engine = dataclasses.replace(
            letters.engine_config(), kind=kind, in_flight=16, timeout_s=60.0, patience_s=PATIENCE_S
        )
        outputs = Outputs(root=tmp_path / kind.value, work=tmp_path / "work" / kind.value)
        # greedy: seeds mean nothing to SGLang on a CPU
        run(_config(engine=engine, retry_temperature=0.0), Inputs(tmp_path / "data"), outputs, TerminalTracker())
        outputs.publish({})
        made[kind] = list(read_table(tmp_path / kind.value / "interleaved", Interleaved))
    ours, theirs = made[EngineKind.transformers], made[EngineKind.sglang]
    assert [(row.id, row.segments) for row in ours] == [(row.id, row.segments) for row in theirs]
    assert all(row.engine.startswith("sglang") for row in theirs)
    grades = [read_manifest(tmp_path / kind.value / "interleaved").grade for kind in EngineKind]
    assert grades == ["exact", "recorded"]
