"""Bulk text: documents cleaned, freed of repeats and evaluation items, the same for any workers, in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.collect import bulk, bulk_parts, near_duplicates
from components.collect.cleaning import clean, cut, words_of
from components.collect.config import BulkTextConfig
from components.collect.contamination import Leaks, held_ngrams
from components.collect.languages import detect, language_of
from components.config import load_config
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.tracking import TerminalTracker
from tests.bulk_corpus import ONE, RNG, chinese, collected, corpus, dropped, english, put, settings

# Documents


def test_control_characters_leave_and_line_ends_become_one_kind():
    assert clean("a\x00b\x07c\ufeff") == ("abc", True)
    assert clean("one\r\ntwo\rthree\x0cfour\u2028five\tsix\n") == ("one\ntwo\nthree\nfour\nfive\tsix", True)
    assert clean("  plain 你好 🙂\n") == ("plain 你好 🙂", False)


@pytest.mark.parametrize("make", [english, chinese, lambda size: "x" * size, lambda size: "语" * size])
def test_a_document_of_ten_megabytes_is_cut_into_pieces_that_are_neither_too_long_nor_too_short(make):
    text = make(2_000)
    text = text * (10_000_000 // len(text.encode()) + 1)
    pieces = cut(text, 5000, 1000)
    assert all(1000 <= len(piece) <= 5000 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_long_document_is_cut_at_paragraphs_then_at_sentences():
    paragraphs = [english(100) for _ in range(8)]
    joined = cut("\n\n".join(paragraphs), 1600, 100)
    assert all(piece.split("\n\n")[-1] in paragraphs for piece in joined)
    assert all(piece.endswith(".") for piece in cut(" ".join(paragraphs), 1600, 100))
    assert all(piece.endswith("。") for piece in cut(chinese(4000), 500, 100))


def test_ten_megabytes_in_one_document_become_rows_with_numbered_ids_and_one_split(tmp_path):
    text = " ".join(english(1000) for _ in range(1700))
    assert len(text) > 10_000_000
    put(tmp_path / "web", "a.parquet", [{"text": text}, {"text": "A short one with\x00 a hole\r\nin it."}])
    rows, figures, _ = collected(tmp_path, settings())
    long, short = rows[:-1], rows[-1]
    assert figures["bulk_cut_documents"] == 1 and figures["bulk_cleaned_documents"] == 1
    assert [row.id.rpartition("-")[2] for row in long] == [f"{number:04d}" for number in range(len(long))]
    assert len({row.id.rpartition("-")[0] for row in long}) == 1 and len({row.split for row in long}) == 1
    assert max(len(row.text) for row in rows) <= 5000 and short.text == "A short one with a hole\nin it."
    assert sum(len(row.text) for row in long) == pytest.approx(len(text), rel=0.01)


def test_words_of_mixed_scripts_are_words_and_characters():
    assert words_of("Don’t say 你好, GPT-4 été! 🙂 Ω") == ["don't", "say", "你", "好", "gpt", "4", "été", "ω"]


def test_a_document_of_mixed_scripts_keeps_its_characters(tmp_path):
    text = "A mixed 文档 with العربية, ελληνικά, 日本語 and 🙂 in one line."
    put(tmp_path / "web", "a.jsonl", [{"text": text}])
    rows, _, _ = collected(tmp_path, settings())
    assert [row.text for row in rows] == [text]


SAID = {
    "en": "This is how the people of the town remembered the long winter when the river froze.",
    "zh": "人们常常想起那个漫长的冬天，河水都结了冰，孩子们在冰上玩耍，老人们在家里喝茶。",
    "de": "Die Leute im Dorf erinnern sich noch heute gerne an den langen Winter am zugefrorenen Fluss.",
    "fr": "Les gens du village se souviennent encore aujourd'hui du long hiver où la rivière était gelée.",
    "ja": "村の人々は、川が凍りついたあの長い冬のことを今でもよく覚えているのです。",
    "ko": "마을 사람들은 강이 얼어붙었던 그 긴 겨울을 지금도 잘 기억하고 있습니다.",
}


def test_languages_are_found_and_those_not_wanted_are_counted(tmp_path):
    put(tmp_path / "web", "a.jsonl", [{"text": text} for text in SAID.values()])
    rows, figures, _ = collected(tmp_path, settings(corpora={"web": corpus(language="detect")}))
    assert {row.language: row.text for row in rows} == {name: SAID[name] for name in ("en", "zh")}
    assert dropped(figures) == {"other_language": 4}
    assert detect("Nothing but English. " * 1000 + SAID["zh"]) == "en"


def test_a_language_column_counts_whatever_way_it_spells(tmp_path):
    codes = ["en", "EN", "eng", "en-US", "eng_Latn", "zh", "zh-Hans", "cmn_Hani", "zho", "de", "", None]
    assert [language_of(code or "") for code in codes] == ["en"] * 5 + ["zh"] * 4 + ["de", "", ""]
    put(tmp_path / "web", "a.parquet", [{"text": english(), "lang": code} for code in codes])
    columns = corpus(language="column", language_column="lang")
    rows, figures, _ = collected(tmp_path, settings(corpora={"web": columns}))
    assert [row.language for row in rows] == ["en"] * 5 + ["zh"] * 4
    assert dropped(figures) == {"other_language": 3}


# What training may not hold


def test_documents_that_hold_an_evaluation_item_or_words_of_a_held_out_text_are_removed(tmp_path):
    question, chinese_question = "Which pet does Anna Poe have at home?", "吴敏的宠物是什么动物？"
    held, held_chinese = english(30), chinese(40)
    eight, thirteen = " ".join(words_of(held)[2:10]), "".join(words_of(held_chinese)[3:16])
    documents = {
        f"{english()} WHICH PET does Anna Poe\nhave -- at home? {english()}": "evaluation_item",
        f"{chinese()}吴敏的宠物，是什么动物{chinese()}": "evaluation_item",
        f"{english()} {eight} {english()}": "shares_ngram_with_test",
        f"{chinese()}{thirteen}{chinese()}": "shares_ngram_with_test",
        f"{english()} {held} {question}": "evaluation_item",
        f"{english()} Which pet does Anna Poe have at homes? {english()}": "",
        f"{english()} {' '.join(eight.split()[:7])} {english()}": "",
        f"{english()} Good morning. {english()}": "",
    }
    put(tmp_path / "web", "a.jsonl", [{"text": text} for text in documents])
    held_out = ((held, "en"), (held_chinese, "zh"), ("Good morning.", "en"))
    rows, figures, _ = collected(tmp_path, settings(), asked=(question, chinese_question), held=held_out)
    assert [row.text for row in rows] == [text for text, reason in documents.items() if not reason]
    assert dropped(figures) == {"evaluation_item": 3, "shares_ngram_with_test": 2}


def test_an_item_inside_held_out_words_is_still_an_item():
    leaks = Leaks(["c d e"], ["b c d e f", "a b c d"])
    assert leaks.reason(["x", "a", "b", "c", "d", "e", "f"]) == "evaluation_item"
    assert leaks.reason(["x", "a", "b", "c", "d", "f"]) == "shares_ngram_with_test"
    assert leaks.reason(["x", "c", "d", "ex"]) == leaks.reason([]) == Leaks([], []).reason(["a"]) == ""


def test_a_held_out_text_gives_its_ngrams_and_a_short_one_itself():
    assert list(held_ngrams("One two three four", 3, 2)) == ["one two three", "two three four"]
    assert list(held_ngrams("One two", 3, 2)) == ["one two"]
    assert list(held_ngrams("One", 3, 2)) == []


# Near-duplicates


def changed(text: str, share: float) -> str:
    """A text with so many of its words replaced; at most one in five words."""
    words = text.split()
    for place in RNG.choice(len(words), max(1, round(share * len(words))), replace=False):
        words[place] = f"new{place}"
    return " ".join(words)


def test_planted_near_duplicates_are_dropped_and_nothing_else_is(tmp_path):
    originals = [english(300) for _ in range(150)] + [chinese(300) for _ in range(50)]
    copies = [changed(text, 0.01) for text in originals[:60]] + [
        text[:200] + "还" + text[201:] for text in originals[150:]
    ]
    far = [changed(text, 0.2) for text in originals[60:120]]
    put(tmp_path / "web", "a.jsonl", [{"text": text} for text in originals])
    put(tmp_path / "web", "b.jsonl.zst", [{"text": text} for text in [*copies, *originals[:10], *far]])
    rows, figures, _ = collected(tmp_path, settings())
    assert [row.text for row in rows] == [*originals, *far]
    assert dropped(figures) == {"near_duplicate": len(copies) + 10}
    rows, figures, _ = collected(tmp_path, settings(similarity=0.0))
    assert len(rows) == figures["bulk_documents"] and not dropped(figures)


def test_pairs_are_caught_as_often_as_the_bands_say():
    """1 - (1 - s^8)^14 of FineWeb's 14 bands of 8, within five standard errors."""
    assert near_duplicates.bands_of(0.75, 112) == (14, 8)
    assert near_duplicates.bands_of(0.9, 112) == (7, 16)
    for share in (0.01, 0.03, 0.05):
        chances, caught = [], []
        for _ in range(300):
            text = english(300)
            pair = [words_of(text), words_of(changed(text, share))]
            sets = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in pair]
            similarity = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
            chances.append(1 - (1 - similarity**8) ** 14)
            first, second = (np.reshape(near_duplicates.signature(words, 5, 112), (14, 8)) for words in pair)
            caught.append(bool((first == second).all(axis=1).any()))
        error = np.sqrt(np.sum([chance * (1 - chance) for chance in chances])) + 1
        assert abs(sum(caught) - sum(chances)) < 5 * error


