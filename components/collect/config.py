"""Settings of the collect stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from components.shared.executor import ExecutorConfig
from components.shared.identity import FREE


class CorpusKind(Enum):
    """How a folder of recordings says what it holds."""

    manifest = "manifest"
    """A TSV, CSV or JSONL file: file, text and, where known, id, speaker, language, split, duration_s."""
    librispeech = "librispeech"
    """LibriSpeech's tree: <subset>/<speaker>/<chapter>/*.flac with one *.trans.txt a chapter."""
    lhotse = "lhotse"
    """A lhotse CutSet, cuts*.jsonl or cuts*.jsonl.gz, with recordings that are files."""


class TextKind(Enum):
    """How a small text corpus is stored; bulk text is of any kind that components.collect.bulk_files names."""

    chitchat = "chitchat"
    """JSON of dialogues {id: {messages: [[{text}]]}} (chitchat-dataset)."""
    chatterbot = "chatterbot"
    """YAML files with conversations: [[line, line, ...]] (chatterbot-corpus)."""
    hsk = "hsk"
    """JSON list of sentences {id, chinese} (hsk-sentences-audio)."""


@dataclass(kw_only=True)
class CorpusConfig:
    """One corpus of recordings; added here, without code."""

    kind: CorpusKind
    """How the folder says what it holds."""
    path: str
    """Folder, from the project's root or absolute."""
    manifest: str
    """File name of the manifest or CutSet in the folder; not used by librispeech."""
    language: str
    """ISO 639-1, for rows that do not say it."""
    license: str
    """SPDX name or a sentence."""
    origin: str
    """recorded | synthesized."""
    text_source: str
    """human | pseudo: who wrote the transcripts; none: unlabelled speech, any text is ignored."""
    speaker: str
    """Speaker of rows that do not say it."""
    max_utterances: int
    """Utterances taken, chosen by hash of their id; 0: all."""


@dataclass(kw_only=True)
class TextCorpusConfig:
    """One corpus of written text."""

    kind: TextKind
    """How it is stored."""
    path: str
    """Folder or file; "piece:<name>/<path>" is inside a pinned piece of components.shared.assets."""
    language: str
    """ISO 639-1."""
    license: str
    """SPDX name or a sentence."""
    max_units: int
    """Words (characters in Chinese) taken from whole documents in seeded order; 0: all."""
    skip: list[str]
    """Stems of files that are left out."""
    spoken: bool
    """Whether sentences of it are read aloud."""


@dataclass(kw_only=True)
class BulkCorpusConfig:
    """One corpus of bulk text: any mix of Parquet, JSONL (also .gz, .zst) and Hugging Face datasets folders."""

    path: str
    """Folder or file; "piece:<name>/<path>" is inside a pinned piece of components.shared.assets."""
    text_column: str
    """Column, or key of a JSON line, with the document."""
    language: str
    """ISO 639-1 of all documents; detect: found for each by py3langid; column: as its language_column says."""
    language_column: str
    """Column or key with the language of each document; read only with language: column."""
    license: str
    """SPDX name or a sentence."""
    max_units: int
    """Words (characters in Chinese) taken, by parts of files in seeded order, near-duplicates included; 0: all."""


@dataclass(kw_only=True)
class BulkLanguageConfig:
    """What is counted in one language, whose words in Chinese are characters."""

    shingle: int
    """Words in a row whose sets two documents are compared by (5 words: FineWeb, Penedo et al. 2024)."""
    held_out_ngram: int
    """A document that shares so many words in a row with a held-out text is removed (8 to 13: Brown et al. 2020)."""


@dataclass(kw_only=True)
class BulkTextConfig:
    """Bulk text: read, cleaned and freed of near-duplicates and of what evaluation asks, in bounded memory."""

    corpora: dict[str, BulkCorpusConfig]
    """Corpus name in the tables -> where it lies."""
    languages: dict[str, BulkLanguageConfig]
    """Languages that are kept, ISO 639-1; documents in others are dropped and counted."""
    min_characters: int
    """Shorter documents are dropped."""
    max_characters: int
    """Longer documents are cut at paragraphs, lines or sentences."""
    similarity: float
    """Jaccard similarity of two documents' shingles at which the later one is more likely dropped than not, 0 to 1.

    0 keeps all. With 112 hashes 0.75 makes 14 bands of 8, as FineWeb has (Penedo et al. 2024): a pair of similarity s
    is caught with probability 1 - (1 - s^8)^14, 0.77 at 0.75 and 0.98 at 0.84.
    """
    num_hashes: int
    """Length of a document's MinHash signature."""
    validation_share: float
    """Share of the documents for validation, by hash of their ids; there is no test split of bulk text."""
    part_mb: int
    """Of a file that one worker reads at a time, in 10^6 bytes; what is compressed is read whole."""


