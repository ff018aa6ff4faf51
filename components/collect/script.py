"""The script: which sentences are spoken in one language, by which voice, and for which split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from components.collect.config import CollectConfig, SpeechConfig, VoiceShare
from components.collect.contamination import Guard, ItemIndex, without_items
from components.collect.documents import CORPUS as CLOSED_WORLD
from components.collect.documents import LICENSE, say_object
from components.collect.items import Items
from components.collect.ledger import Ledger
from components.collect.phrases import cut_phrases
from components.collect.sources import Line, Sentence
from components.collect.splits import ngrams
from components.collect.texts import speakable
from components.collect.world import World
from components.shared.contracts import Text
from components.shared.manifest import hash_of

OPEN_DOMAIN, EVALUATION = "open_domain", "evaluation"
Sentences = dict[str, list[tuple[Text, str]]]
"""Split -> (passage, sentence)."""


def write_script(
    world: World,
    items: Items,
    texts: list[Text],
    held_transcripts: Iterable[str],
    config: CollectConfig,
    ledger: Ledger,
) -> tuple[list[Line], list[Text]]:
    """The lines of one language, and the texts that are left.

    texts: of this language, closed world and open domain. held_transcripts: of real recordings for validation and test.
    No line for training states a withheld fact, holds an evaluation item, shares an n-gram with a real test recording
    or repeats another; no text for training holds an evaluation item or what is spoken as unlabelled speech.
    """
    language = world.language
    speech = config.speech[language]
    rng = np.random.default_rng([config.seed, 2, *language.encode()])
    index = ItemIndex(items, language)
    guard = Guard(world, index, held_transcripts, config.split.ngram, ledger.stock.get(language, set()))
    texts = without_items(texts, index, ledger)
    read_aloud = {name for name, corpus in config.text_corpora.items() if corpus.spoken}
    sentences = speakable([text for text in texts if text.corpus in read_aloud], config.phrases)
    labelled, unlabelled, held_back = _open_domain(sentences["train"], speech, rng)
    ledger.drop("text_of_unlabelled_speech", len(held_back))
    texts = [text for text in texts if text.id not in held_back]
    closed = _closed_world(world, speech.num_closed_world, rng)
    phrases = cut_phrases([text for text in texts if text.split == "train"], config.phrases, speech.num_phrases, rng)
    lines = _training([*closed, *labelled, *phrases], "train", language, speech, guard, ledger)
    lines += _training(unlabelled, "unlabelled", language, speech, guard, ledger)
    seen = [line.text for line in lines]
    seen += [text.text for text in texts if text.split == "train" and text.corpus != CLOSED_WORLD]
    lines += _held_out(world, sentences, seen, config, rng, ledger)
    lines += [
        _line(id, Sentence(text=text, corpus=EVALUATION, license=LICENSE), language, speech.evaluation_voice, split)
        for id, (text, split) in items.spoken.items()
    ]
    return lines, texts


def _line(id: str, sentence: Sentence, language: str, voice: str, split: str, labelled: bool = True) -> Line:
    return Line(
        id=id,
        text=sentence.text,
        language=language,
        voice=voice,
        corpus=sentence.corpus,
        license=sentence.license,
        split=split,
        labelled=labelled,
    )


def _closed_world(world: World, count: int, rng: np.random.Generator) -> list[Sentence]:
    """Statements, questions with answers and stories of spoken facts: a statement of each before a second of any.

    Raises ValueError when count is too small to speak every fact that is not withheld.
    """
    facts = [fact for fact in world.facts if not fact.row.withheld]
    if count < len(facts):
        where = f"collect.speech.{world.language}.num_closed_world"
        raise ValueError(f"{where}: got {count}, wanted at least {len(facts)}, one for each fact that is spoken")
    lexicon = world.lexicon
    ranked = []
    for number, fact in enumerate(facts):
        statements = fact.statements(lexicon)
        first, *more = (statements[i] for i in rng.permutation(len(statements)))
        answer = say_object(world, fact.row.object)
        more += [lexicon.separator.join((question, answer)) for question in fact.questions(lexicon)]
        more += fact.tales(lexicon)
        ordered = [first, *(more[i] for i in rng.permutation(len(more)))]
        ranked += [(rank, number, text) for rank, text in enumerate(ordered)]
    return [Sentence(text=text, corpus=CLOSED_WORLD, license=LICENSE) for _, _, text in sorted(ranked)[:count]]


def _open_domain(
    sentences: list[tuple[Text, str]], speech: SpeechConfig, rng: np.random.Generator
) -> tuple[list[Sentence], list[Sentence], set[str]]:
    """(labelled sentences, unlabelled ones, ids of the passages that hold the unlabelled ones).

    A passage gives to one of the two only, so that the texts can do without the unlabelled ones.
    """
    by_passage: dict[str, list[Sentence]] = defaultdict(list)
    for text, sentence in sentences:
        by_passage[text.id].append(Sentence(text=sentence, corpus=OPEN_DOMAIN, license=text.license))
    wanted = round(speech.num_open_domain * speech.unsupervised_share)
    unlabelled: list[Sentence] = []
    labelled: list[Sentence] = []
    held_back: set[str] = set()
    names = sorted(by_passage)
    for i in rng.permutation(len(names)):
        found = by_passage[names[i]]
        if len(unlabelled) < wanted:
            unlabelled += found
            held_back.add(names[i])
        else:
            labelled += found
    chosen = rng.permutation(len(labelled))[: speech.num_open_domain - wanted]
    return [labelled[i] for i in sorted(chosen)], unlabelled[:wanted], held_back


def _training(
    sentences: list[Sentence], kind: str, language: str, speech: SpeechConfig, guard: Guard, ledger: Ledger
) -> list[Line]:
    """Lines for training without those that the guard refuses; voices are drawn by their shares."""
    lines = []
    for number, sentence in enumerate(sentences):
        reason = guard.reason(sentence.text)
        if reason:
            ledger.drop(reason)
            continue
        id = f"{language}-{kind}-{number:05d}"
        voice = pick_voice(id, speech.voices)
        lines.append(_line(id, sentence, language, voice, "train", labelled=kind != "unlabelled"))
    return lines


def _held_out(
    world: World, sentences: Sentences, seen: list[str], config: CollectConfig, rng: np.random.Generator, ledger: Ledger
) -> list[Line]:
    """Unseen sentences for validation and test: kept statements of spoken facts, and open-domain sentences.

    An open-domain sentence shares no n-gram with training. A kept statement shares its words with the statements about
    other people, but no training text or line puts this fact in these words.
    """
    language, size, speech = world.language, config.split.ngram, config.speech[world.language]
    grams = {gram for text in seen for gram in ngrams(text, language, size)}
    facts = [fact for fact in world.facts if not fact.row.withheld]
    facts = [facts[i] for i in rng.permutation(len(facts))]
    lines = []
    for split, count in (("validation", speech.num_validation), ("test", speech.num_test)):
        closed, facts = facts[: count // 2], facts[count // 2 :]
        chosen = [Sentence(text=fact.held(world.lexicon), corpus=CLOSED_WORLD, license=LICENSE) for fact in closed]
        pool = sentences[split]
        for i in rng.permutation(len(pool)):
            text, sentence = pool[i]
            if len(chosen) == count:
                break
            if grams.isdisjoint(ngrams(sentence, language, size)):
                chosen.append(Sentence(text=sentence, corpus=OPEN_DOMAIN, license=text.license))
            else:
                ledger.drop("held_out_shares_ngram")
        for number, sentence in enumerate(chosen):
            id = f"{language}-{split}-{number:05d}"
            unseen = split == "test" and int((number + 1) * speech.unseen_share) > int(number * speech.unseen_share)
            voice = speech.unseen_voice if unseen else pick_voice(id, speech.voices)
            lines.append(_line(id, sentence, language, voice, split))
    return lines


def pick_voice(id: str, voices: list[VoiceShare]) -> str:
    """A voice by its share, from the id alone."""
    point = int(hash_of(["voice", id])[:8], 16) / 2**32 * sum(voice.share for voice in voices)
    for voice in voices:
        point -= voice.share
        if point < 0:
            return voice.name
    return voices[-1].name
