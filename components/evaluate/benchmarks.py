"""Public test sets of recordings: LibriSpeech and AISHELL-1, heard from tokens alone and by the Whisper beside them,
and VCTK, whose sentences the text-to-token model says (recitation.py).

lhotse's own recipes read them, so that an utterance, its text and its speaker are what the field's papers count. The
folders lie outside DVC's graph: it tracks their section of params, not what is in them. Nothing is written there.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.evaluate.config import BenchmarkConfig, EvaluateConfig, Recipe
from components.evaluate.evaluation import Evaluation, error_score, kept
from components.evaluate.selection import choose
from components.evaluate.speech import SEEN, UNSEEN
from components.shared.audio import WHISPER_RATE_HZ, read_wave
from components.shared.contracts import ItemScore
from components.shared.places import main_checkout
from components.shared.recognizer import Recognizer
from components.shared.tracking import Tracker

if TYPE_CHECKING:
    from components.speech_tokenizer.model import SpeechTokenizer

CHUNK_S = 1200.0
"""Seconds of sound in memory at once: 77 MB, and batches full enough for either model."""
HEARD, SAID = (Recipe.librispeech, Recipe.aishell), (Recipe.vctk,)
"""What the speech tokenizer is measured on, and what the text-to-token model is."""
AISHELL = "data_aishell"
"""Folder that AISHELL-1's archive unpacks into."""
VCTK = "wav48_silence_trimmed"
"""Folder of VCTK 0.92's recordings."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recording of a public test set."""

    id: str
    """<group>-<the corpus's own id>."""
    group: str
    """<benchmark>_<part>, such as librispeech_test_clean."""
    path: Path
    duration_s: float
    text: str
    """As the corpus writes it: LibriSpeech in capitals, AISHELL-1 without punctuation, numbers as words in both."""
    language: str
    """ISO 639-1."""
    speaker: str
    """As `collect` would call it: <benchmark>-<speaker>."""


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """What is heard of the public test sets, and how much was left out."""

    rows: list[Recording]
    dropped: Counter[str]
    """dropped_<reason>_<group> -> number of recordings."""


Sieve = Callable[[list[Recording], Counter[str]], list[Recording]]
"""Which recordings of a part to choose from; the others are counted."""


def read(
    config: EvaluateConfig, root: Path, tracker: Tracker, recipes: tuple[Recipe, ...], sieve: Sieve | None = None
) -> Benchmarks:
    """The chosen utterances of all parts of config.benchmarks that the recipes read; only transcripts and headers are
    opened.

    root: of the project, which relative paths begin at. Dropped and counted: missing_text, a recording without a
    transcript or without samples; missing_file, a transcript of LibriSpeech or VCTK without its recording. Raises
    ValueError when a folder or part is not there, holds nothing, or is not what its recipe reads, a broken header
    included: a copy that is damaged before it begins wants to be made again.
    """
    chosen: list[Recording] = []
    dropped: Counter[str] = Counter()
    for name, benchmark in config.benchmarks.items():
        if benchmark.recipe not in recipes:
            continue
        folder = _locate(name, benchmark, root)
        for part in dict.fromkeys(benchmark.parts):
            rows = _READERS[benchmark.recipe](name, part, folder, dropped)
            rows = sieve(rows, dropped) if sieve else rows
            if not rows:
                counts = {key: number for key, number in dropped.items() if key.endswith(_group(name, part)) and number}
                raise ValueError(f"evaluate.benchmarks.{name}: {part}: got {counts}, wanted a new sentence")
            taken = choose(rows, config.num_utterances or len(rows), seed=config.seed, key=lambda row: row.id)
            tracker.say(f"public test sets: {len(taken)} of {len(rows)} utterances of {name} {part}")
            chosen += taken
    return Benchmarks(rows=chosen, dropped=dropped)


def evaluate(
    benchmarks: Benchmarks, tokenizer: SpeechTokenizer, whisper: Recognizer, seen: set[str], tracker: Tracker
) -> Evaluation:
    """WER (CER in Mandarin) of transcripts made from tokens; the baseline is the un-quantised Whisper.

    seen: speakers of training. The official test parts share no speaker with the training parts, and count as unseen
    unless `collect` read a corpus with the same speaker's name, <benchmark>-<speaker> as its kind librispeech writes it
    or the speaker's alone as lhotse does: then <group>_seen and <group>_unseen stand beside <group>. Texts that
    training also had stay in, since these sets are quoted whole. A recording that cannot be decoded is dropped and
    counted (not_audio), also one whose text has no words (empty_text). Raises ValueError when a part has none left.
    """
    mixed = {row.group for row in benchmarks.rows if _is_seen(row, seen)}
    dropped = Counter(benchmarks.dropped)
    scores: list[ItemScore | None] = []
    parts = chunks(benchmarks.rows, CHUNK_S)
    for rows in tracker.progress(parts, len(parts), "transcription: public test sets"):
        heard = _hear(rows, tokenizer, whisper, dropped)
        for row, answer, beside in heard:
            side = SEEN if _is_seen(row, seen) else UNSEEN
            groups = [row.group, *([f"{row.group}_{side}"] if row.group in mixed else [])]
            score = error_score(
                row, task="transcription", groups=groups, reference=row.text, answer=answer, beside=beside
            )
            dropped[f"dropped_empty_text_{row.group}"] += score is None
            scores.append(score)
    need_every_part(benchmarks.rows, kept(scores), dropped)
    return Evaluation(scores=kept(scores), metrics={name: float(number) for name, number in dropped.items() if number})


