"""The script: which sentences are spoken, by which voice, for which split, and which training texts must go.

No line for training states a withheld fact, holds an evaluation item, or repeats another line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from components.collect.config import CollectConfig, SpeechConfig, VoiceShare
from components.collect.documents import CORPUS as CLOSED_WORLD
from components.collect.documents import LICENSE, short_answer
from components.collect.items import Items
from components.collect.phrases import cut_phrases
from components.collect.sources import Line
from components.collect.splits import ngrams, units
from components.collect.texts import speakable
from components.collect.world import World
from components.shared.contracts import Text
from components.shared.manifest import hash_of

OPEN_DOMAIN, EVALUATION = "open_domain", "evaluation"


def write_script(
    world: World, items: Items, texts: list[Text], config: CollectConfig, drops: Counter[str]
) -> tuple[list[Line], list[Text]]:
    """The lines of one language, and the texts that are left for training, validation and test.

    texts: of this language, closed world and open domain. Lines and texts that are left out are counted in drops.
    """
    language = world.language
    speech = config.speech[language]
    rng = np.random.default_rng([config.seed, 2, *language.encode()])
    texts = without_items(texts, items, drops)
    spoken = {name for name, corpus in config.text_corpora.items() if corpus.spoken}
    sentences = speakable([text for text in texts if text.corpus in spoken], config.phrases)
    labelled, unlabelled, held_back = _open_domain(sentences["train"], speech, rng)
    drops["text_of_unlabelled_speech"] += len(held_back)
    texts = [text for text in texts if text.id not in held_back]
    closed = [(text, CLOSED_WORLD, LICENSE) for text in _closed_world(world, speech.num_closed_world, rng)]
    phrases = cut_phrases([text for text in texts if text.split == "train"], config.phrases, speech.num_phrases, rng)
    train = closed + labelled + phrases
    lines = _training(train, world, items, speech, True, "train", drops)
    lines += _training(unlabelled, world, items, speech, False, "unlabelled", drops)
    lines += _held_out(world, sentences, speech, config, [line.text for line in lines], texts, rng, drops)
    return lines + _evaluation(items, speech), texts


def _closed_world(world: World, count: int, rng: np.random.Generator) -> list[str]:
    """Sentences of spoken facts: one of each fact before a second of any.

    Raises ValueError when count is too small to speak every fact that is not withheld.
    """
    facts = [fact for fact in world.facts if not fact.row.withheld]
    if 0 < count < len(facts):
        where = f"in collect.speech.{world.language}"
        raise ValueError(f"num_closed_world: got {count}, wanted at least the {len(facts)} facts to be spoken, {where}")
    ranked = []
    for number, fact in enumerate(facts):
        quizzes = [
            world.lexicon.separator.join((question, short_answer(world, fact)))
            for question in fact.questions(world.lexicon)
        ]
        first, *more = [fact.statements(world.lexicon)[i] for i in rng.permutation(len(fact.statements(world.lexicon)))]
        more += [*quizzes, *fact.tales(world.lexicon)]
        ranked += [
            (rank, number, text) for rank, text in enumerate([first, *(more[i] for i in rng.permutation(len(more)))])
        ]
    return [text for _, _, text in sorted(ranked)[:count]]


def _open_domain(
    sentences: list[tuple[Text, str]], speech: SpeechConfig, rng: np.random.Generator
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]], set[str]]:
    """(labelled sentences, unlabelled ones, ids of the passages that hold the unlabelled ones)."""
    by_passage: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for text, sentence in sentences:
        by_passage[text.id].append((sentence, OPEN_DOMAIN, text.license))
    wanted = round(speech.num_open_domain * speech.unsupervised_share)
    unlabelled: list[tuple[str, str, str]] = []
    labelled: list[tuple[str, str, str]] = []
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
    train: list[tuple[str, str, str]],
    world: World,
    items: Items,
    speech: SpeechConfig,
    labelled: bool,
    kind: str,
    drops: Counter[str],
) -> list[Line]:
    """Lines for training without those that may not be there; the voices take turns by their shares."""
    lines = []
    seen: set[tuple[str, ...]] = set()
    forbidden = ItemIndex(items, world.language)
    for number, (text, corpus, license) in enumerate(train):
        key = tuple(units(text, world.language))
        reason = ""
        if key in seen:
            reason = "duplicate_sentence"
        elif states_withheld(text, world):
            reason = "withheld_fact"
        elif forbidden.found_in(text):
            reason = "evaluation_item"
        seen.add(key)
        if reason:
            drops[reason] += 1
            continue
        id = f"{world.language}-{kind}-{number:05d}"
        lines.append(
            Line(
                id=id,
                text=text,
                language=world.language,
                voice=pick_voice(id, speech.voices),
                corpus=corpus,
                license=license,
                split="train",
                labelled=labelled,
            )
        )
    return lines


def _held_out(
    world: World,
    sentences: dict[str, list[tuple[Text, str]]],
    speech: SpeechConfig,
    config: CollectConfig,
    spoken: list[str],
    texts: list[Text],
    rng: np.random.Generator,
    drops: Counter[str],
) -> list[Line]:
    """Unseen sentences for validation and test: kept statements of spoken facts, and open-domain sentences."""
    language, size = world.language, config.split.ngram
    written = [text.text for text in texts if text.split == "train" and text.corpus != CLOSED_WORLD]
    seen = {gram for text in (*written, *spoken) for gram in ngrams(text, language, size)}
    facts = [fact for fact in world.facts if not fact.row.withheld]
    facts = [facts[i] for i in rng.permutation(len(facts))]
    lines = []
    for split, count in (("validation", speech.num_validation), ("test", speech.num_test)):
        closed, facts = facts[: count // 2], facts[count // 2 :]
        chosen = [(fact.held(world.lexicon), CLOSED_WORLD, LICENSE) for fact in closed]
        pool = sentences[split]
        for i in rng.permutation(len(pool)):
            text, sentence = pool[i]
            if len(chosen) == count:
                break
            if seen.isdisjoint(ngrams(sentence, language, size)):
                chosen.append((sentence, OPEN_DOMAIN, text.license))
            else:
                drops["held_out_shares_ngram"] += 1
        for number, (text, corpus, license) in enumerate(chosen):
            unseen = split == "test" and int((number + 1) * speech.unseen_share) > int(number * speech.unseen_share)
            lines.append(
                Line(
                    id=(id := f"{language}-{split}-{number:05d}"),
                    text=text,
                    language=language,
                    voice=speech.unseen_voice if unseen else pick_voice(id, speech.voices),
                    corpus=corpus,
                    license=license,
                    split=split,
                    labelled=True,
                )
            )
    return lines


def _evaluation(items: Items, speech: SpeechConfig) -> list[Line]:
    return [
        Line(
            id=id,
            text=text,
            language=id[:2],
            voice=speech.evaluation_voice,
            corpus=EVALUATION,
            license=LICENSE,
            split=split,
            labelled=True,
        )
        for id, (text, split) in items.spoken.items()
    ]


def pick_voice(id: str, voices: list[VoiceShare]) -> str:
    """A voice by its share, from the id alone."""
    point = int(hash_of(["voice", id])[:8], 16) / 2**32 * sum(voice.share for voice in voices)
    for voice in voices:
        point -= voice.share
        if point < 0:
            return voice.name
    return voices[-1].name


def states_withheld(text: str, world: World) -> bool:
    """Whether the text holds both the subject and the object of a withheld fact."""
    words = f" {' '.join(units(text, world.language))} "
    pad = "" if world.language == "zh" else " "
    if world.language == "zh":
        words = words.replace(" ", "")

    def has(name: str) -> bool:
        return f"{pad}{name.lower()}{pad}" in words

    return any(fact.row.withheld and has(fact.row.subject) and has(fact.row.object) for fact in world.facts)


class ItemIndex:
    """Finds the questions and stories of the evaluation inside other texts, word for word."""

    def __init__(self, items: Items, language: str) -> None:
        self.language = language
        self.by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
        spoken = [item.question for item in items.questions] + [item.story for item in items.stories]
        for text in set(spoken):
            words = tuple(units(text, language))
            self.by_start[words[:3]].append(words)

    def found_in(self, text: str) -> bool:
        """Whether the text holds one of them."""
        words = tuple(units(text, self.language))
        return any(
            words[start : start + len(item)] == item
            for start in range(len(words) - 2)
            for item in self.by_start.get(words[start : start + 3], ())
        )


def without_items(texts: Iterable[Text], items: Items, drops: Counter[str]) -> list[Text]:
    """The texts without those for training that hold a question or story of the evaluation word for word."""
    kept = []
    index: ItemIndex | None = None
    for text in texts:
        index = index or ItemIndex(items, text.language)
        if text.split == "train" and index.found_in(text.text):
            drops["evaluation_item"] += 1
        else:
            kept.append(text)
    return kept
