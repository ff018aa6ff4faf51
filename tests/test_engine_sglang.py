"""The engine behind servers, against small ones that are slow, wrong, full of garbage or dead; see test_sglang.py."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import letters
import pytest
import torch
from small_server import (
    DYING,
    FAILING,
    FEWER,
    GARBAGE,
    OUTSIDE,
    ROWS,
    SHORT,
    SLOW,
    VOCAB,
    WELL,
    SmallServer,
    continuation,
    nats,
    serving,
)

from components.shared.engine import EngineConfig, EngineKind, Request, identity, make_engine, sglang_server
from components.shared.engine.sglang import SglangEngine
from components.shared.manifest import seal

ROOT = Path(__file__).resolve().parents[1]
STOP_ID = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"vocab_size": ROWS}))
    seal(model)
    return model


def info(folder: Path, **changes: Any) -> dict[str, Any]:
    """What a server that serve.py started says of itself."""
    from components.shared.engine.serve import served_name

    said = {"version": "0.5.14", "dtype": "float32", "device": "cpu", "max_req_input_len": 506}
    return said | {"served_model_name": served_name(folder, VOCAB), "model_path": str(folder)} | changes


def engine_of(folder: Path, *servers: SmallServer, **changes: Any) -> SglangEngine:
    config = EngineConfig(
        kind=EngineKind.sglang,
        model=str(folder),
        dtype="float32",
        max_batch=1,
        max_length=128,
        max_tokens=1,
        num_threads=1,
        logprobs=False,
        servers=[server.url for server in servers],
        in_flight=16,
        timeout_s=0.5,
        patience_s=10.0,
    )
    return SglangEngine(dataclasses.replace(config, **changes), VOCAB)


def requests_of(count: int, **settings: Any) -> list[Request]:
    return [
        Request(
            key=f"r{i}",
            token_ids=[i % VOCAB, i * 3 % VOCAB],
            max_new_tokens=1 + i % 30,
            **({"stop_ids": (STOP_ID,)} | settings),
        )
        for i in range(count)
    ]


def wanted(request: Request) -> tuple[list[int], str]:
    """What the small servers' language makes of a request."""
    allowed = {"allowed": [*request.allowed_range, *request.stop_ids]} if request.allowed_range else None
    sampling = {"max_new_tokens": request.max_new_tokens, "stop_token_ids": request.stop_ids, "custom_params": allowed}
    made, _ = continuation(list(request.token_ids), sampling)
    return (made[:-1], "stop") if made[-1] in request.stop_ids else (made, "length")


def check(requests: list[Request], completions: list[Any]) -> None:
    for request, completion in zip(requests, completions, strict=True):
        assert completion.key == request.key
        assert (completion.token_ids, completion.finish_reason, completion.error) == (*wanted(request), "")


def test_all_servers_share_the_work_and_the_order_is_kept(folder):
    servers = [SmallServer(info(folder)) for _ in range(3)]
    with serving(*servers):
        engine = engine_of(folder, *servers)
        requests = requests_of(200)
        check(requests, engine.generate_all(requests))
        assert all(server.posts for server in servers)
        assert not engine.exact and not engine.counts
        assert engine.name == "sglang 0.5.14 float32 cpu"
        by_key = {completion.key: completion for completion in engine.generate(iter(requests))}
        check(requests, [by_key[request.key] for request in requests])


@pytest.mark.parametrize("fault", [SLOW, FAILING, GARBAGE, FEWER, OUTSIDE, SHORT, DYING])
def test_a_server_that_misbehaves_loses_nothing(folder, fault):
    bad, good = SmallServer(info(folder), lambda number: fault), SmallServer(info(folder))
    good.delay_s = 0.02
    with serving(bad, good):
        engine = engine_of(folder, bad, good)
        requests = requests_of(150)
        check(requests, engine.generate_all(requests))
        assert bad.posts and engine.counts["lost_servers"] and engine.counts["failed_calls"]