def need_every_part(rows: Sequence[Recording], scores: Sequence[ItemScore], dropped: Counter[str]) -> None:
    """Raise ValueError, with what was dropped, for a part of which nothing was scored."""
    left = {score.groups[0] for score in scores}
    for group in dict.fromkeys(row.group for row in rows):
        if group not in left:
            counts = {name: number for name, number in dropped.items() if name.endswith(group) and number}
            raise ValueError(f"evaluate.benchmarks: {group}: got {counts}, wanted one recording with sound and words")


def chunks(rows: Sequence[Recording], most_s: float) -> list[list[Recording]]:
    """Rows of one language in their order, at most most_s seconds together; a longer one goes alone."""
    found: list[list[Recording]] = []
    room_s, language = 0.0, ""
    for row in rows:
        if not found or row.duration_s > room_s or row.language != language:
            found.append([])
            room_s, language = most_s, row.language
        found[-1].append(row)
        room_s -= row.duration_s
    return found


def _hear(
    rows: Sequence[Recording], tokenizer: SpeechTokenizer, whisper: Recognizer, dropped: Counter[str]
) -> Iterator[tuple[Recording, str, str]]:
    """(utterance, its words from tokens, its words by Whisper) of rows of one language, without what is no audio."""
    sound, waves = read_waves(rows, dropped)
    if not sound:
        return
    language = sound[0].language
    said = tokenizer.transcribe(tokenizer.encode([torch.from_numpy(wave) for wave in waves]), [language] * len(sound))
    yield from zip(sound, said, whisper.transcribe(waves, WHISPER_RATE_HZ, language), strict=True)


def read_waves(rows: Sequence[Recording], dropped: Counter[str]) -> tuple[list[Recording], list[np.ndarray]]:
    """Recordings and their waves (samples,) float32, 16 kHz; what cannot be decoded is counted as not_audio."""
    sound, waves = [], []
    for row in rows:
        try:
            waves.append(read_wave(row.path, WHISPER_RATE_HZ)[0])
            sound.append(row)
        except ValueError:
            dropped[f"dropped_not_audio_{row.group}"] += 1
    return sound, waves


def _is_seen(row: Recording, seen: set[str]) -> bool:
    return row.speaker in seen or row.speaker.rpartition("-")[2] in seen


def _locate(name: str, benchmark: BenchmarkConfig, root: Path) -> Path:
    """The folder that holds a benchmark's parts, checked to have all of them."""
    where = f"evaluate.benchmarks.{name}"
    given = Path(benchmark.path).expanduser()
    folder = root / given if (root / given).exists() else main_checkout(root) / given
    if not benchmark.path or not folder.is_dir():
        raise ValueError(f"{where}.path: got {benchmark.path!r}, wanted a folder that exists; {folder} is not one")
    if not benchmark.parts:
        raise ValueError(f"{where}.parts: got [], wanted at least one, such as test-clean or test")
    parts, there = _parts(benchmark.recipe, folder)
    for part in benchmark.parts:
        if part not in there:
            raise ValueError(
                f"{where}.path: got {benchmark.path!r}, wanted the folder with {parts.relative_to(folder) / part} in "
                f"it; {parts} holds {', '.join(there[:9]) or 'no folder'}"
            )
    return folder.resolve()


def _parts(recipe: Recipe, folder: Path) -> tuple[Path, list[str]]:
    """Where a corpus has its parts and what they are called; VCTK has its two microphones."""
    if recipe is Recipe.vctk:
        return folder / VCTK, ["mic1", "mic2"] if (folder / VCTK).is_dir() else []
    parts = folder / AISHELL / "wav" if recipe is Recipe.aishell else folder
    return parts, sorted(path.name for path in parts.iterdir() if path.is_dir()) if parts.is_dir() else []