def test_the_answer_does_not_depend_on_blocks_and_ranges(tmp_path, monkeypatch):
    texts = [english(100) for _ in range(300)]
    rows = [{"text": text} for text in [*texts, *(changed(text, 0.01) for text in texts[::3])]]
    put(tmp_path / "web", "a.jsonl", rows)
    _, figures, table = collected(tmp_path, settings())
    assert figures["bulk_dropped_near_duplicate"] > 90
    monkeypatch.setattr(near_duplicates, "DOCUMENTS_PER_BLOCK", 64)
    monkeypatch.setattr(near_duplicates, "DOCUMENTS_PER_RANGE", 50)
    assert collected(tmp_path, settings(), work="other")[2] == table


# Running


def web(root: Path, count: int = 300) -> None:
    """A corpus of four kinds with repeats across its files."""
    texts = [english(100) for _ in range(count)]
    for number, name in enumerate(("a.parquet", "b.jsonl", "c.jsonl.gz", "d.jsonl.zst")):
        put(root / "web", name, [{"text": text} for text in texts[number * count // 5 : (number + 2) * count // 5]])


def test_workers_do_not_change_a_byte_and_a_restart_makes_nothing_again(tmp_path):
    web(tmp_path)
    rows, figures, table = collected(tmp_path, settings())
    assert len(rows) == 300 and figures["bulk_dropped_near_duplicate"] == 180
    two = ExecutorConfig(kind=ExecutorKind.local, num_workers=2)
    assert collected(tmp_path, settings(), two, work="two")[2] == table
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "shards").iterdir()}
    again = collected(tmp_path, settings())
    assert again[2] == table and "bulk_mb_per_s" in figures and "bulk_mb_per_s" not in again[1]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "shards").iterdir()} == made