@pytest.mark.parametrize("fault", [FAILING, GARBAGE, FEWER, SHORT, DYING])
def test_scores_are_asked_for_again_where_the_answer_is_none(folder, fault):
    bad, good = SmallServer(info(folder), lambda number: fault), SmallServer(info(folder))
    with serving(bad, good):
        engine = engine_of(folder, bad, good)
        prompts = [[i % VOCAB, 3] for i in range(40)]
        continuations = [[(i * 5) % VOCAB] * (1 + i % 4) for i in range(40)]
        scores = engine.score(prompts, continuations)
    for prompt, tokens, got in zip(prompts, continuations, scores, strict=True):
        assert got == pytest.approx(nats([*prompt, *tokens])[1:])


def test_the_only_server_comes_back_and_the_work_goes_on(folder):
    server = SmallServer(info(folder), lambda number: FAILING if 3 <= number <= 4 else WELL)
    with serving(server):
        engine = engine_of(folder, server)
        requests = requests_of(60)
        check(requests, engine.generate_all(requests))
    assert engine.counts["lost_servers"] >= 1 and engine.counts["returned_servers"] >= 1


def test_a_server_that_dies_for_good_leaves_its_work_to_the_others(folder):
    dying, other = SmallServer(info(folder)), SmallServer(info(folder))
    dying.delay_s = other.delay_s = 0.02
    with serving(other):
        engine = None
        with serving(dying):
            engine = engine_of(folder, dying, other)
            requests = requests_of(150)
            completions = engine.generate(iter(requests))
            begun = [next(completions) for _ in range(20)]
        by_key = {completion.key: completion for completion in [*begun, *completions]}
    check(requests, [by_key[request.key] for request in requests])


def test_when_no_server_is_left_one_line_says_so_and_what_each_said(folder):
    server = SmallServer(info(folder))
    with serving(server):
        engine = engine_of(folder, server, patience_s=0.3)
    for work in (lambda: engine.generate_all(requests_of(5)), lambda: engine.score([[1]], [[2]])):
        with pytest.raises(ConnectionError, match=r"none was well for 0 s; http://127\.0\.0\.1:\d+: .*") as raised:
            work()
        assert "\n" not in str(raised.value)
    with pytest.raises(ConnectionError, match="none was well"):
        engine_of(folder, server, patience_s=0.0)


def test_a_server_that_looks_healthy_and_always_fails_ends_the_run(folder):
    server = SmallServer(info(folder), lambda number: FAILING)
    with serving(server):
        engine = engine_of(folder, server, patience_s=1.0)
        with pytest.raises(ConnectionError, match="status 500"):
            engine.generate_all(requests_of(5))


def test_requests_are_pulled_only_as_room_comes_free_and_in_flight_is_bounded(folder):
    servers = [SmallServer(info(folder)) for _ in range(2)]
    pulled = 0

    def endless():
        nonlocal pulled
        for request in requests_of(10_000):
            pulled += 1
            yield request

    with serving(*servers):
        completions = engine_of(folder, *servers, in_flight=16).generate(endless())
        for count, _ in zip(range(1, 100), completions, strict=False):
            assert pulled <= count + 2 * 16 + 8
        completions.close()
    assert all(0 < server.most_inside <= 16 for server in servers)
    assert not [thread for thread in threading.enumerate() if thread.name == "servers"]


def test_what_a_server_must_not_see_is_refused_before_it_is_sent(folder):
    server = SmallServer(info(folder))
    with serving(server):
        engine = engine_of(folder, server)
        bad = dataclasses.replace(requests_of(1)[0], token_ids=[VOCAB])
        with pytest.raises(ValueError, match=r"request 'r0'.*got id 50, wanted 0\.\.49"):
            engine.generate_all([bad])
        with pytest.raises(ValueError, match="got id 50"):
            list(engine.stream(bad))
        with pytest.raises(ValueError, match="got id 50"):
            engine.score([[1]], [[VOCAB]])
        assert server.posts == 0
        long = dataclasses.replace(requests_of(1)[0], key="long", max_new_tokens=127)
        completions = engine.generate_all([long, *requests_of(3)])
        assert completions[0].finish_reason == "error" and "max_length=128" in completions[0].error
        check(requests_of(3), completions[1:])


