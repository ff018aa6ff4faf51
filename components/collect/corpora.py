"""Corpora of recordings: any folder of audio with transcripts, named in params, becomes a list of clips without code.

Three kinds are read: a manifest (TSV, CSV or JSONL), LibriSpeech's tree, a lhotse CutSet. A row that cannot be used is
dropped and counted by its reason; a corpus that is missing or leaves its folder is a ValueError.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.collect.config import CorpusConfig, CorpusKind, SplitConfig
from components.collect.ledger import Ledger
from components.collect.sources import Clip
from components.collect.splits import shared_with, split_by_content, units
from components.collect.texts import locate
from components.shared.contracts import SPLITS
from components.shared.manifest import hash_of, inside

LIBRISPEECH_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def read_corpus(
    name: str, config: CorpusConfig, split: SplitConfig, seed: int, root: Path, ledger: Ledger
) -> list[Clip]:
    """The clips of a corpus that can be used, every one with a split.

    ledger: counts rows left out: missing_file, missing_text, empty_text, non_utf8_text, malformed_row, duplicate_id,
    shares_ngram_with_test.
    Raises ValueError when the folder or manifest is missing, a row names a file outside the folder, or nothing is left.
    """
    where = f"collect.corpora.{name}"
    folder = locate(config.path, root, where).resolve()
    clips: list[Clip] = []
    seen: set[str] = set()
    for clip in _READERS[config.kind](name, config, folder, ledger):
        reason = _why_not(clip, config, seen)
        if reason:
            ledger.drop(reason)
            continue
        seen.add(clip.id)
        clips.append(replace(clip, text=None) if config.text_source == "none" else clip)
    if not clips:
        raise ValueError(
            f"{where}: path: got {folder}, which holds no usable {config.kind.value} row; {dict(ledger.drops)}"
        )
    clips = _with_splits(name, clips, config, split, seed, ledger)
    if config.max_utterances:
        clips = sorted(sorted(clips, key=lambda clip: hash_of([seed, clip.id]))[: config.max_utterances], key=_id)
    return clips


def _why_not(clip: Clip, config: CorpusConfig, seen: set[str]) -> str:
    """Why a clip cannot be used, as the reason it is counted under; an empty string when it can."""
    if clip.id in seen:
        return "duplicate_id"
    if not Path(clip.path).is_file():
        return "missing_file"
    if config.text_source == "none":
        return ""
    if clip.text is None:
        return "missing_text"
    if not _is_utf8(clip.text):
        return "non_utf8_text"
    return "" if units(clip.text, clip.language) else "empty_text"


def _is_utf8(text: str) -> bool:
    """False when the text was read from bytes that are not UTF-8 (they stand as lone surrogates)."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _id(clip: Clip) -> str:
    return clip.id


def _with_splits(
    name: str, clips: list[Clip], config: CorpusConfig, split: SplitConfig, seed: int, ledger: Ledger
) -> list[Clip]:
    """The corpus's own splits, or by speaker where it has enough of them, or by content; unlabelled speech trains."""
    for clip in clips:
        if clip.split not in ("", *SPLITS):
            wanted = ", ".join(SPLITS)
            raise ValueError(f"collect.corpora.{name}: {clip.id}: split: got {clip.split!r}, wanted {wanted}")
    if config.text_source == "none":
        return [replace(clip, split=clip.split or "train") for clip in clips]
    if any(clip.split for clip in clips):
        return [replace(clip, split=clip.split or "train") for clip in clips]
    texts = [clip.text or "" for clip in clips]
    speakers = sorted({clip.speaker for clip in clips})
    if len(speakers) < split.min_speakers:
        dealt = split_by_content(texts, config.language, split, seed, ledger)
        return [replace(clip, split=where) for clip, where in zip(clips, dealt, strict=True)]
    by_speaker = dict(zip(speakers, split_by_content(speakers, config.language, split, seed, ledger), strict=True))
    clips = [replace(clip, split=by_speaker[clip.speaker]) for clip in clips]
    held = [clip.text or "" for clip in clips if clip.split != "train"]
    shared = shared_with(texts, held, config.language, split.ngram)
    kept = [clip for clip, bad in zip(clips, shared, strict=True) if clip.split != "train" or not bad]
    ledger.drop("shares_ngram_with_test", len(clips) - len(kept))
    return kept


def _read_manifest(name: str, config: CorpusConfig, folder: Path, ledger: Ledger) -> Iterator[Clip]:
    """Rows of a TSV, CSV or JSONL file: file, text, and where known id, speaker, language, split, duration_s."""
    path = _manifest_path(name, config, folder)
    for number, row in _rows(path, ledger):
        file_name = row.get("file") or row.get("path") or row.get("audio_filepath") or row.get("audio")
        if not file_name:
            ledger.drop("malformed_row")
            continue
        file = _below(folder, str(file_name), f"{path}:{number}")
        text = row.get("text")
        yield Clip(
            id=_key(name, str(row.get("id") or Path(str(file_name)).with_suffix("").as_posix())),
            path=str(file),
            start_s=0.0,
            length_s=_seconds(row.get("duration_s") or row.get("duration")),
            is_part=False,
            text=None if text is None else str(text),
            language=str(row.get("language") or config.language),
            speaker=str(row.get("speaker") or config.speaker),
            split=_split_name(str(row.get("split") or "")),
            **_about(name, config),
        )


