"""Open-domain text: text corpora read, cut into passages, split by content, and searched for speakable sentences."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from components.collect.config import PhraseConfig, SplitConfig, TextCorpusConfig, TextKind
from components.collect.ledger import Ledger
from components.collect.splits import split_by_content, units
from components.shared.contracts import Text
from components.shared.places import main_checkout

PASSAGE_UNITS = {"en": 70, "zh": 100}
"""Words (characters in Chinese) after which a new passage begins: a few interleaving spans of 10 words."""
_SENTENCE = re.compile(r"[^.!?。！？]+[.!?。！？]+")
_SPEAKABLE = {"en": re.compile(r"[A-Za-z][A-Za-z' ,]*[.!?]"), "zh": re.compile(r"[㐀-鿿][㐀-鿿，、]*[。！？]")}


def read_texts(
    configs: dict[str, TextCorpusConfig], split: SplitConfig, seed: int, root: Path, ledger: Ledger
) -> list[Text]:
    """Passages of all text corpora; the splits of a language are made over its corpora together.

    Equal passages are dropped and counted as duplicate_text, documents without a word as empty_text. Raises ValueError
    when a corpus is missing or is not what its kind says.
    """
    seen: set[str] = set()
    texts = []
    for name, config in configs.items():
        passages = _read_corpus(name, config, seed, root, seen, ledger)
        texts += [
            Text(
                id=f"{name}-{number:07d}",
                text=passage,
                language=config.language,
                corpus=name,
                license=config.license,
                split="train",
            )
            for number, passage in enumerate(passages)
        ]
    for language in sorted({text.language for text in texts}):
        ours = [i for i, text in enumerate(texts) if text.language == language]
        for i, where in zip(
            ours, split_by_content([texts[i].text for i in ours], language, split, seed, ledger), strict=True
        ):
            texts[i] = replace(texts[i], split=where)
    return texts


def _read_corpus(
    name: str, config: TextCorpusConfig, seed: int, root: Path, seen: set[str], ledger: Ledger
) -> list[str]:
    """Passages of whole documents in an order drawn from seed, until config.max_units are there."""
    path = locate(config.path, root, f"collect.text_corpora.{name}")
    documents = list(_READERS[config.kind](path, config))
    passages: list[str] = []
    taken = 0
    for i in np.random.default_rng([seed, *name.encode()]).permutation(len(documents)):
        found = _passages([tidy(line, config.language) for line in documents[i]], config)
        fresh = [passage for passage in dict.fromkeys(found) if passage not in seen]
        ledger.drop("empty_text", int(not found))
        ledger.drop("duplicate_text", len(found) - len(fresh))
        seen.update(fresh)
        passages += fresh
        taken += sum(len(units(passage, config.language)) for passage in fresh)
        if config.max_units and taken >= config.max_units:
            break
    return passages


def locate(given: str, root: Path, what: str) -> Path:
    """The path of a corpus: below root or the checkout it belongs to, absolute, or in a piece ("piece:<name>/<path>").

    Raises ValueError when it is not there.
    """
    if given.startswith("piece:"):
        from components.shared.assets import fetch

        name, _, inner = given.removeprefix("piece:").partition("/")
        path = fetch(name) / inner
    else:
        path = root / Path(given).expanduser()
        path = path if path.exists() else main_checkout(root) / Path(given).expanduser()
    if not path.exists():
        raise ValueError(f"{what}: path: got {given!r}, wanted a folder or file that exists; {path} is not there")
    return path


def tidy(line: str, language: str) -> str:
    """A line as a sentence: white space collapsed, ended by a mark, English begun with a capital."""
    line = " ".join(line.replace("’", "'").split())
    if language == "zh":
        line = re.sub(r"\s+", "", line).translate(str.maketrans(",?!:;", "，？！：；"))
        line = re.sub(r"(?<=[㐀-鿿])\.", "。", line)
        return line if not line or line[-1] in "。！？" else line.rstrip("，、；：") + "。"
    line = re.sub(r"\bi(?=\b|')", "I", line)
    line = line[:1].upper() + line[1:]
    return line if not line or line[-1] in ".!?" else line.rstrip(",;:") + "."


def sentences(text: str) -> list[str]:
    """The sentences of a text, marks included."""
    return [found.strip() for found in _SENTENCE.findall(text)]


def speakable(texts: list[Text], config: PhraseConfig) -> dict[str, list[tuple[Text, str]]]:
    """Split -> (passage, sentence) pairs that can be read aloud: letters only, of the right length, no rare word.

    A sentence stands once, under the split of the first passage that has it.
    """
    uses = Counter(unit for text in texts for unit in units(text.text, text.language))
    found: dict[str, list[tuple[Text, str]]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for text in texts:
        for sentence in sentences(text.text):
            words = units(sentence, text.language)
            key = " ".join(words)
            short = config.min_sentence_words <= len(words) <= config.max_sentence_words
            if not short or key in seen or not _SPEAKABLE[text.language].fullmatch(sentence):
                continue
            if min(uses[word] for word in words) < config.min_word_uses:
                continue
            seen.add(key)
            found[text.split].append((text, sentence))
    return found


def _passages(lines: list[str], config: TextCorpusConfig) -> list[str]:
    """Consecutive lines joined up to the length of a passage; a line is never cut."""
    separator = "" if config.language == "zh" else " "
    most = PASSAGE_UNITS.get(config.language, PASSAGE_UNITS["en"])
    passages: list[list[str]] = []
    room = 0
    for line in lines:
        size = len(units(line, config.language))
        if size == 0:
            continue
        if size > room:
            passages.append([])
            room = most
        passages[-1].append(line)
        room -= size
    return [separator.join(passage) for passage in passages]


def _chitchat(path: Path, config: TextCorpusConfig) -> Iterator[list[str]]:
    file = path / "dataset.json" if path.is_dir() else path
    for dialogue in json.loads(file.read_text(encoding="utf-8")).values():
        yield [message["text"] for turn in dialogue["messages"] for message in turn]


def _chatterbot(path: Path, config: TextCorpusConfig) -> Iterator[list[str]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted(path.glob("*.yml")):
        if file.stem not in config.skip:
            for conversation in yaml.load(file.read_text(encoding="utf-8"), Loader=loader)["conversations"]:
                yield [str(line) for line in conversation]


def _hsk(path: Path, config: TextCorpusConfig) -> Iterator[list[str]]:
    file = path / "sentences.json" if path.is_dir() else path
    rows = json.loads(file.read_text(encoding="utf-8"))
    for start in range(0, len(rows), 5):
        yield [row["chinese"] for row in rows[start : start + 5]]


_READERS = {
    TextKind.chitchat: _chitchat,
    TextKind.chatterbot: _chatterbot,
    TextKind.hsk: _hsk,
}
