"""Which documents synthesize uses: chunks by their content, up to a target, two to one."""

from __future__ import annotations

import dataclasses

import pytest
from test_synthesize import _config

from components.synthesize.selection import select
from components.synthesize.survey import Chunk


def _chunk(number: int, **changes) -> Chunk:
    chunk = Chunk(
        part="",
        language="en",
        number=number,
        num_documents=20,
        content=f"content {number}",
        num_chars=800,
        speech_tokens=60.0,
        text_tokens=40.0,
    )
    return dataclasses.replace(chunk, **changes)


def test_chunks_are_taken_up_to_the_target_by_their_content_alone():
    chunks = [_chunk(i) for i in range(12)]
    config = _config(target_tokens=430)
    selection = select(chunks, config)
    assert 430 <= selection.tokens["en"] <= 435, "whole documents"
    assert sorted(chunk.num_documents for chunk in selection.chunks) == [6, 20, 20, 20, 20]
    assert selection.dropped == {"beyond_target": 12 * 20 - 86}
    grown = select([_chunk(99), *chunks], config)
    kept = {chunk.content for chunk in selection.chunks} & {chunk.content for chunk in grown.chunks}
    assert len(kept) >= len(selection.chunks) - 1
    with pytest.raises(ValueError, match=r"language_shares: texts are in 'en', wanted a share for it beside zh"):
        select(chunks, _config(language_shares={"zh": 1.0}))
    with pytest.raises(ValueError, match=r"language_shares.en: got 0.0, wanted more than 0"):
        select(chunks, _config(language_shares={"en": 0.0}))


def test_a_language_with_one_large_chunk_still_gets_its_share():
    chunks = [_chunk(0), _chunk(1, language="zh", num_documents=10_000, speech_tokens=6e4, text_tokens=4e4)]
    tokens = select(chunks, _config(target_tokens=150)).tokens
    assert tokens["zh"] == pytest.approx(50, rel=0.2)


def test_languages_share_the_tokens_two_to_one():
    chunks = [_chunk(i) for i in range(40)] + [_chunk(i, language="zh") for i in range(40, 80)]
    tokens = select(chunks, _config(target_tokens=2000)).tokens
    assert tokens["en"] == pytest.approx(2 * tokens["zh"], rel=0.01)
    assert sum(tokens.values()) == pytest.approx(2000, rel=0.01)
    without = select(chunks, _config(target_tokens=2000), unsayable=["zh"])
    assert without.tokens == {"en": pytest.approx(2000, rel=0.01)} and without.dropped["unsayable"] == 800