@dataclass(kw_only=True)
class SplitConfig:
    """How a corpus without splits of its own is split by content (no test sentence shares an n-gram with training)."""

    ngram: int
    """Words (characters in Chinese) that two texts must share in a row to belong together."""
    validation_share: float
    """Share of the texts for validation."""
    test_share: float
    """Share of the texts for test."""
    stock_uses: int
    """An n-gram in at least this many texts is a stock phrase: listed aside, it ties no texts together."""
    min_speakers: int
    """A corpus with at least this many speakers is split by speaker instead, then by content."""


@dataclass(kw_only=True)
class WorldConfig:
    """Size of the closed world in one language."""

    num_people: int
    """Subjects."""
    num_relations: int
    """Facts a person."""
    num_objects: int
    """Objects a relation: the candidates of a question."""
    withheld_share: float
    """Share of the facts that no speech states anywhere."""
    items_per_fact: int
    """Questions, and stories, that evaluation takes from one fact, each in another phrasing."""
    num_evaluated_facts: int
    """Facts whose questions and stories are spoken for evaluation."""
    validation_share: float
    """Share of the evaluated facts whose items are for validation."""
    documents_per_person: int
    """Paragraphs written about each person."""


@dataclass(kw_only=True)
class VoiceShare:
    """One voice and how much of the training speech is its."""

    name: str
    """As components.collect.voices.make_voice takes it."""
    share: float
    """Its part of the training utterances, relative to the other voices."""


@dataclass(kw_only=True)
class SpeechConfig:
    """What is spoken in one language, and by whom."""

    voices: list[VoiceShare]
    """Voices of the training utterances."""
    evaluation_voice: str
    """Speaks questions, stories, endings, candidates; one of the voices, so that evaluation hears a seen speaker."""
    unseen_voice: str
    """Speaks part of the test sentences and nothing else."""
    unseen_share: float
    """Share of the test sentences that the unseen voice speaks."""
    num_closed_world: int
    """Training sentences of the closed world; spoken facts only."""
    num_open_domain: int
    """Training sentences of the text corpora."""
    num_phrases: int
    """Training phrases, spans cut from texts, since text-to-token is asked for spans."""
    num_validation: int
    """Unseen sentences for validation, half closed world, half open domain."""
    num_test: int
    """Unseen sentences for test, half closed world, half open domain."""
    unsupervised_share: float
    """Share of the open-domain training sentences that play the role of unlabelled speech: text null."""


@dataclass(kw_only=True)
class PhraseConfig:
    """Which pieces of text are spoken."""

    min_span_words: int
    """Shortest phrase, in words."""
    max_span_words: int
    """Longest phrase, in words."""
    min_sentence_words: int
    """Shortest open-domain sentence, in words."""
    max_sentence_words: int
    """Longest open-domain sentence, in words."""
    min_word_uses: int
    """A sentence is spoken only when each word stands this often in the texts: leaves out most misspellings."""


@dataclass(kw_only=True)
class CollectConfig:
    """Section collect of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    min_duration_s: float
    """Shorter recordings are dropped."""
    max_duration_s: float
    """Longer recordings are dropped."""
    silence_dbfs: float
    """Recordings whose loudest tenth of a second is quieter, in decibels relative to full scale, are dropped."""
    edge_silence_s: float
    """Silence kept before and after a spoken line, in seconds; voices pad their lines with more."""
    corpora: dict[str, CorpusConfig]
    """Corpus name in the tables -> recordings with transcripts."""
    text_corpora: dict[str, TextCorpusConfig]
    """Corpus name in the tables -> small corpora of written text, read whole."""
    bulk_texts: BulkTextConfig
    """Corpora of any size, for training and validation; never spoken."""
    split: SplitConfig
    """Splits of corpora that bring none."""
    worlds: dict[str, WorldConfig]
    """Language -> size of its closed world."""
    speech: dict[str, SpeechConfig]
    """Language -> what is spoken."""
    phrases: PhraseConfig
    """Which pieces of text are spoken."""
    lines_per_shard: int
    """Sentences that one worker speaks at a time."""
    executor: ExecutorConfig = field(metadata=FREE)
    """Where recordings are read and sentences spoken."""
