"""Tokenize: order, restart, workers, and audio that cannot be read."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_tokenizer import small_config
from small_whisper import utterance

from components.shared.contracts import Quarantined, SpeechTokens, Utterance
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.manifest import read_manifest, read_table, seal, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.model import load
from components.speech_tokenizer.whisper_vq import WhisperVQ
from components.tokenize import stage, waves
from components.tokenize.config import Dtype, TokenizeConfig

SETTINGS = TokenizeConfig(
    seed=1,
    utterances_per_shard=3,
    dtype=Dtype.float32,
    threads_per_worker=1,
    readers_per_worker=2,
    executor=ExecutorConfig(kind=ExecutorKind.local, num_workers=1),
)


class Said(TerminalTracker):
    """Remembers the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def wave(seed: int, duration_s: float = 1.0, rate_hz: int = 16_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0, 0.1, int(duration_s * rate_hz)), -1, 1).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with seven utterances and a random tokenizer of 12 codes."""
    table = tmp_path / "data" / "collect" / "utterances"
    (table / "audio").mkdir(parents=True)
    rows = []
    for number, duration_s in enumerate((0.5, 2.0, 0.3, 1.1, 0.9, 3.0, 0.2)):
        soundfile.write(table / "audio" / f"u{number}.flac", wave(number, duration_s), 16_000)
        rows.append(utterance(f"u{number}", duration_s))
    write_table(table, rows, Utterance)
    network = WhisperVQ(small_config(quantize_vocab_size=12))
    checkpoint.randomise(network, seed=1)
    model = tmp_path / "data" / "speech_tokenizer" / "model"
    checkpoint.write(network, model, None)
    seal(model, extra={"num_codes": 12, "tokens_per_s": 12.5})
    return tmp_path / "data"


def run(data: Path, config: TokenizeConfig = SETTINGS, work: str = "work") -> tuple[Path, dict[str, float], Said]:
    tracker = Said()
    outputs = Outputs(root=data / "tokenize", work=data.parent / work)
    outputs.root.mkdir(exist_ok=True)
    metrics = stage.run(config, Inputs(data), outputs, tracker)
    outputs.publish(metrics)
    return data / "tokenize" / "tokens", metrics, tracker


def test_every_utterance_gets_its_tokens_in_the_order_of_the_table(data: Path) -> None:
    folder, metrics, _ = run(data)
    rows = list(read_table(folder, SpeechTokens))
    assert [row.id for row in rows] == [f"u{number}" for number in range(7)]
    assert read_manifest(folder).extra == {"num_codes": 12, "tokens_per_s": 12.5}
    assert read_manifest(folder).grade == "exact"
    tokenizer = load(data / "speech_tokenizer" / "model")
    for row in rows:
        assert len(row.tokens) == int(np.ceil(row.duration_s * 12.5)) and max(row.tokens) < 12
    assert rows[1].tokens == tokenizer.encode([torch.from_numpy(_read(data, "u1"))])[0].tolist()
    assert metrics["tokens"] == sum(len(row.tokens) for row in rows) and metrics["hours"] == pytest.approx(8 / 3600)


def _read(data: Path, name: str) -> np.ndarray:
    return soundfile.read(data / "collect" / "utterances" / "audio" / f"{name}.flac", dtype="float32")[0]


def test_two_workers_write_the_same_bytes_as_one(data: Path) -> None:
    one = read_manifest(run(data)[0]).content_hash
    config = replace(SETTINGS, executor=ExecutorConfig(kind=ExecutorKind.local, num_workers=2))
    assert read_manifest(run(data, config, work="other")[0]).content_hash == one


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_ray_actors_write_the_same_bytes_as_local_workers(data: Path, threads: int) -> None:
    """Ray sets OMP_NUM_THREADS=1 in its actors; the shard's own number of threads holds."""
    (data / "collect" / "utterances" / "audio" / "u3.flac").write_text("this is no sound")
    config = replace(SETTINGS, threads_per_worker=threads)
    written = set()
    for kind, num_workers in (("local", 1), ("local", 2), ("ray", 2)):
        executor = ExecutorConfig(kind=ExecutorKind[kind], num_workers=num_workers)
        folder, metrics, _ = run(data, replace(config, executor=executor), work=f"{kind}{num_workers}")
        assert metrics["utterances"] == 6 and metrics["hours_of_this_run"] > 0
        written.add((read_manifest(folder).content_hash, read_manifest(folder.parent / "quarantine").content_hash))
    assert len(written) == 1


