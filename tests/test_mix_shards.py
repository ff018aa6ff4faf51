"""Token shards of mix: the documents of the formats page, made in constant memory; bad rows are named in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.mix import documents
from components.mix.documents import Job, check_countable, make_shard, read_counts
from components.mix.order import MAX_SHARDS
from components.mix.rows import codes_of
from components.mix.sources import check_number
from components.shared.contracts import Interleaved, SpeechTokens, Text, to_table
from components.shared.formats import Formats
from components.shared.tokens import Vocabulary, add_speech, load_tokenizer, train_bpe
from tests.speech_rows import NUM_CODES, interleaved_row, speech, text_row

TEXTS = ["Anna has a dog.", "What pet does Anna have? Dog.", "Every day Anna feeds a dog."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    add_speech(train_bpe(TEXTS, 280), NUM_CODES).save_pretrained(folder)
    return folder


def job(source: str, rows: list, row_type: type, tokenizer: Path, folder: Path) -> Job:
    path = folder / f"{source}.parquet"
    pq.write_table(to_table(rows, row_type), path, row_group_size=100)
    return Job(
        source=source,
        parquet=path,
        tokenizer=tokenizer,
        num_codes=NUM_CODES,
        seed=17,
        held_out_share=0.1,
        spoken_share=1.0,
        filler=(),
        share_cores=False,
    )


def read(folder: Path) -> dict[str, list[int]]:
    """Id -> token ids, in the order of the shard."""
    tokens, offsets = np.fromfile(folder / "tokens.bin", "<u4"), np.fromfile(folder / "tokens.offsets", "<u8")
    ids = pq.read_table(folder / "ids.parquet")["id"].to_pylist()
    assert len(offsets) == len(ids) + 1 and int(offsets[-1]) == len(tokens)
    return {name: tokens[int(offsets[i]) : int(offsets[i + 1])].tolist() for i, name in enumerate(ids)}


def test_a_shard_holds_the_documents_that_the_formats_make_one_by_one(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "BATCH_UNITS", 500)  # several batches of documents, several of rows
    loaded = load_tokenizer(tokenizer)
    formats = Formats(loaded, Vocabulary.of(loaded, NUM_CODES))
    texts = [
        text_row(f"t{n}", f"{TEXTS[n % 3]} <|user|> {n}", "validation" if n % 7 == 6 else "train") for n in range(600)
    ]
    spoken = [speech(f"s{n}", TEXTS[n % 3] if n % 4 else None, "test" if n % 9 == 8 else "train") for n in range(600)]
    pieces = [("speech", "Anna has"), ("text", " a dog, "), ("speech", "a cat")]
    mixed = [interleaved_row(f"i{n}", pieces[: n % 4]) for n in range(600)]
    expected = {
        "text": {row.id: formats.text_document(row.text) for row in texts},
        "speech": {r.id: formats.speech_document(r.tokens) for r in spoken if r.text is None and r.split == "train"},
        "asr": {r.id: formats.asr_document(r.tokens, r.text, "en") for r in spoken if r.text and r.split == "train"},
        "tts": {r.id: formats.tts_document(r.tokens, r.text, "en") for r in spoken if r.text and r.split == "train"},
        "interleaved": {row.id: formats.interleaved_document(row.segments) for row in mixed if row.segments},
    }
    rows = {"text": (texts, Text), "interleaved": (mixed, Interleaved)}
    for source, wanted in expected.items():
        make_shard(job(source, *rows.get(source, (spoken, SpeechTokens)), tokenizer, tmp_path), tmp_path / source)
        found, counts = read(tmp_path / source), read_counts(tmp_path / source)
        assert found == wanted
        lengths = [len(ids) for ids in found.values()]
        train = counts["num_train"]
        assert train + counts["num_validation"] == len(wanted) and 0 < counts["num_validation"] < train
        assert (sum(lengths[:train]), sum(lengths[train:])) == (
            counts["num_train_tokens"],
            counts["num_validation_tokens"],
        )
    assert read_counts(tmp_path / "asr")["dropped_test"] > 0
    assert read_counts(tmp_path / "interleaved")["dropped_empty"] == 150
    held = {name for name in list(read(tmp_path / "text"))[read_counts(tmp_path / "text")["num_train"] :]}
    assert {row.id for row in texts if row.split == "validation"} < held


def test_a_code_outside_the_codebook_names_source_document_and_range(tokenizer: Path, tmp_path: Path) -> None:
    rows = [speech("fine", "a dog"), replace(speech("broken", "a cat"), tokens=[3, 32])]
    with pytest.raises(ValueError, match=r"asr\.parquet: asr document 'broken': speech code 32 is outside 0\.\.31"):
        make_shard(job("asr", rows, SpeechTokens, tokenizer, tmp_path), tmp_path / "asr")
    segment = replace(interleaved_row("x", [("speech", "a")]).segments[0], tokens=[99])
    mixed = [interleaved_row("i0", [("speech", "a dog")]), replace(interleaved_row("i1", []), segments=[segment])]
    with pytest.raises(ValueError, match=r"interleaved document 'i1': speech code 99 is outside 0\.\.31"):
        make_shard(job("interleaved", mixed, Interleaved, tokenizer, tmp_path), tmp_path / "interleaved")


def test_a_code_that_no_document_shows_is_nobodys_mistake(tokenizer: Path, tmp_path: Path) -> None:
    rows = [speech("fine", "a dog"), replace(speech("tested", "a cat", "test"), tokens=[3, 32])]
    make_shard(job("asr", rows, SpeechTokens, tokenizer, tmp_path), tmp_path / "asr")
    assert list(read(tmp_path / "asr")) == ["fine"]


def test_a_token_id_outside_the_vocabulary_names_document_and_range(tokenizer: Path, tmp_path: Path) -> None:
    """A base LM's tokenizer may have holes among its ids: len() is then less than the largest of them."""
    holes = tmp_path / "holes"
    load_tokenizer(tokenizer).save_pretrained(holes)
    record = json.loads((holes / "tokenizer.json").read_text(encoding="utf-8"))
    record["model"]["vocab"]["Q"] = 5000
    (holes / "tokenizer.json").write_text(json.dumps(record), encoding="utf-8")
    size = len(load_tokenizer(holes))
    rows = [text_row("fine", "Anna has a dog."), text_row("odd", "Q"), text_row("more", "a cat")]
    with pytest.raises(
        ValueError, match=rf"text document 'odd': token id 5000 is outside the vocabulary 0\.\.{size - 1}"
    ):
        make_shard(job("text", rows, Text, holes, tmp_path), tmp_path / "text")


