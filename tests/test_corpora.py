"""Any folder of audio with transcripts becomes utterances; what cannot be used is counted by its reason."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from components.collect.audio_shards import Limits, make_shard, plan_shards, trim
from components.collect.config import CorpusConfig, CorpusKind, SplitConfig
from components.collect.corpora import read_corpus
from components.collect.ledger import Ledger
from components.collect.splits import ngrams
from components.collect.utterances import unpack
from components.shared.audio import read_wave

SPLIT = SplitConfig(ngram=5, validation_share=0.1, test_share=0.2, stock_uses=5, min_speakers=10)
LIMITS = Limits(min_duration_s=0.2, max_duration_s=30.0, silence_dbfs=-55.0, edge_s=0.12)
PROMPTS = Path(__file__).parents[1] / "data" / "corpora" / "prompts_en"


def corpus(path: Path, kind: CorpusKind = CorpusKind.manifest, manifest: str = "manifest.tsv") -> CorpusConfig:
    return CorpusConfig(
        kind=kind,
        path=str(path),
        manifest=manifest,
        language="en",
        license="CC0-1.0",
        origin="recorded",
        text_source="human",
        speaker="someone",
        max_utterances=0,
    )


def tone(seconds: float = 1.0, rate_hz: int = 16_000, frequency_hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def write_manifest(folder: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("file", "text")) -> None:
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def collected(config: CorpusConfig, tmp_path: Path):
    """(rows by the file's stem, ledger) after reading, decoding and unpacking a corpus."""
    ledger = Ledger()
    clips = read_corpus("mine", config, SPLIT, 17, tmp_path, ledger)
    paths = []
    for number, shard in enumerate(plan_shards(clips, [], LIMITS, 4)):
        paths.append(tmp_path / f"shard-{number}")
        make_shard(shard, paths[-1])
    rows = unpack(tmp_path / "out", paths, list(clips), ledger)
    return {row.id.removeprefix("mine-"): row for row in rows}, ledger


def test_good_files_of_every_kind_are_kept_at_their_rate_up_to_24_khz(tmp_path):
    soundfile.write(tmp_path / "phone.wav", tone(rate_hz=8_000), 8_000)
    soundfile.write(tmp_path / "plain.flac", tone(), 16_000)
    soundfile.write(tmp_path / "studio.wav", tone(rate_hz=48_000), 48_000, subtype="FLOAT")
    stereo = np.stack([tone(), np.zeros_like(tone())], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16_000)
    write_manifest(
        tmp_path, [(f"{name}", f"words of {name}") for name in ("phone.wav", "plain.flac", "studio.wav", "stereo.wav")]
    )
    rows, ledger = collected(corpus(tmp_path), tmp_path)
    assert {name: (row.sample_rate_hz, row.bandwidth_hz) for name, row in rows.items()} == {
        "phone": (8_000, 4_000),
        "plain": (16_000, 8_000),
        "studio": (24_000, 12_000),
        "stereo": (16_000, 8_000),
    }
    assert not ledger.drops
    wave, rate_hz = read_wave(tmp_path / "out" / rows["stereo"].audio)
    assert rate_hz == 16_000 and np.abs(wave).max() == pytest.approx(0.15, abs=0.01)
    assert rows["plain"].duration_s == pytest.approx(1.0)
    assert rows["plain"].license == "CC0-1.0" and rows["plain"].speaker == "someone"


def test_bad_files_are_dropped_and_counted_by_reason(tmp_path):
    good = tmp_path / "good.flac"
    soundfile.write(good, np.random.default_rng(0).uniform(-0.3, 0.3, 16_000).astype(np.float32), 16_000)
    (tmp_path / "zero-bytes.wav").write_bytes(b"")
    soundfile.write(tmp_path / "no-samples.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(tmp_path / "whole.wav", tone(), 16_000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:9_000])
    (tmp_path / "cut.flac").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    opus = (PROMPTS / "conf-full.opus").read_bytes()
    (tmp_path / "cut.opus").write_bytes(opus[: len(opus) // 2])
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    broken = tone()
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "long.flac", tone(41.0, 8_000), 8_000)
    soundfile.write(tmp_path / "short.wav", tone(0.1), 16_000)
    (tmp_path / "letter.wav").write_text("Dear Sir or Madam, this is no sound at all.\n" * 20)
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".wav", ".flac", ".opus"))
    write_manifest(tmp_path, [(name, name, f"text of file {name}") for name in names], ("file", "id", "text"))
    rows, ledger = collected(corpus(tmp_path), tmp_path)
    assert set(rows) == {"good.flac", "whole.wav"}
    assert dict(ledger.drops) == {
        "empty_audio": 2,
        "truncated": 3,
        "silent": 1,
        "not_finite": 1,
        "too_long": 1,
        "too_short": 1,
        "not_audio": 1,
    }


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "opus", "ogg"])
@pytest.mark.parametrize("share", [0.35, 0.6, 0.8])
def test_a_file_without_its_end_is_truncated_in_every_format(tmp_path, ending, share):
    whole = tmp_path / f"whole.{ending}"
    if ending == "opus":
        whole.write_bytes((PROMPTS / "basic-pbx-ivr-main.opus").read_bytes())
    else:
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, 64_000).astype(np.float32)
        soundfile.write(whole, noise, 16_000)
    (tmp_path / f"cut.{ending}").write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    write_manifest(tmp_path, [(f"whole.{ending}", "all of it"), (f"cut.{ending}", "the end is missing")])
    rows, ledger = collected(corpus(tmp_path), tmp_path)
    assert set(rows) == {"whole"} and dict(ledger.drops) == {"truncated": 1}