def test_a_file_that_was_added_or_replaced_is_read_and_the_others_are_not(tmp_path):
    web(tmp_path)
    before, _, _ = collected(tmp_path, settings())
    shards = {path.name for path in (tmp_path / "work" / "shards").iterdir()}
    put(tmp_path / "web", "0.jsonl", [{"text": english(100)} for _ in range(5)])
    after, _, _ = collected(tmp_path, settings())
    assert len(after) == len(before) + 5 and {row.id for row in before} < {row.id for row in after}
    read_anew = [path for path in (tmp_path / "work" / "shards").glob("*/rows.parquet")]
    assert sum(path.parent.name not in shards for path in read_anew) == 1


@pytest.mark.slow
def test_ray_gives_the_same_bytes(tmp_path):
    web(tmp_path)
    _, _, table = collected(tmp_path, settings())
    ray = ExecutorConfig(kind=ExecutorKind.ray, num_workers=2)
    assert collected(tmp_path, settings(), ray, work="ray")[2] == table


def _collect_elsewhere(root: Path) -> None:
    collected(root, settings())


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path):
    for number in range(6):
        put(tmp_path / "web", f"{number}.jsonl", [{"text": english(200)} for _ in range(700)])
    _, _, table = collected(tmp_path, settings(), work="undisturbed")
    process = multiprocessing.get_context("spawn").Process(target=_collect_elsewhere, args=(tmp_path,))
    process.start()
    shards = tmp_path / "work" / "shards"
    while len(finished := [p for p in shards.glob("[!.]*")] if shards.is_dir() else []) < 2 and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert finished and process.exitcode == -signal.SIGKILL
    made = {path: path.stat().st_mtime_ns for path in finished}
    assert collected(tmp_path, settings())[2] == table
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_limit_takes_the_same_parts_however_they_are_dealt_and_no_more_than_needed(tmp_path, monkeypatch):
    for number in range(30):
        put(tmp_path / "web", f"{number:02d}.jsonl", [{"text": english(100)} for _ in range(5)])
    limited = settings(corpora={"web": corpus(max_units=3000)})
    rows, _, table = collected(tmp_path, limited)
    units = sum(len(words_of(row.text)) for row in rows)
    assert 3000 <= units < 3000 + 5 * 150
    monkeypatch.setattr(bulk, "FIRST_ROUND", 1)
    assert collected(tmp_path, limited, work="other")[2] == table
    assert len(list((tmp_path / "other" / "shards").glob("*/rows.parquet"))) < 10