@pytest.mark.parametrize("status", [400, 500])
def test_one_request_that_servers_do_not_take_comes_back_as_an_error_and_the_others_are_done(folder, status):
    servers = [SmallServer(info(folder)) for _ in range(2)]
    for server in servers:
        server.refuses = lambda token_ids: status if token_ids[0] == 9 else 0
        server.delay_s = 0.01
    requests = requests_of(40)
    with serving(*servers):
        engine = engine_of(folder, *servers)
        completions = engine.generate_all(requests)
    assert completions[9].finish_reason == "error" and "request 'r9'" in completions[9].error
    assert "not this one" in completions[9].error and engine.counts["refused"] == 1
    check(requests[:9] + requests[10:], completions[:9] + completions[10:])


def test_ranges_go_to_our_servers_by_name_and_nothing_else_does(folder):
    server = SmallServer(info(folder))
    with serving(server):
        requests = [*requests_of(20, allowed_range=(10, 30)), *requests_of(20)]
        check(requests, engine_of(folder, server).generate_all(requests))
    sent = {name for body in server.bodies for name in body["custom_logit_processor"]}
    assert sent == {None, sglang_server.PROCESSOR}


def test_what_another_server_does_not_hold_comes_back_as_an_error_and_is_counted(folder):
    server = SmallServer(info(folder, served_model_name="somebody's"))
    with serving(server):
        engine = engine_of(folder, server)
        check(requests_of(20), engine.generate_all(requests_of(20)))
        assert "custom_logit_processor" not in server.bodies[0]
        completions = engine.generate_all(requests_of(20, allowed_range=(0, 2)))
        broken = [completion for completion in completions if completion.finish_reason == "error"]
        assert broken and engine.counts["broke_contract"] == len(broken)
        assert all("does not allow" in completion.error for completion in broken)


def test_streams_give_the_same_ids_and_go_on_at_the_next_server(folder):
    breaks, good = SmallServer(info(folder), lambda number: SHORT), SmallServer(info(folder))
    with serving(breaks, good):
        for request in requests_of(30)[5::5]:
            for servers in ([good], [breaks, good]):
                parts = list(engine_of(folder, *servers).stream(request))
                assert all(parts) and [i for part in parts for i in part] == wanted(request)[0]


def test_log_probabilities_are_those_of_a_second_pass(folder):
    server = SmallServer(info(folder))
    with serving(server):
        requests = requests_of(40, allowed_range=(10, 30))
        for request, made in zip(
            requests, engine_of(folder, server, logprobs=True).generate_all(requests), strict=True
        ):
            assert made.logprobs == pytest.approx(nats([*request.token_ids, *made.token_ids])[1:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"served_model_name": f"speechloom/{'0' * 64}/{VOCAB}"}, "serves the model 000000000000"),
        ({"served_model_name": "speechloom/unsealed/51"}, "its model has 51 ids"),
        ({"served_model_name": "x", "model_path": "/nowhere"}, "cannot be compared"),
        ({"max_req_input_len": 90}, "at most 90 ids, but engine.max_length=128"),
    ],
)
def test_servers_of_another_model_are_refused_in_one_line(folder, changes, words):
    server = SmallServer(info(folder, **changes))
    with serving(server), pytest.raises(ValueError, match=words) as raised:
        engine_of(folder, server)
    assert str(raised.value).startswith(f"engine.servers: {server.url}: ") and "\n" not in str(raised.value)