def test_a_recording_shorter_than_its_manifest_says_counts_as_truncated(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0), 16_000)
    soundfile.write(tmp_path / "b.wav", tone(1.0), 16_000)
    write_manifest(tmp_path, [("a.wav", "one", "3.5"), ("b.wav", "two", "1.0")], ("file", "text", "duration_s"))
    rows, ledger = collected(corpus(tmp_path), tmp_path)
    assert set(rows) == {"b"} and dict(ledger.drops) == {"truncated": 1}


def test_bad_transcripts_and_ids_are_dropped_and_counted(tmp_path):
    for name in "abcdef":
        soundfile.write(tmp_path / f"{name}.wav", tone(), 16_000)
    lines = [
        b"file\tid\ttext",
        b"a.wav\ta\tgood words",
        b"b.wav\tb\t",
        b"c.wav\tc\t ... ",
        b"d.wav\td\tcaf\xe9 in Latin-1",
        b"e.wav\ta\tthe id of another",
        b"f.wav\tf",
        b"gone.wav\tg\tits file is not there",
        b"\th\tno file named",
    ]
    (tmp_path / "manifest.tsv").write_bytes(b"\n".join(lines) + b"\n")
    rows, ledger = collected(corpus(tmp_path), tmp_path)
    assert {name: row.text for name, row in rows.items()} == {"a": "good words"}
    assert dict(ledger.drops) == {
        "empty_text": 2,
        "non_utf8_text": 1,
        "duplicate_id": 1,
        "missing_text": 1,
        "missing_file": 1,
        "malformed_row": 1,
    }


@pytest.mark.parametrize("name", ["../outside.wav", "/etc/hostname", "sub/../../outside.wav"])
def test_a_manifest_that_points_outside_its_folder_is_one_clear_error(tmp_path, name):
    folder = tmp_path / "corpus"
    folder.mkdir()
    soundfile.write(tmp_path / "outside.wav", tone(), 16_000)
    write_manifest(folder, [(name, "words")])
    with pytest.raises(ValueError, match="wanted a path inside") as error:
        read_corpus("mine", corpus(folder), SPLIT, 17, tmp_path, Ledger())
    assert "\n" not in str(error.value) and name in str(error.value)


def test_a_missing_corpus_or_manifest_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"collect\.corpora\.mine: path: got .*is not there"):
        read_corpus("mine", corpus(tmp_path / "nowhere"), SPLIT, 17, tmp_path, Ledger())
    with pytest.raises(ValueError, match=r"manifest: got 'manifest\.tsv', not a file"):
        read_corpus("mine", corpus(tmp_path), SPLIT, 17, tmp_path, Ledger())
    (tmp_path / "manifest.tsv").write_text("name\twords\nx\ty\n")
    with pytest.raises(ValueError, match="wanted at least file and text"):
        read_corpus("mine", corpus(tmp_path), SPLIT, 17, tmp_path, Ledger())