def test_a_pair_in_a_language_without_words_for_it_is_named(tokenizer: Path, tmp_path: Path) -> None:
    rows = [replace(speech("s0", "hola"), language="es")]
    with pytest.raises(ValueError, match=r"tts document 's0': language: got 'es', wanted one of en, zh"):
        make_shard(job("tts", rows, SpeechTokens, tokenizer, tmp_path), tmp_path / "tts")


def test_a_shard_of_another_contract_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    made = job("text", [text_row("t", "a dog")], Text, tokenizer, tmp_path)
    with pytest.raises(ValueError, match="SpeechTokens: column"):
        make_shard(replace(made, source="asr"), tmp_path / "asr")


def test_padding_and_truncation_that_a_base_asks_for_change_nothing(tokenizer: Path, tmp_path: Path) -> None:
    asking = tmp_path / "asking"
    loaded = load_tokenizer(tokenizer)
    loaded.backend_tokenizer.enable_padding()
    loaded.backend_tokenizer.enable_truncation(4)
    loaded.save_pretrained(asking)
    rows = [text_row(f"t{n}", text) for n, text in enumerate(TEXTS)]
    make_shard(job("text", rows, Text, tokenizer, tmp_path), tmp_path / "plain")
    make_shard(job("text", rows, Text, asking, tmp_path), tmp_path / "asked")
    assert read(tmp_path / "asked") == read(tmp_path / "plain")


def test_what_records_of_the_schedule_cannot_count_is_refused_not_wrapped() -> None:
    check_countable(np.array([2**32 - 1, 2**32 - 1]), "x")  # a shard of more than 2**32 tokens is fine
    with pytest.raises(
        ValueError, match=r"t\.parquet: a document of 4294967296 tokens, wanted at most 4294967295; cut"
    ):
        check_countable(np.array([5, 2**32]), "t.parquet")
    check_number("text", MAX_SHARDS)
    with pytest.raises(ValueError, match=r"source text has 65537 shards, wanted at most 65536; make collect/texts of"):
        check_number("text", MAX_SHARDS + 1)


def test_the_codes_of_a_slice_are_its_own() -> None:
    """Batches are slices of what was decoded; a list's neighbours stand in the same buffer."""
    table = to_table([speech(f"s{n}", "a" * (n + 1)) for n in range(5)], SpeechTokens).slice(2, 2)
    (batch,) = table.to_batches()
    assert [codes.tolist() for codes in codes_of(batch["tokens"])] == [[0] * 3, [0] * 4]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shard(tokenizer: Path, tmp_path: Path) -> None:
    def peak_mb(num_rows: int) -> float:
        rows = [text_row(f"t{n}", " ".join(TEXTS) * 40) for n in range(num_rows)]
        made = job("text", rows, Text, tokenizer, tmp_path)
        code = (
            "import re, sys; from pathlib import Path; from components.mix.documents import Job, make_shard; "
            f"make_shard(Job(source='text', parquet=Path({str(made.parquet)!r}), tokenizer=Path({str(tokenizer)!r}), "
            f"num_codes={NUM_CODES}, seed=17, held_out_share=0.1, spoken_share=1.0, filler=(), share_cores=True), "
            f"Path({str(tmp_path / str(num_rows))!r})); "
            "print(int(re.findall(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[0]) / 1024)"
        )
        root = Path(__file__).parents[1]
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        return float(done.stdout)

    few, many = peak_mb(1500), peak_mb(7500)
    tokens = (tmp_path / "7500" / "tokens.bin").stat().st_size / 2**20
    assert tokens > 20
    assert many - few < tokens / 2, f"{few:.0f} MB, then {many:.0f} MB for {tokens:.0f} MB of tokens"