def _librispeech(name: str, part: str, folder: Path, dropped: Counter[str]) -> list[Recording]:
    from lhotse.recipes.librispeech import prepare_librispeech

    with _recipe(name, folder / part):
        manifests = prepare_librispeech(folder, dataset_parts=[part])
        rows = _rows(name, part, manifests[part], "en")
    files = {path.stem for path in (folder / part).rglob("*.flac")}
    lines = [line for path in (folder / part).rglob("*.trans.txt") for line in path.read_text("utf-8").splitlines()]
    dropped[f"dropped_missing_text_{_group(name, part)}"] += len(files) - len(rows)
    dropped[f"dropped_missing_file_{_group(name, part)}"] += len({line.split()[0] for line in lines} - files)
    return rows


def _aishell(name: str, part: str, folder: Path, dropped: Counter[str]) -> list[Recording]:
    """One part. The recipe reads the headers of all 141,600 recordings whichever part is wanted, and fails where one of
    its three parts is not there: it is shown links, and the wanted part under each of the three names.
    """
    from lhotse.recipes.aishell import prepare_aishell

    with TemporaryDirectory(prefix="speechloom-") as temporary:
        shown = Path(temporary) / AISHELL
        (shown / "wav").mkdir(parents=True)
        (shown / "transcript").symlink_to(folder / AISHELL / "transcript")
        for link in ("train", "dev", "test"):
            (shown / "wav" / link).symlink_to(folder / AISHELL / "wav" / part)
        with _recipe(name, folder / AISHELL):
            manifests = prepare_aishell(temporary)
            rows = _rows(name, part, manifests["test"], "zh")
    files = {path.stem for path in (folder / AISHELL / "wav" / part).rglob("*.wav")}
    dropped[f"dropped_missing_text_{_group(name, part)}"] += len(files) - len(rows)
    return rows


def _vctk(name: str, part: str, folder: Path, dropped: Counter[str]) -> list[Recording]:
    """One microphone of VCTK 0.92. The recipe fails at a text without its recording, of which the corpus has some that
    it does not know of: it is shown links to what has both.
    """
    from lhotse.recipes.vctk import prepare_vctk

    sounds = {path.stem.removesuffix(f"_{part}"): path for path in (folder / VCTK).rglob(f"*_{part}.flac")}
    texts = {path.stem: path for path in (folder / "txt").rglob("*.txt")}
    both = sorted(sounds.keys() & texts.keys())
    with TemporaryDirectory(prefix="speechloom-") as temporary:
        shown = Path(temporary)
        (shown / "speaker-info.txt").symlink_to(folder / "speaker-info.txt")
        for key in both:
            for link in (shown / "txt" / texts[key].name, shown / VCTK / sounds[key].name):
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(texts[key] if link.suffix == ".txt" else sounds[key])
        with _recipe(name, folder / VCTK):
            manifests = prepare_vctk(shown, use_edinburgh_vctk_url=True, mic_id=part)
            rows = _rows(name, part, manifests, "en")
    dropped[f"dropped_missing_text_{_group(name, part)}"] += len(sounds) - len(both)
    dropped[f"dropped_missing_file_{_group(name, part)}"] += len(texts) - len(both)
    if len(rows) < len(both):  # speaker p280, whose second microphone failed
        dropped[f"dropped_left_out_by_recipe_{_group(name, part)}"] += len(both) - len(rows)
    return rows


def _rows(name: str, part: str, manifests: dict[str, Any], language: str) -> list[Recording]:
    """Utterances of the recordings and supervisions of a part, which have the same ids in all recipes."""
    recordings = {recording.id: recording for recording in manifests["recordings"]}
    return [
        Recording(
            id=f"{_group(name, part)}-{said.id}",
            group=_group(name, part),
            path=Path(recordings[said.recording_id].sources[0].source).resolve(),
            duration_s=recordings[said.recording_id].duration,
            text=said.text,
            language=language,
            speaker=f"{name}-{said.speaker}",
        )
        for said in manifests["supervisions"]
    ]


def _group(name: str, part: str) -> str:
    return f"{name}_{part}".replace("-", "_")


@contextlib.contextmanager
def _recipe(name: str, folder: Path) -> Iterator[None]:
    """Run a recipe without its bars and warnings, which are counted here; its failures become one ValueError.

    Without a handler of the root logger its first warning would set one up for the rest of the process.
    """
    from lhotse.audio.utils import AudioLoadingError

    quiet = logging.NullHandler()
    logging.getLogger().addHandler(quiet)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (AssertionError, AudioLoadingError, IndexError, OSError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"evaluate.benchmarks.{name}.path: got {folder}, which its recipe cannot read: {line}; wanted the corpus "
            "as its archives unpack"
        ) from error
    finally:
        logging.getLogger().removeHandler(quiet)


_READERS: dict[Recipe, Callable[[str, str, Path, Counter[str]], list[Recording]]] = {
    Recipe.librispeech: _librispeech,
    Recipe.aishell: _aishell,
    Recipe.vctk: _vctk,
}
