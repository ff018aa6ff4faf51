"""collect, whole: recordings, texts and a spoken closed world become tables that keep their promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from omegaconf import OmegaConf

from components.collect import audio_shards
from components.collect.config import (
    BulkCorpusConfig,
    BulkLanguageConfig,
    BulkTextConfig,
    CollectConfig,
    CorpusConfig,
    CorpusKind,
    SpeechConfig,
    VoiceShare,
    WorldConfig,
)
from components.collect.splits import ngrams
from components.collect.stage import run
from components.shared.checks import apply
from components.shared.checks_config import Rule
from components.shared.contracts import Fact, Question, Story, Text, Utterance
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.manifest import read_manifest, read_table, verify
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from tests.collected import NOUNS, PHRASES, SPLIT, VERBS, text_corpus, write_dialogues


class Hummer:
    """A voice that hums a tone as long as its text: fast, deterministic, and honest about what it cannot say."""

    languages = ("en", "zh")
    license = "CC0-1.0"
    sample_rate_hz = 16_000
    calls = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def speak(self, text: str, language: str, seed: int) -> np.ndarray:
        type(self).calls += 1
        if "unsayable" in text:
            raise ValueError("nothing that can be said")
        seconds = 0.3 + (0.25 if language == "zh" else 0.07) * len(text)
        pitch_hz = 100 + seed % 200
        wave = 0.2 * np.sin(2 * np.pi * pitch_hz * np.arange(int(seconds * self.sample_rate_hz)) / self.sample_rate_hz)
        return wave.astype(np.float32)


def speech() -> SpeechConfig:
    return SpeechConfig(
        voices=[VoiceShare(name="low", share=2.0), VoiceShare(name="high", share=1.0)],
        evaluation_voice="low",
        unseen_voice="stranger",
        unseen_share=0.5,
        num_closed_world=20,
        num_open_domain=20,
        num_phrases=10,
        num_validation=4,
        num_test=8,
        unsupervised_share=0.25,
    )


@pytest.fixture
def config(tmp_path, monkeypatch) -> CollectConfig:
    monkeypatch.setattr(audio_shards, "make_voice", Hummer)
    audio_shards._voice.cache_clear()
    rng = np.random.default_rng(5)
    folder = tmp_path / "prompts"
    folder.mkdir()
    rows = ["file\ttext"]
    for number in range(10):
        noise = rng.uniform(-0.2, 0.2, 32_000).astype(np.float32)
        soundfile.write(folder / f"{number}.flac", noise, 16_000)
        rows.append(f"{number}.flac\tnumber {number} is a prompt")
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    lines = []
    for _ in range(60):
        said = [f"The {' '.join(rng.choice(NOUNS, 2))} {rng.choice(VERBS)} a {rng.choice(NOUNS)}." for _ in range(4)]
        lines.append("\n".join(said))
    write_dialogues(tmp_path / "dataset.json", lines)
    world = WorldConfig(
        num_people=6,
        num_relations=2,
        num_objects=3,
        withheld_share=0.5,
        items_per_fact=2,
        num_evaluated_facts=8,
        validation_share=0.25,
        documents_per_person=5,
    )
    return CollectConfig(
        seed=17,
        min_duration_s=0.2,
        max_duration_s=30.0,
        silence_dbfs=-55.0,
        edge_silence_s=0.12,
        corpora={
            "prompts": CorpusConfig(
                kind=CorpusKind.manifest,
                path="prompts",
                manifest="manifest.tsv",
                language="en",
                license="CC0-1.0",
                origin="recorded",
                text_source="human",
                speaker="someone",
                max_utterances=0,
            )
        },
        text_corpora={"stories": text_corpus("dataset.json")},
        bulk_texts=BulkTextConfig(
            corpora={},
            languages={
                "en": BulkLanguageConfig(shingle=5, held_out_ngram=8),
                "zh": BulkLanguageConfig(shingle=8, held_out_ngram=13),
            },
            min_characters=10,
            max_characters=2000,
            similarity=0.75,
            num_hashes=112,
            validation_share=0.1,
            part_mb=1,
        ),
        split=SPLIT,
        worlds={"en": world, "zh": replace(world, num_evaluated_facts=2)},
        speech={"en": speech(), "zh": replace(speech(), num_open_domain=0, num_phrases=4)},
        phrases=PHRASES,
        lines_per_shard=16,
        executor=ExecutorConfig(kind=ExecutorKind.local, num_workers=1),
    )


def collect(config: CollectConfig, root: Path, name: str = "collect") -> tuple[Path, dict[str, float]]:
    outputs = Outputs(root=root / "data" / name, work=root / ".work" / name)
    outputs.root.mkdir(parents=True, exist_ok=True)
    metrics = run(config, Inputs(root / "data"), outputs, TerminalTracker())
    outputs.publish(metrics)
    return outputs.root, metrics


def test_collect_writes_every_table_with_audio_behind_every_row(config, tmp_path):
    data, metrics = collect(config, tmp_path)
    for name in ("utterances", "texts", "facts", "stories", "questions"):
        verify(data / name)
    rows = {row.id: row for row in read_table(data / "utterances", Utterance)}
    assert len(rows) == metrics["utterances"] > 100
    for row in rows.values():
        info = soundfile.info(data / "utterances" / row.audio)
        assert info.frames / info.samplerate == pytest.approx(row.duration_s)
    for question in read_table(data / "questions", Question):
        assert rows[question.question_utterance].text == question.question
        spoken = [rows[id].text.lower().strip(".。") for id in question.candidate_utterances]
        assert spoken == [candidate.lower() for candidate in question.candidates]
    for story in read_table(data / "stories", Story):
        names = (story.story_utterance, story.right_utterance, story.wrong_utterance)
        assert [rows[name].text for name in names] == [story.story, story.right, story.wrong]
        assert all(rows[name].corpus == "evaluation" and rows[name].split != "train" for name in names)
    assert {row.corpus for row in rows.values()} == {"prompts", "closed_world", "open_domain", "evaluation"}
    assert metrics["mandarin_speech_share"] > 0


def test_no_speech_states_a_withheld_fact_and_every_fact_that_is_not_withheld_is_spoken(config, tmp_path):
    data, _ = collect(config, tmp_path)
    said = [row.text.lower() for row in read_table(data / "utterances", Utterance) if row.text]
    written = [row.text.lower() for row in read_table(data / "texts", Text) if row.split == "train"]
    for fact in read_table(data / "facts", Fact):
        subject, object = fact.subject.lower(), fact.object.lower()
        spoken = any(subject in text and object in text for text in said)
        assert spoken != fact.withheld
        assert any(subject in text and object in text for text in written)


def test_test_sentences_are_unseen_and_one_voice_speaks_only_there(config, tmp_path):
    data, metrics = collect(config, tmp_path)
    rows = list(read_table(data / "utterances", Utterance))
    texts = list(read_table(data / "texts", Text))
    held = [row for row in rows if row.split == "test" and row.corpus == "open_domain"]
    seen = [text.text for text in texts if text.split == "train" and text.corpus != "closed_world"]
    seen += [row.text for row in rows if row.split == "train" and row.text]
    grams = {gram for text in seen for gram in ngrams(text, "en", 5)}
    assert held and all(grams.isdisjoint(ngrams(row.text, "en", 5)) for row in held)
    closed = [row.text for row in rows if row.split != "train" and row.corpus == "closed_world"]
    assert closed and not any(text in document for text in closed for document in seen)
    assert {row.split for row in rows if row.speaker == "stranger"} == {"test"}
    assert metrics["utterances_unseen_speaker"] >= 4


def test_the_text_of_unlabelled_speech_is_written_nowhere(config, tmp_path):
    said: dict[str, str] = {}

    class Listener(Hummer):
        def speak(self, text: str, language: str, seed: int) -> np.ndarray:
            said[text] = language
            return super().speak(text, language, seed)

    audio_shards.make_voice = Listener
    data, _ = collect(config, tmp_path)
    rows = list(read_table(data / "utterances", Utterance))
    unlabelled = [row for row in rows if row.text_source == "none"]
    assert len(unlabelled) == 5 and all(row.text is None for row in unlabelled)
    known = {row.text for row in rows if row.text}
    secret = [text for text in said if text not in known]
    assert len(secret) == 5
    written = "\n".join(text.text for text in read_table(data / "texts", Text))
    assert not any(text in written for text in secret)


def test_the_same_seed_gives_the_same_bytes_and_a_restart_speaks_nothing_again(config, tmp_path):
    first, _ = collect(config, tmp_path)
    calls = Hummer.calls
    again, _ = collect(config, tmp_path)
    assert Hummer.calls == calls
    elsewhere, _ = collect(replace(config, lines_per_shard=7), tmp_path, "elsewhere")
    assert Hummer.calls > calls
    for name in ("utterances", "texts", "facts", "stories", "questions"):
        hashes = {read_manifest(folder / name).content_hash for folder in (first, again, elsewhere)}
        assert len(hashes) == 1


def test_a_recording_that_was_replaced_is_read_again(config, tmp_path):
    first, _ = collect(config, tmp_path)
    before = {row.id: row.duration_s for row in read_table(first / "utterances", Utterance) if row.corpus == "prompts"}
    (folder,) = [tmp_path / corpus.path for corpus in config.corpora.values()]
    path = sorted(folder.rglob("*.flac"))[0]
    wave, rate_hz = soundfile.read(path)
    soundfile.write(path, np.concatenate([wave, wave]), rate_hz)
    again, _ = collect(config, tmp_path)
    after = {row.id: row.duration_s for row in read_table(again / "utterances", Utterance) if row.corpus == "prompts"}
    assert sum(after[id] > 1.5 * seconds for id, seconds in before.items()) == 1


def test_an_item_that_cannot_be_spoken_and_too_little_speech_are_one_clear_error(config, tmp_path, monkeypatch):
    few = replace(config, speech={"en": replace(speech(), num_closed_world=2)})
    with pytest.raises(ValueError, match=r"collect\.speech\.en\.num_closed_world: got 2, wanted at least [67]"):
        collect(few, tmp_path)

    class Mute(Hummer):
        def speak(self, text: str, language: str, seed: int) -> np.ndarray:
            return super().speak("unsayable", language, seed)

    monkeypatch.setattr(audio_shards, "make_voice", Mute)
    with pytest.raises(ValueError, match=r"evaluation_voice: \d+ items not spoken"):
        collect(config, tmp_path, "mute")


def test_the_gate_lets_this_table_pass_and_stops_a_broken_one(config, tmp_path):
    data, _ = collect(config, tmp_path)
    rules = OmegaConf.load(Path(__file__).parents[1] / "params.yaml").checks.collect
    rules = [OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Rule), rule)) for rule in rules]
    findings = apply(rules, data / "stats.parquet", "collect", tmp_path / "docs")
    assert [finding.rule for finding in findings if not finding.held] == []
    stats = pd.read_parquet(data / "stats.parquet")
    stats.loc[stats.level == "row", "duration_s"] = 0.0
    stats.to_parquet(tmp_path / "broken.parquet")
    findings = apply(rules, tmp_path / "broken.parquet", "collect", tmp_path / "docs")
    assert [finding.rule.split(" ")[0] for finding in findings if not finding.held] == ["row.duration_s"]


def test_bulk_text_joins_the_texts_without_what_evaluation_asks(config, tmp_path):
    alone, before = collect(config, tmp_path)
    (question, *_) = read_table(alone / "questions", Question)
    rows = read_table(alone / "utterances", Utterance)
    held = next(row for row in rows if row.split == "test" and row.corpus == "open_domain" and row.text)
    rng = np.random.default_rng(9)
    pages = [" ".join(rng.choice(NOUNS + VERBS, 60)) + "." for _ in range(30)]
    planted = [f"{pages[0]} {question.question} Nobody knows.", f"{pages[1]} {held.text}"]
    (tmp_path / "web").mkdir()
    pq.write_table(pa.table({"text": [*pages[2:], *planted]}), tmp_path / "web" / "a.parquet")
    web = BulkCorpusConfig(
        path="web", text_column="text", language="en", language_column="", license="ODC-By-1.0", max_units=0
    )
    both = replace(config, bulk_texts=replace(config.bulk_texts, corpora={"web": web}))
    data, metrics = collect(both, tmp_path, "both")
    verify(data / "texts")
    small = list(read_table(alone / "texts", Text))
    rows = list(read_table(data / "texts", Text))
    assert rows[: len(small)] == small and [row.text for row in rows[len(small) :]] == pages[2:]
    assert {row.split for row in rows[len(small) :]} == {"train", "validation"}
    assert metrics["bulk_documents"] == 30 and metrics["bulk_texts_en"] == 28
    assert metrics["bulk_dropped_evaluation_item"] == metrics["bulk_dropped_shares_ngram_with_test"] == 1
    assert {key: metrics[key] for key in before} == before
    assert (data / "stats.parquet").read_bytes() == (alone / "stats.parquet").read_bytes()
