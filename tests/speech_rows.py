"""Small tables as the rooms hand them on, for the tests of mix, pretrain, dialogues and sft.

Speech tokens are made from the letters of a text, so that a model can learn to read them and a test can check them.
"""

from __future__ import annotations

from pathlib import Path

from components.shared.contracts import Fact, Interleaved, Segment, SpeechTokens, Text
from components.shared.manifest import write_table
from components.shared.places import Inputs, Outputs

NUM_CODES = 32
NAMES = ["Anna", "Peter", "Susan", "David", "Julia", "Thomas", "Emily", "Robert"]
PETS = ["dog", "cat", "rabbit", "parrot"]


def say(text: str) -> list[int]:
    """The code of every letter."""
    return [ord(letter) - ord("a") for letter in text.lower() if "a" <= letter <= "z"] or [26]


def speech(row_id: str, text: str | None, split: str = "train", corpus: str = "closed_world") -> SpeechTokens:
    """A row of speech tokens; text None: unsupervised speech."""
    return SpeechTokens(
        id=row_id,
        tokens=say(text or "unlabelled speech"),
        duration_s=2.0,
        text=text,
        text_source="none" if text is None else "human",
        language="en",
        speaker="voice",
        corpus=corpus,
        license="CC0-1.0",
        split=split,
        origin="synthesized",
    )


def text_row(row_id: str, text: str, split: str = "train", corpus: str = "closed_world") -> Text:
    """A row of texts."""
    return Text(id=row_id, text=text, language="en", corpus=corpus, license="CC0-1.0", split=split)


def interleaved_row(row_id: str, pieces: list[tuple[str, str]], split: str = "train") -> Interleaved:
    """A document of (modality, text) pieces."""
    segments, at = [], 0
    for modality, text in pieces:
        tokens = say(text) if modality == "speech" else []
        segments.append(Segment(modality=modality, text=text, tokens=tokens, start=at, stop=at + len(text)))
        at += len(text)
    return Interleaved(
        id=row_id,
        language="en",
        corpus="closed_world",
        segments=segments,
        num_text_chars=sum(len(s.text) for s in segments if s.modality == "text"),
        num_speech_tokens=sum(len(s.tokens) for s in segments),
        engine="test",
        license="CC0-1.0",
        split=split,
    )


def write_world(data: Path, num_documents: int = 40, rows_per_shard: int = 50_000) -> None:
    """The tables that mix and dialogues read, below data/."""
    texts, spoken, mixed, facts = [], [], [], []
    for number in range(num_documents):
        name, pet = NAMES[number % len(NAMES)], PETS[number % len(PETS)]
        split = "validation" if number % 10 == 9 else "train"
        texts.append(text_row(f"t{number}", f"{name} has a {pet}. What pet does {name} have? {pet.title()}.", split))
        spoken.append(speech(f"s{number}", f"{name} has a {pet}.", split))
        pieces = [("text", f"Every day {number} "), ("speech", f"{name} feeds"), ("text", f" a {pet}.")]
        mixed.append(interleaved_row(f"i{number}", pieces, split))
    spoken += [speech(f"u{number}", None) for number in range(num_documents // 4)]
    for number, name in enumerate(NAMES):
        fact = {"language": "en", "subject": name, "relation": "has_pet", "object": PETS[number % len(PETS)]}
        facts.append(Fact(id=f"en-has_pet-{number:04d}", withheld=number % 2 == 1, **fact))
    write_table(data / "collect" / "texts", texts, Text, rows_per_shard=rows_per_shard)
    write_table(data / "collect" / "facts", facts, Fact)
    extra = {"num_codes": NUM_CODES, "tokens_per_s": 12.5}
    write_table(data / "tokenize" / "tokens", spoken, SpeechTokens, rows_per_shard=rows_per_shard, extra=extra)
    write_table(data / "synthesize" / "interleaved", mixed, Interleaved, rows_per_shard=rows_per_shard)


def places(root: Path, stage: str) -> tuple[Inputs, Outputs]:
    """Inputs of root/data and outputs that publish into it."""
    outputs = Outputs(root=root / "data" / stage, work=root / ".work" / stage)
    for path in (outputs.root, outputs.work):
        path.mkdir(parents=True, exist_ok=True)
    return Inputs(root / "data"), outputs