def test_csv_and_jsonl_manifests_say_the_same_as_tsv(tmp_path):
    records = [
        {"file": f"{name}.wav", "text": f'He said, "{name}"', "speaker": f"s{name}", "split": split, "language": "en"}
        for name, split in (("a", "train"), ("b", "dev"), ("c", "test"))
    ]
    for record in records:
        soundfile.write(tmp_path / record["file"], tone(), 16_000)
    for ending, delimiter in (("tsv", "\t"), ("csv", ",")):
        with (tmp_path / f"manifest.{ending}").open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(records[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(records)
    lines = "\n".join([*(json.dumps(record) for record in records), "{not json", ""])
    (tmp_path / "manifest.jsonl").write_text(lines)
    found = {}
    for ending in ("tsv", "csv", "jsonl"):
        ledger = Ledger()
        found[ending] = read_corpus("m", corpus(tmp_path, manifest=f"manifest.{ending}"), SPLIT, 1, tmp_path, ledger)
        assert ledger.drops["malformed_row"] == (ending == "jsonl")
    assert found["tsv"] == found["csv"] == found["jsonl"]
    assert [(clip.split, clip.speaker, clip.text) for clip in found["tsv"]] == [
        ("train", "sa", 'He said, "a"'),
        ("validation", "sb", 'He said, "b"'),
        ("test", "sc", 'He said, "c"'),
    ]


def test_a_quotation_mark_or_an_odd_separator_in_a_text_swallows_no_row(tmp_path):
    texts = ['"Hello", she said', '"no end', "one\u2028two\u0085three", "plain"]
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", tone(), 16_000)
    write_manifest(tmp_path, [(f"{number}.wav", text) for number, text in enumerate(texts)])
    records = [json.dumps({"file": f"{i}.wav", "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
    (tmp_path / "manifest.jsonl").write_text("\r\n".join(records), encoding="utf-8", newline="")
    for name in ("manifest.tsv", "manifest.jsonl"):
        ledger = Ledger()
        clips = read_corpus("m", corpus(tmp_path, manifest=name), SPLIT, 1, tmp_path, ledger)
        assert [clip.text for clip in clips] == texts and not ledger.drops


def test_a_manifest_that_cannot_be_read_is_one_clear_error(tmp_path):
    (tmp_path / "open.csv").write_text('file,text\na.wav,"no end\nb.wav,two\n')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:30])
    for name, said in (("open.csv", "wanted fields that are plain"), ("cut.jsonl.gz", "wanted a whole gzip file")):
        with pytest.raises(ValueError, match=said):
            read_corpus("m", corpus(tmp_path, manifest=name), SPLIT, 1, tmp_path, Ledger())


def test_a_cut_at_the_beginning_of_a_recording_ends_where_it_says(tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(5.0), 16_000)
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "long.wav"}]}
    cuts = [
        {"id": f"c{start}", "start": start, "duration": 1.5, "type": "MonoCut", "recording": recording}
        | {"supervisions": [{"text": f"from {start}", "speaker": "s"}]}
        for start in (0, 2)
    ]
    nameless = {name: value for name, value in cuts[0].items() if name != "id"}
    (tmp_path / "cuts.jsonl").write_text("\n".join(json.dumps(cut) for cut in [*cuts, nameless]))
    rows, ledger = collected(corpus(tmp_path, CorpusKind.lhotse, "cuts.jsonl"), tmp_path)
    assert {name: row.duration_s for name, row in rows.items()} == {"c0": 1.5, "c2": 1.5}
    assert dict(ledger.drops) == {"malformed_row": 1}


def test_librispeech_layout_brings_its_splits_speakers_and_texts(tmp_path):
    for subset, speaker, chapter in (("train-clean-100", 19, 198), ("dev-clean", 84, 121), ("test-clean", 61, 70)):
        folder = tmp_path / subset / str(speaker) / str(chapter)
        folder.mkdir(parents=True)
        key = f"{speaker}-{chapter}-0000"
        soundfile.write(folder / f"{key}.flac", tone(), 16_000)
        soundfile.write(folder / f"{speaker}-{chapter}-0001.flac", tone(), 16_000)
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(f"{key} HE HOPED THERE WOULD BE STEW\n")
    rows, ledger = collected(corpus(tmp_path, CorpusKind.librispeech), tmp_path)
    assert {name: (row.split, row.speaker) for name, row in rows.items()} == {
        "19-198-0000": ("train", "mine-19"),
        "84-121-0000": ("validation", "mine-84"),
        "61-70-0000": ("test", "mine-61"),
    }
    assert rows["19-198-0000"].text == "HE HOPED THERE WOULD BE STEW"
    assert dict(ledger.drops) == {"missing_text": 3}


