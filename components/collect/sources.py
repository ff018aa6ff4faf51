"""Where audio comes from: a clip of a recording, or a sentence as the line of a voice."""

from __future__ import annotations

from dataclasses import dataclass

from components.shared.manifest import hash_of


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One recording, or a part of one, before its audio was opened."""

    id: str
    path: str
    """Audio file, absolute."""
    start_s: float
    """Where the clip begins in the file."""
    length_s: float | None
    """What the corpus says about its length; None: nothing."""
    is_part: bool
    """Whether the file holds more than the clip; otherwise all of it is read and its length only checked."""
    text: str | None
    text_source: str
    """human | pseudo | none"""
    language: str
    speaker: str
    corpus: str
    license: str
    origin: str
    """recorded | synthesized"""
    split: str
    """train | validation | test, or an empty string when the corpus does not say."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Something that may be said, and where it is from."""

    text: str
    corpus: str
    license: str
    """Of the text."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One sentence that a voice shall say."""

    id: str
    text: str
    language: str
    voice: str
    corpus: str
    license: str
    """Of the text."""
    split: str
    labelled: bool
    """False: the recording plays unlabelled speech, and its text is written nowhere."""

    @property
    def seed(self) -> int:
        """Of this line's pace, from its id alone."""
        return int(hash_of(self.id)[:8], 16)
