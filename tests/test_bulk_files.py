"""Bulk text on disk: any mix of files is read in any parts, or refused in one line that names file and place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.collect import bulk, bulk_files
from components.collect.bulk_files import find_parts, passed_over, read
from components.shared.tracking import TerminalTracker
from tests.bulk_corpus import RNG, collected, dropped, english, put, settings


def test_any_mix_of_files_is_read_in_the_order_of_their_names(tmp_path):
    names = ["a.parquet", "b.jsonl", "c.jsonl.gz", "d/e.jsonl.zst", "d/f.ndjson", "saved/data-00000-of-00001.arrow"]
    texts = {name: [english() for _ in range(120)] for name in names}
    for name, said in texts.items():
        put(tmp_path / "web", name, [{"text": text, "url": "u"} for text in said])
    put(tmp_path / "web", "saved/cache-12.arrow", [{"text": english()}])
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (tmp_path / "web" / "saved" / "state.json").write_text(json.dumps(state))
    (tmp_path / "web" / "README.md").write_text("what this is")
    put(tmp_path / "web", ".cache/huggingface/x.jsonl", [{"text": english()}])
    rows, figures, _ = collected(tmp_path, settings())
    assert [row.text for row in rows] == [text for name in names for text in texts[name]]
    assert figures["bulk_documents"] == figures["bulk_texts_en"] == len(rows) == len({row.id for row in rows})
    assert {row.corpus for row in rows} == {"web"} and {row.license for row in rows} == {"ODC-By-1.0"}
    assert {row.split for row in rows} == {"train", "validation"}
    assert figures["bulk_texts_validation"] == sum(row.split == "validation" for row in rows)


@pytest.mark.parametrize("name", ["big.jsonl", "big.parquet"])
def test_a_file_read_in_parts_gives_the_same_rows_as_one_read_whole(tmp_path, monkeypatch, name):
    put(tmp_path / "web", name, [{"text": english(400)} for _ in range(900)])
    assert len(find_parts(tmp_path / "web", ["text"], 10**6, "here")) > 1
    cut_up, _, _ = collected(tmp_path, settings(similarity=0.0))
    whole, _, _ = collected(tmp_path, settings(similarity=0.0, part_mb=100))
    assert cut_up == whole and len(whole) == 900


def test_every_byte_of_a_jsonl_file_belongs_to_exactly_one_part(tmp_path):
    put(tmp_path, "a.jsonl", [{"text": "x" * int(size)} for size in RNG.integers(0, 40, 50)])
    size = (tmp_path / "a.jsonl").stat().st_size
    (whole,) = find_parts(tmp_path, ["text"], 10**6, "here")
    for step in (1, 7, 23, size - 1, size):
        parts = [replace(whole, start=start, stop=min(size, start + step)) for start in range(0, size, step)]
        assert [row for part in parts for row in read(part, "text", "")] == list(read(whole, "text", ""))


def cut_short(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("name", "share", "words"),
    [
        ("a.parquet", 0.9003, r"a\.parquet: its footer: cut off or damaged"),
        ("a.jsonl", 0.9003, r"a\.jsonl: byte \d+: cut off: its last line is no JSON"),
        ("a.jsonl.gz", 0.9003, r"a\.jsonl\.gz: byte \d+: cut off or damaged"),
        ("a.jsonl.zst", 0.9003, r"a\.jsonl\.zst: byte \d+: cut off or damaged"),
        ("a.arrow", 0.9003, r"a\.arrow: cut off: the Arrow stream has no end"),
        ("a.jsonl", 0.0, r"a\.jsonl: got an empty file, wanted a whole jsonl file"),
    ],
)
def test_a_file_that_ends_early_is_refused_in_one_line(tmp_path, name, share, words):
    texts = ["".join(map(chr, RNG.integers(97, 123, 500))) for _ in range(5000)]  # compresses badly, so has many blocks
    cut_short(put(tmp_path / "web", name, [{"text": text} for text in texts]), share)
    with pytest.raises(ValueError, match=words) as caught:
        collected(tmp_path, settings())
    assert len(str(caught.value).splitlines()) == 1


def test_a_parquet_file_with_a_damaged_page_is_refused_with_its_row(tmp_path):
    path = put(tmp_path / "web", "a.parquet", [{"text": english()} for _ in range(200)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet: row \d+: cut off or damaged") as caught:
        collected(tmp_path, settings())
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", b"PAR0 is not it", r"a\.parquet: its footer: cut off or damaged"),
        ("a.jsonl", b"\x7fELF\x02\x01\x01" * 50, r"a\.jsonl: line 1: got no JSON"),
        ("a.jsonl", b'["a", "b"]\n', r"line 1: got a JSON list, wanted an object a line"),
        ("a.jsonl", b'{"words": "x"}\n', r"line 1: got keys words, wanted one called 'text'"),
        ("a.jsonl.gz", b"no gzip at all", r"a\.jsonl\.gz: its first line: cut off or damaged"),
        ("a.arrow", b"no arrow at all", r"a\.arrow: its schema: cut off or damaged"),
        (
            "a.txt",
            b"words",
            r"collect\.bulk_texts\.corpora\.web: .*web: no rows in a file that ends in \.parquet",
        ),
    ],
)
def test_a_foreign_file_is_refused_before_anything_is_read(tmp_path, name, content, words):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        bulk.plan_bulk(settings(), 17, tmp_path, TerminalTracker())
    assert len(str(caught.value).splitlines()) == 1


def test_a_table_without_the_column_and_one_of_numbers_are_refused(tmp_path):
    put(tmp_path / "web", "a.parquet", [{"content": "x"}])
    with pytest.raises(ValueError, match=r"a\.parquet: got columns content, wanted one called 'text'"):
        bulk.plan_bulk(settings(), 17, tmp_path, TerminalTracker())
    put(tmp_path / "web", "a.parquet", [{"text": 1}])
    with pytest.raises(ValueError, match=r"column 'text': got int64, wanted strings"):
        bulk.plan_bulk(settings(), 17, tmp_path, TerminalTracker())


def test_a_line_too_long_to_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_files, "MAX_LINE_BYTES", 1000)
    put(tmp_path / "web", "a.jsonl", [{"text": english()}, {"text": "x" * 2000}])
    with pytest.raises(ValueError, match=r"a\.jsonl: byte \d+: got a line of more than 1000 bytes"):
        collected(tmp_path, settings())


def test_rows_that_cannot_be_used_are_counted_and_the_rest_is_kept(tmp_path):
    good = [english() for _ in range(3)]
    rows = [json.dumps({"text": text}).encode() for text in good]
    bad = [
        b"{no json}",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"text": null}',
        b'{"text": 5}',
        b'{"other": "x"}',
        b'{"text": "\xff\xfe broken bytes"}',
        rb'{"text": "half a pair \ud83d of surrogates"}',
        b'{"text": "  \\n\\t "}',
        b'{"text": "\\u0000\\u0001"}',
        '{"text": "🙂🙃😀😀😀😀👩‍👩‍👧🏽❤️🇩🇪"}'.encode(),
        b'{"text": "... --- ... !!! ???"}',
        b'{"text": "short"}',
        b"",
    ]
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.jsonl").write_bytes(b"\n".join([rows[0], *bad, *rows[1:]]))
    kept, figures, _ = collected(tmp_path, settings())
    assert [row.text for row in kept] == good
    assert dropped(figures) == {
        "malformed_row": 3,
        "missing_text": 3,
        "non_utf8_text": 2,
        "empty_text": 2,
        "no_word": 2,
        "short_text": 1,
    }
    assert figures["bulk_documents"] == len(kept) + sum(dropped(figures).values())


def test_files_that_are_no_documents_are_told_by_their_endings(tmp_path):
    for name in ("a.jsonl", "b.csv", "c.csv", "README.md", ".hidden", "cache-01.jsonl", "cache-1.arrow"):
        (tmp_path / name).write_text('{"text": "a line"}\n')
    assert passed_over(tmp_path) == {".csv": 2, ".md": 1}
    (tmp_path / "cache-1.arrow").unlink()
    assert [part.name for part in find_parts(tmp_path, ["text"], 10**6, "corpus")] == ["a.jsonl", "cache-01.jsonl"]


def test_parquet_strings_that_are_no_utf8_are_counted(tmp_path):
    texts = [english().encode(), b"\xff\xfe no text at all \xff", english().encode()]
    offsets = np.cumsum([0, *(len(text) for text in texts)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
    (tmp_path / "web").mkdir()
    broken = pa.StringArray.from_buffers(3, buffers[1], buffers[2])
    pq.write_table(pa.table({"text": broken}), tmp_path / "web" / "a.parquet")
    kept, figures, _ = collected(tmp_path, settings())
    assert len(kept) == 2 and dropped(figures) == {"non_utf8_text": 1}