def test_a_lhotse_cut_set_is_read_as_lhotse_wrote_it(tmp_path):
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    wave = np.concatenate([tone(1.0), tone(2.0, frequency_hz=880)])
    soundfile.write(tmp_path / "talk.flac", wave, 16_000)
    recording = Recording.from_file(tmp_path / "talk.flac", recording_id="talk")
    said = SupervisionSegment("s", "talk", 0.0, 2.0, text="the second part", language="English", speaker="ada")
    whole = SupervisionSegment("w", "talk", 0.0, 3.0, text="the whole talk")
    cuts = CutSet.from_cuts(
        [
            MonoCut("part", 1.0, 2.0, 0, supervisions=[said], recording=recording),
            MonoCut("whole", 0.0, 3.0, 0, supervisions=[whole], recording=recording),
        ]
    )
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    config = corpus(tmp_path, CorpusKind.lhotse, "cuts.jsonl.gz")
    rows, _ = collected(config, tmp_path)
    part = rows["part"]
    assert (part.duration_s, part.text, part.language, part.speaker) == (2.0, "the second part", "en", "ada")
    assert rows["whole"].duration_s == 3.0 and rows["whole"].speaker == "someone"
    got, _ = read_wave(tmp_path / "out" / part.audio)
    np.testing.assert_allclose(got, wave[16_000:], atol=1e-3)

    with gzip.open(tmp_path / "cuts.jsonl.gz", "rt") as stream:
        moved = stream.read().replace(str(tmp_path / "talk.flac"), "/etc/hostname")
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as stream:
        stream.write(moved)
    with pytest.raises(ValueError, match="wanted a path inside"):
        read_corpus("mine", config, SPLIT, 17, tmp_path, Ledger())


def test_unlabelled_speech_needs_no_text_and_keeps_none(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tone(), 16_000)
    write_manifest(tmp_path, [("a.wav", "a secret"), ("b.wav", "")])
    rows, _ = collected(replace(corpus(tmp_path), text_source="none"), tmp_path)
    assert [(row.text, row.text_source, row.split) for row in rows.values()] == [(None, "none", "train")] * 2


def test_the_prompts_are_split_by_content_the_same_way_every_time():
    config = corpus(PROMPTS, manifest="transcripts.tsv")
    ledger = Ledger()
    clips = read_corpus("prompts_en", config, SPLIT, 17, PROMPTS, ledger)
    assert clips == read_corpus("prompts_en", config, SPLIT, 17, PROMPTS, Ledger())
    assert len(clips) == 438 and not ledger.drops
    grams = {
        split: {" ".join(gram) for clip in clips if clip.split == split for gram in ngrams(clip.text or "", "en", 5)}
        for split in ("train", "validation", "test")
    }
    shared = (grams["train"] & grams["test"]) | (grams["train"] & grams["validation"])
    shared |= grams["test"] & grams["validation"]
    assert shared <= ledger.stock["en"]
    assert "followed by the pound key" in ledger.stock["en"] and len(ledger.stock["en"]) < 10


def test_many_speakers_are_split_by_speaker_without_shared_ngrams(tmp_path):
    for number in range(24):
        soundfile.write(tmp_path / f"{number}.wav", tone(0.3), 8_000)
    rows = [
        (f"{number}.wav", f"s{number % 12}", "a common line of words" if number < 4 else f"only number {number}")
        for number in range(24)
    ]
    write_manifest(tmp_path, rows, ("file", "speaker", "text"))
    ledger = Ledger()
    clips = read_corpus("mine", corpus(tmp_path), SPLIT, 5, tmp_path, ledger)
    by_split = {split: {clip.speaker for clip in clips if clip.split == split} for split in ("train", "test")}
    assert by_split["test"] and not by_split["train"] & by_split["test"]
    held = {clip.text for clip in clips if clip.split != "train"}
    assert not held & {clip.text for clip in clips if clip.split == "train"}


def test_silence_around_a_spoken_line_is_cut_and_pauses_inside_stay():
    quiet = np.zeros(8_000, np.float32)
    line = np.concatenate([quiet, tone(1.0), quiet, tone(1.0), quiet, 0.001 * tone(0.5)])
    cut = trim(line, 16_000, 0.1)
    np.testing.assert_array_equal(cut, line[8_000 - 1_600 : 48_000 + 1_600])
    assert len(trim(quiet, 16_000, 0.1)) == len(quiet)
    assert len(trim(tone(0.005), 16_000, 0.1)) == 80