def _about(name: str, config: CorpusConfig) -> dict[str, str]:
    """What is the same for all clips of a corpus."""
    return {
        "text_source": config.text_source,
        "corpus": name,
        "license": config.license,
        "origin": config.origin,
    }


def _manifest_path(name: str, config: CorpusConfig, folder: Path) -> Path:
    path = inside(folder, config.manifest)
    if not path.is_file():
        raise ValueError(f"collect.corpora.{name}: manifest: got {config.manifest!r}, not a file in {folder}")
    return path


def _rows(path: Path, ledger: Ledger) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the row, record) of a manifest; bytes that are not UTF-8 become lone surrogates, to be counted later.

    Raises ValueError when the file cannot be read as what its name says.
    """
    lines = _lines(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                record = None
            if isinstance(record, dict):
                yield number, record
            elif line.strip():
                ledger.drop("malformed_row")
        return
    rows = csv.reader((f"{line}\n" for line in lines), strict=True) if path.suffix == ".csv" else map(_tabbed, lines)
    columns: list[str] = []
    try:
        for number, fields in enumerate(rows, start=1):
            if columns and any(fields):
                yield number, dict(zip(columns, fields, strict=False))
            elif not columns and not {"file", "path", "audio", "audio_filepath"} & set(columns := fields):
                raise ValueError(f"{path}: got columns {columns}, wanted at least file and text in the first line")
    except csv.Error as error:
        raise ValueError(f"{path}: {error}; wanted fields that are plain or in quotation marks") from error


def _tabbed(line: str) -> list[str]:
    """Fields of a line of a TSV: in quotation marks when all of the field is, otherwise marks belong to the text."""
    try:
        return next(csv.reader([line], delimiter="\t", strict=True), [])
    except csv.Error:
        return line.split("\t")


def _lines(path: Path) -> list[str]:
    """Lines of a text file, gzipped or not; only a line feed ends one, other separators belong to the text."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be unpacked: {error}; wanted a whole gzip file") from error
    text = raw.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _below(folder: Path, name: str, where: str) -> Path:
    """A file of the corpus. Raises ValueError when it lies outside the corpus's folder."""
    try:
        if Path(name).is_absolute():
            name = Path(name).resolve().relative_to(folder).as_posix()
        return inside(folder, name)
    except ValueError as error:
        raise ValueError(f"{where}: file: got {name!r}, wanted a path inside {folder}") from error


def _seconds(value: Any) -> float | None:
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return None


def _split_name(given: str) -> str:
    return {"dev": "validation", "valid": "validation", "val": "validation"}.get(given, given)


def _key(name: str, id: str) -> str:
    return f"{name}-{id}"


def _read_librispeech(name: str, config: CorpusConfig, folder: Path, ledger: Ledger) -> Iterator[Clip]:
    """LibriSpeech: <subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac, texts in *.trans.txt."""
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*.trans.txt")):
        for line in _lines(path):
            id, _, text = line.partition(" ")
            texts[id] = text
    for path in sorted((*folder.rglob("*.flac"), *folder.rglob("*.wav"))):
        parts = path.relative_to(folder).parts
        subset = next((part for part in (*parts, folder.name) if part.split("-")[0] in LIBRISPEECH_SPLITS), "")
        yield Clip(
            id=_key(name, path.stem),
            path=str(path),
            start_s=0.0,
            length_s=None,
            is_part=False,
            text=texts.get(path.stem),
            language=config.language,
            speaker=f"{name}-{path.stem.split('-')[0]}",
            split=LIBRISPEECH_SPLITS.get(subset.split("-")[0], ""),
            **_about(name, config),
        )


def _read_lhotse(name: str, config: CorpusConfig, folder: Path, ledger: Ledger) -> Iterator[Clip]:
    """MonoCuts of a CutSet manifest with one supervision each; their recordings are files in the folder."""
    path = _manifest_path(name, config, folder)
    for number, cut in _rows(path, ledger):
        sources = (cut.get("recording") or {}).get("sources") or []
        if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut") or len(sources) != 1 or not cut.get("id"):
            ledger.drop("malformed_row")
            continue
        if sources[0].get("type") != "file":
            ledger.drop("source_is_no_file")
            continue
        file = _below(folder, str(sources[0]["source"]), f"{path}:{number}")
        said = cut.get("supervisions") or []
        texts = [str(one["text"]) for one in said if one.get("text") is not None]
        first = said[0] if said else {}
        yield Clip(
            id=_key(name, str(cut["id"])),
            path=str(file),
            start_s=float(cut.get("start", 0.0)),
            length_s=_seconds(cut.get("duration")),
            is_part=cut.get("duration") is not None,
            text=" ".join(texts) if texts else None,
            language=_language(first.get("language")) or config.language,
            speaker=str(first.get("speaker") or config.speaker),
            split=_split_name(str((cut.get("custom") or {}).get("split") or "")),
            **_about(name, config),
        )


def _language(name: Any) -> str:
    """ISO 639-1 of what lhotse's recipes write: "English", "en", "zh-CN"."""
    known = {"english": "en", "chinese": "zh", "mandarin": "zh"}
    text = str(name or "").lower()
    return known.get(text, text[:2])


_READERS: dict[CorpusKind, Callable[[str, CorpusConfig, Path, Ledger], Iterator[Clip]]] = {
    CorpusKind.manifest: _read_manifest,
    CorpusKind.librispeech: _read_librispeech,
    CorpusKind.lhotse: _read_lhotse,
}