def test_tables_stay_small_and_follow_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk_parts, "ROW_GROUP_BYTES", 100_000)
    monkeypatch.setattr(bulk_parts, "TABLE_BYTES", 200_000)
    monkeypatch.setattr(bulk, "TABLE_BYTES", 200_000)
    put(tmp_path / "web", "a.jsonl.zst", [{"text": english(300)} for _ in range(900)])
    rows, _, _ = collected(tmp_path, settings())
    tables = sorted((tmp_path / "texts-work-0").glob("part-*.parquet"))
    assert len(rows) == 900 and len(tables) > 2 and max(path.stat().st_size for path in tables) < 300_000
    assert [path.name for path in tables] == [f"part-{number:05d}.parquet" for number in range(len(tables))]
    assert all(pq.ParquetFile(path).metadata.row_group(0).total_byte_size < 200_000 for path in tables)


def _peak(root: Path, name: str, found: Any) -> None:
    """Put the peak of resident bytes of a process that reads a corpus."""
    planned = bulk.plan_bulk(settings(corpora={"web": corpus(path=name)}), 17, root, TerminalTracker())
    leaks = bulk.held_file(planned, [], [], root / name)
    (root / name / "texts").mkdir()
    bulk.write_bulk(planned, leaks, root / name / "texts", root / name, ONE, TerminalTracker())
    found.put(_high_water())


def _high_water() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl.zst", "parquet", "jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, ending):
    """120 MB more of text cost less than a third of that, once the heap has settled (after some row groups of 8 MB)."""
    peaks = {}
    for name, documents in (("small", 12_000), ("large", 36_000)):
        put(tmp_path / name, f"a.{ending}", [{"text": english(800)} for _ in range(documents)])
        context = multiprocessing.get_context("spawn")
        found = context.Queue()
        process = context.Process(target=_peak, args=(tmp_path, name, found))
        process.start()
        peaks[name] = found.get(timeout=300)
        process.join()
    assert peaks["large"] - peaks["small"] < 40e6, peaks


# Settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: settings(max_characters=50), r"min_characters, max_characters: got 20 to 50; wanted at least 1"),
        (lambda: settings(similarity=1.5), r"got similarity 1\.5, 112 hashes; wanted 0 to 1"),
        (lambda: settings(part_mb=0), r"collect\.bulk_texts\.part_mb: got 0"),
        (
            lambda: settings(corpora={"web": corpus(language="de")}),
            r"web\.language: got 'de', wanted one of en, zh",
        ),
        (lambda: settings(corpora={"web": corpus(language="column")}), r"web\.language_column: got ''"),
        (lambda: settings(corpora={"web": corpus(path="gone")}), r"corpora\.web: path: got 'gone'"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, change: Callable[[], BulkTextConfig], words):
    with pytest.raises(ValueError, match=words):
        bulk.plan_bulk(change(), 17, tmp_path, TerminalTracker())


def test_a_corpus_of_which_nothing_is_left_says_why(tmp_path):
    put(tmp_path / "web", "a.jsonl", [{"text": "short"}, {"text": ""}])
    with pytest.raises(ValueError, match=r"corpora\.web: none of 2 documents is left: short_text 1, empty_text 1"):
        collected(tmp_path, settings())


def test_bulk_text_cannot_be_spoken(checkout):
    corpora = "{web: {path: web, text_column: text, language: en, language_column: '', license: x, max_units: 0, "
    corpora += "spoken: true}}"
    with pytest.raises(ValueError, match=r"spoken") as caught:
        load_config([f"collect.bulk_texts.corpora={corpora}"])
    assert len(str(caught.value).splitlines()) == 1