def test_a_foreign_server_is_held_against_the_folder_that_it_names(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    server = SmallServer(info(folder, served_model_name="x", model_path=str(other)))
    with serving(server):
        for rows, words in ((ROWS + 1, "a vocabulary of 65 rows"), (ROWS, "content is not that of")):
            (other / "config.json").write_text(json.dumps({"vocab_size": rows, "more": 1}))
            seal(other)
            with pytest.raises(ValueError, match=words):
                engine_of(folder, server)


def test_a_server_that_comes_back_with_another_model_ends_the_run(folder):
    server = SmallServer(info(folder), lambda number: FAILING if number == 2 else WELL)
    with serving(server):
        engine = engine_of(folder, server)
        completions = engine.generate(iter(requests_of(200)))
        next(completions)
        server.info = info(folder, served_model_name="speechloom/unsealed/51")
        server.behaviour = lambda number: FAILING
        with pytest.raises(ValueError, match="its model has 51 ids"):
            list(completions)


def test_a_shards_key_knows_what_generates_and_not_where():
    from letters import engine_config

    config = engine_config()
    elsewhere = dataclasses.replace(config, servers=["http://a"], in_flight=1, timeout_s=1.0, patience_s=1.0, model="m")
    assert identity(config) == identity(elsewhere)
    behind = dataclasses.replace(config, kind=EngineKind.sglang)
    assert identity(behind) == identity(dataclasses.replace(behind, max_batch=1, num_threads=9)) != identity(config)
    assert identity(config) != identity(dataclasses.replace(config, max_batch=1))
    for changed in (config, behind):
        assert identity(changed) != identity(dataclasses.replace(changed, dtype="bfloat16"))
    assert json.dumps(identity(config))


def test_settings_that_make_no_sense_are_refused(folder):
    from letters import engine_config

    config = dataclasses.replace(engine_config(), model=str(folder), servers=["http://127.0.0.1:1"])
    with pytest.raises(ValueError, match=r"engine\.servers: got 1 of them, wanted \[\]"):
        make_engine(config)
    for changes, words in (({"in_flight": 0}, "in_flight"), ({"model": "nowhere"}, r"no config\.json")):
        with pytest.raises(ValueError, match=words):
            make_engine(dataclasses.replace(config, kind=EngineKind.sglang, **changes))


def test_the_restriction_leaves_the_range_and_the_stop_ids_of_each_request():
    batch = SimpleNamespace(custom_params=[{"allowed": [2, 4, 9]}, None, {"allowed": [0, 3]}])
    logits = torch.zeros(3, 10)
    sglang_server.restrict(logits, batch)
    left = [row.isfinite().nonzero().flatten().tolist() for row in logits]
    assert left == [[2, 3, 9], list(range(10)), [0, 1, 2]]
    alike = torch.zeros(2, 10)
    sglang_server.restrict(alike, SimpleNamespace(custom_params=[{"allowed": [2, 4, 9]}] * 2))
    assert [row.isfinite().nonzero().flatten().tolist() for row in alike] == [[2, 3, 9]] * 2
    with pytest.raises(ValueError, match="custom_logit_processor: got"):
        sglang_server._by_name(object, '{"callable": "80049500"}')


def test_a_router_is_asked_one_by_one_and_what_it_does_not_hold_is_counted(folder):
    router = SmallServer(info(folder))
    router.routes = True
    with serving(router):
        engine = engine_of(folder, router)
        requests = requests_of(40)
        check(requests, engine.generate_all(requests))
        ranged = engine.generate_all(requests_of(10, allowed_range=(20, 30)))
    assert engine.counts["broke_contract"] == sum(made.finish_reason == "error" for made in ranged) > 0
    assert all(20 <= i < 30 for made in ranged for i in made.token_ids)
    other = SmallServer(info(folder, served_model_name="speechloom/unsealed/99"))
    other.routes = True
    with serving(other), pytest.raises(ValueError, match="its model has 99 ids"):
        engine_of(folder, other)


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc", "127.0.0.1:30000", "ftp://127.0.0.1", ""])
def test_an_address_that_is_none_is_refused_at_once(tmp_path, url):
    (tmp_path / "config.json").write_text("{}")
    config = dataclasses.replace(letters.engine_config(), kind=EngineKind.sglang, model=str(tmp_path), servers=[url])
    with pytest.raises(ValueError, match=r"engine\.servers: got '.*', wanted a URL such as"):
        make_engine(config)
