"""Synthesize on a model that says letters: texts stay whole, faults are counted, restarts and workers do not show."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import letters
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import components.speech_tokenizer.model as door
from components.shared.contracts import Interleaved, Text, check_row, from_table
from components.shared.engine import Completion, EngineKind
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.manifest import read_json, read_manifest, read_table, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.shared.words import cut_at_sentences
from components.synthesize.config import SpanUnit, SynthesizeConfig
from components.synthesize.rows import to_rows
from components.synthesize.saying import say
from components.synthesize.spans import plan
from components.synthesize.stage import run
from components.synthesize.survey import documents, has_words, survey
from components.text_to_token.model import all_plain_ids, load


def _config(**changes) -> SynthesizeConfig:
    config = SynthesizeConfig(
        seed=3,
        span_unit=SpanUnit.word,
        mean_span=5.0,
        ratio=0.4,
        cut_at_sentences=True,
        name_speaker=True,
        temperature=0.0,
        retry_temperature=0.7,
        top_p=0.9,
        language_shares={"en": 2.0, "zh": 1.0},
        keep_faulty=False,
        probe_documents=6,
        max_failed_share=0.5,
        target_tokens=100_000,
        documents_per_shard=8,
        heard_per_shard=4,
        executor=ExecutorConfig(kind=ExecutorKind.local, num_workers=1),
        engine=letters.engine_config(),
    )
    return dataclasses.replace(config, **changes)


def _text(number: int, text: str, **changes) -> Text:
    row = dict(id=f"t{number:03d}", text=text, language="en", corpus="letters", license="MIT", split="train")
    return Text(**(row | changes))


def _texts() -> list[Text]:
    """Documents of the grammar, and what else turns up in a corpus."""
    grammar = letters.sentences(90, seed=5)
    documents = [_text(i, " ".join(grammar[3 * i : 3 * i + 3])) for i in range(30)]
    return [
        *documents,
        _text(100, "😀 …"),
        _text(101, "你好，世界。", language="zh"),
        _text(102, "Анна видит собак и дом у моря всегда."),
        _text(103, "Anna sees.\n\tA red house\u0000  in\u200brome —  “by the sea”!  "),
        _text(104, "Anna sees two dogs in rome.", split="test"),
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("synthesize")
    letters.train(root)
    write_table(root / "data/collect/texts", _texts(), Text)
    return root


@pytest.fixture(autouse=True)
def _ear(monkeypatch):
    monkeypatch.setattr(door, "load", lambda path: letters.EAR)


def _run(root: Path, name: str, work: str = "", **changes) -> tuple[dict[str, float], Path]:
    outputs = Outputs(root=root / name, work=root / "work" / (work or name))
    metrics = run(_config(**changes), Inputs(root / "data"), outputs, TerminalTracker())
    outputs.publish(metrics)
    return metrics, root / name


@pytest.fixture(scope="module")
def made(root) -> tuple[dict[str, float], Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "load", lambda path: letters.EAR)
        return _run(root, "made")


def test_every_document_reads_as_before_and_its_speech_says_its_text(made):
    texts = {text.id: text for text in _texts()}
    rows = list(read_table(made[1] / "interleaved", Interleaved))
    assert len(rows) + made[0]["dropped_no_speech"] == 32, "every document is kept or counted"
    assert len(rows) >= 24
    right = total = 0
    for row in rows:
        text = texts[row.id].text
        assert "".join(segment.text for segment in row.segments) == text
        assert all(text[segment.start : segment.stop] == segment.text for segment in row.segments)
        assert row.num_speech_tokens == sum(len(segment.tokens) for segment in row.segments) > 0
        for segment in row.segments:
            if segment.modality == "speech" and row.id < "t100":
                total += 1
                said, wanted = letters.hear(segment.tokens), letters.hear(letters.say(segment.text))
                right += said.replace(" ", "") == wanted.replace(" ", "")
    assert right / total > 0.7


def test_figures_add_up_and_reasons_are_counted(made):
    metrics, out = made
    rows = list(read_table(out / "interleaved", Interleaved))
    assert metrics["num_documents"] == len(rows)
    assert metrics["speech_tokens"] == sum(row.num_speech_tokens for row in rows)
    assert metrics["dropped_language"] == 1 and metrics["dropped_no_words"] == 1
    assert metrics["dropped_span_foreign"] >= 1 and metrics["dropped_no_speech"] >= 1
    assert metrics["coverage"] == pytest.approx(0.4, abs=0.08)
    assert 3 < metrics["tokens_per_word"] < 7
    assert metrics["wer_en"] < 0.3
    assert metrics["tokens_per_s"] > 0
    stats = pd.read_parquet(out / "stats.parquet")
    assert set(stats["level"]) == {"row", "shard"} and len(stats[stats["level"] == "shard"]) == 5
    assert stats[stats["level"] == "shard"]["wer"].between(0, 1).all(), "every shard was heard"
    manifest = read_manifest(out / "interleaved")
    assert manifest.grade == "exact" and manifest.extra["num_codes"] == letters.NUM_CODES


def test_a_restart_makes_only_what_is_missing_and_the_same_bytes(root, made):
    shards = sorted((root / "work/made/shards").glob("*"))
    before = [path.stat().st_mtime_ns for path in shards]
    shards[1].unlink()
    _, again = _run(root, "again", work="made")
    after = [path.stat().st_mtime_ns for path in shards]
    assert [a == b for a, b in zip(before, after, strict=True)].count(False) == 1
    assert read_manifest(again / "interleaved").content_hash == read_manifest(made[1] / "interleaved").content_hash


@pytest.mark.slow
@pytest.mark.parametrize("kind", ExecutorKind)
def test_any_number_of_workers_anywhere_makes_the_same_bytes(root, made, kind):
    _, out = _run(root, f"two-{kind.value}", executor=ExecutorConfig(kind=kind, num_workers=2))
    assert read_manifest(out / "interleaved").content_hash == read_manifest(made[1] / "interleaved").content_hash


def test_no_text_that_can_be_said_is_refused(root, tmp_path):
    write_table(tmp_path / "collect/texts", [_text(1, "你好", language="zh")], Text)
    (tmp_path / "text_to_token").symlink_to(root / "data/text_to_token")
    outputs = Outputs(root=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(ValueError, match="no text in a language that was learnt: en"):
        run(_config(), Inputs(tmp_path), outputs, TerminalTracker())


def test_a_language_that_fails_in_the_probe_stays_text(root, tmp_path):
    model = tmp_path / "text_to_token/model"
    shutil.copytree(root / "data/text_to_token/model", model)
    record = read_json(model / "speech.json")
    record["pace"]["de"] = {**record["pace"]["en"], "low": 40.0, "high": 50.0}  # no speech is that long
    record["main_speakers"]["de"] = record["main_speakers"]["en"]
    (model / "speech.json").write_text(json.dumps(record))
    (tmp_path / "speech_tokenizer").symlink_to(root / "data/speech_tokenizer")
    german = [_text(200 + i, sentence, language="de") for i, sentence in enumerate(letters.sentences(9, seed=7))]
    write_table(tmp_path / "collect/texts", [*_texts(), *german], Text)
    outputs = Outputs(root=tmp_path / "out", work=tmp_path / "work")
    shares = {"en": 2.0, "de": 1.0, "zh": 1.0}
    metrics = run(_config(language_shares=shares), Inputs(tmp_path), outputs, TerminalTracker())
    assert metrics["dropped_unsayable"] == 9 and metrics["dropped_language"] == 1
    outputs.publish(metrics)
    assert {row.language for row in read_table(tmp_path / "out/interleaved", Interleaved)} == {"en"}
    with pytest.raises(ValueError, match="more than 50% of the spans fail in de; wanted"):
        write_table(tmp_path / "collect/texts", german, Text)
        run(_config(language_shares=shares), Inputs(tmp_path), outputs, TerminalTracker())


def test_every_document_is_dealt_to_one_chunk_and_the_survey_foresees_the_tokens(root, made, tmp_path):
    texts = root / "data/collect/texts"
    found = survey(texts, root / "data/text_to_token/model", _config(), tmp_path, TerminalTracker())
    names = [text.id for chunk in found.chunks for text in documents(chunk, 8, 3)]
    assert sorted(names) == sorted(text.id for text in _texts() if text.id not in ("t100", "t101", "t104"))
    assert [sum(1 for _ in documents(chunk, 8, 3)) for chunk in found.chunks] == [c.num_documents for c in found.chunks]
    assert found.dropped == {"language": 1, "no_words": 1}
    rows = list(read_table(made[1] / "interleaved", Interleaved))
    speech = sum(row.num_speech_tokens for row in rows)
    assert sum(chunk.speech_tokens for chunk in found.chunks) == pytest.approx(speech, rel=0.25)
    tokenizer = load(root / "data/text_to_token/model").tokenizer
    text = [segment.text for row in rows for segment in row.segments if segment.modality == "text"]
    written = sum(len(ids) for ids in all_plain_ids(tokenizer, text))
    assert sum(chunk.text_tokens for chunk in found.chunks) == pytest.approx(written, rel=0.25)


ALPHABET = st.one_of(st.characters(), st.sampled_from("ab .,!?…—“”\n你好世界北京大学，。😀"))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(alphabet=ALPHABET, max_size=80), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.floats(0, 1),
    st.sampled_from(SpanUnit),
    st.booleans(),
)
def test_segments_joined_are_the_text_and_know_where_they_came_from(texts, seed, ratio, unit, cut):
    config = _config(seed=seed, ratio=ratio, mean_span=3.0, span_unit=unit, cut_at_sentences=cut)
    plans = [plan(_text(i, text.encode("utf-8", "replace").decode()), config) for i, text in enumerate(texts)]
    rng = np.random.default_rng(seed)
    for span in (span for own in plans for span in own.spans):
        span.fault = "loop" if rng.random() < 0.2 else ""
        for piece in span.pieces:
            piece.codes = rng.integers(0, 1000, rng.integers(1, 4)).astype(np.uint16)
    table, kept = to_rows(plans, "engine")
    rows = from_table(table, Interleaved)
    for row in rows:
        check_row(row)
    assert [row.id for row in rows] == [plan.document.id for plan in kept]
    for row, own in zip(rows, kept, strict=True):
        text = own.document.text
        assert "".join(segment.text for segment in row.segments) == text
        assert all(text[segment.start : segment.stop] == segment.text for segment in row.segments)
        said = [np.concatenate([piece.codes for piece in span.pieces]) for span in own.spans if not span.fault]
        assert [s.tokens for s in row.segments if s.modality == "speech"] == [codes.tolist() for codes in said]
        assert row.num_speech_tokens == sum(map(len, said))
        assert row.num_text_chars == sum(len(s.text) for s in row.segments if s.modality == "text")
    assert all(all(span.fault for span in own.spans) for own in plans if own not in kept)


class FaultyEngine:
    """Says the letters of a piece, but wrongly on the attempts that `wrong` names for its first word."""

    name, exact = "faulty", True

    def __init__(self, model, wrong: dict[str, list[int]]) -> None:
        self.model, self.wrong, self.attempt = model, wrong, 0

    def generate_all(self, requests, progress=None):
        v = self.model.vocabulary
        completions = []
        for request in requests:
            text = request.token_ids[request.token_ids.index(v.user) + 1 : -1]
            said = self.model.tokenizer.decode(text)
            codes = letters.say(said)
            if self.attempt in self.wrong.get(said.split()[0], []):
                codes = [1, 2] * (len(codes) // 2)
            completions.append(
                Completion(
                    key=request.key, token_ids=[*text, *v.to_ids(codes)], logprobs=None, finish_reason="stop", error=""
                )
            )
        self.attempt += 1
        return completions


def test_what_fails_is_said_once_more_and_then_stays_text(root):
    model = load(root / "data/text_to_token/model")
    config = _config(ratio=1.0, mean_span=40.0)
    texts = [_text(i, f"{name} sees two dogs at home.") for i, name in enumerate(("Anna", "Bert", "Carla"))]
    plans = [plan(text, config) for text in texts]
    engine = FaultyEngine(model, {"bert": [0], "carla": [0, 1]})
    counts = say(plans, "en", config, model, engine)  # type: ignore[arg-type]
    assert counts["said_again"] == 2 and counts["dropped_loop"] == 1
    table, kept = to_rows(plans, engine.name)
    rows = from_table(table, Interleaved)
    assert [row.segments[0].tokens for row in rows] == [letters.say(text.text) for text in texts[:2]]
    assert len(kept) == 2, "what fails twice stays text"


def test_faulty_speech_is_kept_only_when_asked_for(root):
    model = load(root / "data/text_to_token/model")
    text = _text(0, "Anna sees two dogs at home.")

    class Endless(FaultyEngine):
        def generate_all(self, requests):
            made = super().generate_all(requests)
            return [dataclasses.replace(completion, finish_reason="length") for completion in made]

    for keep in (False, True):
        config = _config(ratio=1.0, mean_span=40.0, keep_faulty=keep)
        planned = plan(text, config)
        counts = say([planned], "en", config, model, Endless(model, {}))  # type: ignore[arg-type]
        assert (len(to_rows([planned], "")[1]) == 1) == keep and counts["dropped_unfinished"] == (not keep)


def test_a_document_of_ten_megabytes_is_planned_like_any_other():
    text = "Anna sees two dogs at home. " * 360_000
    assert len(text) > 10_000_000
    planned = plan(_text(0, text), _config(ratio=0.002, mean_span=10.0))
    covered = sum(span.num_words for span in planned.spans)
    assert planned.num_words == 6 * 360_000 and covered == round(0.002 * planned.num_words)
    assert all(len(piece.said) < 400 for span in planned.spans for piece in span.pieces)


@pytest.mark.parametrize("text", ["", " \n\t", "😀🎉 …", "———", "\x00\x01\x02", "(!?)"])
def test_a_document_with_nothing_to_say_has_no_spans(text):
    assert plan(_text(0, text), _config(ratio=1.0)).spans == [] and not has_words(text)


def test_scripts_that_were_not_learnt_stay_text_beside_those_that_were(root):
    model = load(root / "data/text_to_token/model")
    config = _config(ratio=1.0, mean_span=40.0)
    plans = [plan(_text(i, text), config) for i, text in enumerate(["Anna sees 你好 dogs.", "Anna \x07sees two dogs."])]
    counts = say(plans, "en", config, model, FaultyEngine(model, {}))  # type: ignore[arg-type]
    assert counts["dropped_foreign"] == 1 and [own.document.id for own in to_rows(plans, "")[1]] == ["t001"]


def test_a_span_is_said_sentence_by_sentence():
    text = _text(0, "Anna sees Dr. Bert. Two dogs! At home")
    whole = _config(ratio=1.0, mean_span=40.0)
    parts = [piece.text for piece in plan(text, whole).spans[0].pieces]
    assert parts == ["Anna sees Dr. Bert.", " Two dogs!", " At home"]
    uncut = plan(text, dataclasses.replace(whole, cut_at_sentences=False))
    assert [piece.text for piece in uncut.spans[0].pieces] == [text.text]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One two three.\nFour five six.", ["One two three.", "\nFour five six."]),
        ("Title\nHello there.", ["Title", "\nHello there."]),
        ("今天天气很好。\n我们去公园散步吧。", ["今天天气很好。", "\n我们去公园散步吧。"]),
        ("One.\n\nTwo e.g. three! Four\n", ["One.", "\n\nTwo e.g. three!", " Four\n"]),
        ("\n\n", []),
    ],
)
def test_a_line_break_ends_what_stands_before_it(text, wanted):
    assert cut_at_sentences(text) == wanted
    config = _config(ratio=1.0, mean_span=40.0)
    language = "zh" if "天" in text else "en"
    assert [p.text for span in plan(_text(0, text, language=language), config).spans for p in span.pieces] == wanted


def test_workers_without_a_server_to_share_are_refused(root, tmp_path):
    engine = dataclasses.replace(letters.engine_config(), kind=EngineKind.sglang)
    several = ExecutorConfig(kind=ExecutorKind.local, num_workers=2)
    outputs = Outputs(root=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(ValueError, match=r"synthesize.engine.servers: got \[\], wanted the URLs of servers"):
        run(_config(engine=engine, executor=several), Inputs(root / "data"), outputs, TerminalTracker())


def test_spans_of_whole_sentences_begin_and_end_with_them():
    config = _config(span_unit=SpanUnit.sentence, mean_span=1.5, ratio=0.4)
    text = _text(0, " ".join(f"Sentence {i} ends here." for i in range(40)) + " 我们走吧。他来了！")
    planned = plan(text, config)
    assert len(planned.spans) >= 5
    for span in planned.spans:
        own = text.text[span.start : span.stop]
        assert own.lstrip().startswith(("Sentence", "我", "他")) and own.rstrip().endswith((".", "。", "！"))
    assert sum(span.num_words for span in planned.spans) == pytest.approx(0.4 * planned.num_words, abs=5)
