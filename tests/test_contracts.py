"""Rows between stages are checked on the way in and on the way out."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from components.shared.contracts import (
    Dialogue,
    Interleaved,
    Question,
    Schema,
    Segment,
    SpeechTokens,
    Turn,
    check_row,
    from_table,
    to_table,
)

TOKENS = SpeechTokens(
    id="u1",
    tokens=[0, 7, 65535],
    duration_s=1.5,
    text=None,
    text_source="none",
    language="zh",
    speaker="s",
    corpus="c",
    license="MIT",
    split="train",
    origin="synthesized",
)
SPEECH = Segment(modality="speech", text="hello", tokens=[1, 2], start=0, stop=5)
WRITTEN = Segment(modality="text", text=" world", tokens=[], start=5, stop=11)
DOCUMENT = Interleaved(
    id="d1",
    language="en",
    corpus="c",
    segments=[SPEECH, WRITTEN],
    num_text_chars=6,
    num_speech_tokens=2,
    engine="transformers",
    license="MIT",
    split="train",
)
QUESTION = Question(
    id="q1",
    language="en",
    question="Where?",
    answer="Rome",
    candidates=["Rome", "Oslo"],
    relation="city",
    fact="f1",
    withheld=False,
    question_utterance="u1",
    candidate_utterances=["u2", "u3"],
    split="test",
)
DIALOGUE = Dialogue(
    id="x",
    language="en",
    turns=[Turn(role="user", text="hi", tokens=[3], origin="recorded")],
    fact="",
    split="train",
)


@pytest.mark.parametrize("row", [TOKENS, DOCUMENT, QUESTION, DIALOGUE])
def test_rows_go_through_arrow_unchanged(row: object) -> None:
    assert from_table(to_table([row], type(row)), type(row)) == [row]


def test_codes_are_16_bit_and_only_optional_fields_are_nullable() -> None:
    schema = Schema.of(SpeechTokens)
    assert schema.field("tokens").type == pa.list_(pa.uint16())
    assert [field.name for field in schema if field.nullable] == ["text"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(TOKENS, id=""), "SpeechTokens '': empty id"),
        (replace(TOKENS, split="dev"), "'u1': split: got 'dev', wanted one of train, validation, test"),
        (replace(TOKENS, duration_s=0.0), "duration_s: got 0.0, wanted more than 0"),
        (replace(TOKENS, duration_s=float("nan")), "duration_s: got nan"),
        (replace(TOKENS, text_source="robot"), "text_source: got 'robot'"),
        (replace(TOKENS, origin="guessed"), "origin: got 'guessed'"),
        (replace(QUESTION, answer="Paris"), "answer 'Paris' is not among its candidates"),
        (replace(QUESTION, candidate_utterances=["u2"]), "2 candidates but 1 utterances"),
        (replace(DOCUMENT, segments=[replace(SPEECH, tokens=[])]), "a speech segment has 0 tokens"),
        (replace(DOCUMENT, segments=[replace(WRITTEN, tokens=[1])]), "a text segment has 1 tokens"),
        (replace(DOCUMENT, segments=[replace(SPEECH, modality="song")]), "modality: got 'song'"),
    ],
)
def test_a_row_that_breaks_its_contract_is_named(row: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_row(row)


@pytest.mark.parametrize(
    "row", [replace(TOKENS, tokens=[70000]), replace(TOKENS, tokens=[-1]), replace(TOKENS, speaker=None)]
)
def test_a_value_that_does_not_fit_the_schema_is_refused(row: SpeechTokens) -> None:
    with pytest.raises(ValueError, match="SpeechTokens"):
        to_table([row], SpeechTokens)


def test_a_table_with_a_foreign_or_a_missing_column_is_refused() -> None:
    table = to_table([TOKENS], SpeechTokens)
    with pytest.raises(ValueError, match=r"column \['speaker'\] does not fit the contract"):
        from_table(table.drop_columns(["speaker"]), SpeechTokens)
    with pytest.raises(ValueError, match=r"column \['mood'\] does not fit the contract"):
        from_table(table.append_column("mood", pa.array(["good"])), SpeechTokens)