def test_the_files_of_the_table_do_not_decide_what_a_shard_holds(data: Path) -> None:
    one = read_manifest(run(data)[0]).content_hash
    table = data / "collect" / "utterances"
    write_table(table, list(read_table(table, Utterance)), Utterance, rows_per_shard=2)
    folder, metrics, _ = run(data)
    assert read_manifest(folder).content_hash == one and metrics["hours_of_this_run"] == 0


def test_readers_and_workers_are_no_part_of_a_shard(data: Path) -> None:
    run(data)
    executor = ExecutorConfig(kind=ExecutorKind.local, num_workers=2)
    _, metrics, _ = run(data, replace(SETTINGS, readers_per_worker=5, executor=executor))
    assert metrics["hours_of_this_run"] == 0
    with pytest.raises(ValueError, match=r"^tokenize\.readers_per_worker: got 0, wanted at least 1$"):
        run(data, replace(SETTINGS, readers_per_worker=0))


def test_groups_are_bounded_by_seconds_and_two_are_in_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group that is encoded and the one that is read; a recording beyond the bound is not read ahead."""
    table = data / "collect" / "utterances"
    rows = list(read_table(table, Utterance)) * 3
    monkeypatch.setattr(waves, "READ_AT_ONCE_S", 2.5)
    made: list[weakref.ref[torch.Tensor]] = []
    read = waves.read

    def watched(row: Utterance, folder: Path) -> torch.Tensor | Quarantined:
        wave = read(row, folder)
        made.append(weakref.ref(wave))
        return wave

    monkeypatch.setattr(waves, "read", watched)
    seen: list[str] = []
    for group in waves.read_groups(rows, table, readers=2):
        held = sum(len(wave) for ref in made if (wave := ref()) is not None) / 16_000
        seconds = sum(row.duration_s for row, _ in group)
        assert seconds <= 2.5 or len(group) == 1
        after = rows[(len(seen) + len(group)) % len(rows)].id
        assert held <= (seconds if "u5" in (group[0][0].id, after) else seconds + 2.5) + 1e-6
        assert all(len(wave) == round(row.duration_s * 16_000) for row, wave in group)
        seen += [row.id for row, _ in group]
    assert seen == [row.id for row in rows]


def test_a_disk_that_fails_is_no_reason_for_quarantine(data: Path) -> None:
    audio = data / "collect" / "utterances" / "audio"
    audio.rename(audio.with_name("elsewhere"))
    with pytest.raises(ConnectionError, match=r"audio: not there; is the disk of audio/u0\.flac mounted"):
        run(data)
    audio.with_name("elsewhere").rename(audio)
    (audio / "u1.flac").rename(audio / "kept.flac")
    (audio / "u1.flac").mkdir()  # reading it is an OSError that is not "missing"
    with pytest.raises(ConnectionError, match=r"u1\.flac: cannot be read now"):
        run(data)
    (audio / "u1.flac").rmdir()
    (audio / "kept.flac").rename(audio / "u1.flac")
    assert run(data)[1]["utterances"] == 7


def test_a_second_run_makes_no_shard_and_a_grown_corpus_only_the_new_ones(data: Path) -> None:
    first = read_manifest(run(data)[0]).content_hash
    folder, metrics, _ = run(data)
    assert metrics["hours_of_this_run"] == 0 and read_manifest(folder).content_hash == first
    table = data / "collect" / "utterances"
    rows = [*read_table(table, Utterance), utterance("u7", 0.4)]
    soundfile.write(table / "audio" / "u7.flac", wave(7, 0.4), 16_000)
    write_table(table, rows, Utterance)
    folder, metrics, _ = run(data)
    assert read_manifest(folder).num_rows == 8
    assert metrics["hours_of_this_run"] == pytest.approx((0.2 + 0.4) / 3600)


def test_changed_sound_under_an_old_name_is_encoded_again(data: Path) -> None:
    run(data)
    table = data / "collect" / "utterances"
    rows = list(read_table(table, Utterance))
    soundfile.write(table / "audio" / "u0.flac", wave(99, 0.5), 16_000)
    write_table(table, rows, Utterance)
    _, metrics, _ = run(data)
    assert metrics["hours_of_this_run"] == pytest.approx(2.8 / 3600)


def test_sound_of_any_rate_and_channels_is_read_and_broken_sound_is_left_out_with_its_reason(data: Path) -> None:
    table = data / "collect" / "utterances"
    audio = table / "audio"
    soundfile.write(audio / "stereo.flac", np.stack([wave(1), wave(2)], axis=1), 16_000)
    soundfile.write(audio / "8k.flac", wave(1, rate_hz=8_000), 8_000)
    soundfile.write(audio / "48k.flac", wave(1, rate_hz=48_000), 48_000)
    soundfile.write(audio / "silent.flac", np.zeros(16_000), 16_000)
    soundfile.write(audio / "long.flac", wave(1, 41.0), 16_000)
    soundfile.write(audio / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(audio / "empty.flac", np.zeros(0), 16_000)
    (audio / "truncated.flac").write_bytes((audio / "u1.flac").read_bytes()[:40])
    (audio / "text.flac").write_text("this is no sound")
    good = [utterance(name, 1.0) for name in ("stereo", "8k", "48k", "silent")] + [utterance("long", 41.0)]
    bad = [utterance(name, 1.0) for name in ("empty", "truncated", "text", "gone")] + [
        utterance("nan", 1.0, audio="audio/nan.wav")
    ]
    write_table(table, good + bad, Utterance)
    folder, metrics, tracker = run(data)
    rows = {row.id: row for row in read_table(folder, SpeechTokens)}
    assert list(rows) == ["stereo", "8k", "48k", "silent", "long"]
    assert {len(rows[name].tokens) for name in ("stereo", "8k", "48k", "silent")} == {13}
    assert len(rows["long"].tokens) == int(np.ceil(41 * 12.5))
    assert metrics["dropped_unreadable_audio"] == 5
    assert any("text left out: unreadable_audio" in line for line in tracker.lines)
    assert any("dropped 5 for unreadable_audio" in line for line in tracker.lines)
    left_out = {row.id: row for row in read_table(folder.parent / "quarantine", Quarantined)}
    assert list(left_out) == ["empty", "truncated", "text", "gone", "nan"]
    assert {row.reason for row in left_out.values()} == {"unreadable_audio"}
    assert left_out["nan"].audio == "audio/nan.wav"
    assert left_out["nan"].message == "audio/nan.wav: holds NaN or infinite samples"
    assert not any(str(data) in row.message for row in left_out.values())


def test_without_anything_left_out_the_quarantine_is_an_empty_table(data: Path) -> None:
    folder, metrics, _ = run(data)
    assert list(read_table(folder.parent / "quarantine", Quarantined)) == []
    assert read_manifest(folder.parent / "quarantine").num_rows == 0
    assert not any(name.startswith("dropped") for name in metrics)


def test_a_table_without_one_readable_sound_is_one_clear_error(data: Path) -> None:
    table = data / "collect" / "utterances"
    write_table(table, [], Utterance)
    with pytest.raises(ValueError, match="got no utterance, wanted at least one"):
        run(data)
    write_table(table, [utterance("gone", 1.0)], Utterance)
    with pytest.raises(ValueError, match="not one of 1 utterances could be read"):
        run(data)
