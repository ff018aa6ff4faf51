"""Does naming a speaker change the tokens the way that speaker's real tokens differ from the others'?

A speaker is told by what codes there are, not by their order: the mean log-likelihood of an utterance's codes under
each speaker's distribution of codes in training, whoever is likeliest. The distributions are of real speech alone, so
that the text-to-token model is no judge of itself. The same texts are said in every speaker's name, and of each
likelihood its mean over the names is taken away: what a text has of a speaker's own words weighs on all names alike and
falls out, and a model that does not heed the name is right at chance. Real utterances say different texts, where that
cannot be: what is right there is told by voice and words together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.evaluate.config import EvaluateConfig
from components.evaluate.likelihood import credit
from components.evaluate.saying import Said
from components.evaluate.selection import choose, choose_each
from components.shared.contracts import ItemScore, SpeechTokens
from components.shared.manifest import read_manifest, read_shards
from components.shared.places import Inputs

ASKED, REAL = "asked", "real"
Profiles = dict[str, dict[str, np.ndarray]]
"""Language -> speaker -> (num_codes,) float64, log-probabilities of the codes in the speaker's real speech."""


def choose_speakers(
    inputs: Inputs, main: Mapping[str, str], known: Collection[str], config: EvaluateConfig
) -> dict[str, list[str]]:
    """Of each language its main speaker and at most config.num_speakers others; languages with one are left out.

    known: speakers that the model can be asked for.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for table in read_shards(inputs.folder("tokenize", "tokens"), SpeechTokens):
        named = _named(table)
        counts.update(zip(named["language"].to_pylist(), named["speaker"].to_pylist(), strict=True))
    chosen = {}
    for language in sorted(main):
        others = [name for spoken, name in counts if spoken == language and name in known and name != main[language]]
        chosen[language] = [main[language], *choose(others, config.num_speakers, seed=config.seed, key=str)]
    return {language: speakers for language, speakers in chosen.items() if len(speakers) > 1}


def _named(table: pa.Table) -> pa.Table:
    """The utterances that the text-to-token model learnt from."""
    return table.filter(pc.and_(pc.equal(table["split"], "train"), pc.equal(table["text_source"], "human")))


def learn_profiles(inputs: Inputs, speakers: Mapping[str, Sequence[str]]) -> Profiles:
    """How often each speaker's real speech of training has each code.

    To a speaker's counts as many tokens as there are codes are added, as the language's speakers together have them, so
    that a code which one speaker happens to lack does not decide.
    """
    folder = inputs.folder("tokenize", "tokens")
    num_codes = int(read_manifest(folder).extra["num_codes"])
    counts = {key: np.zeros(num_codes) for key in ((lang, name) for lang, own in speakers.items() for name in own)}
    for table in read_shards(folder, SpeechTokens):
        named = _named(table)
        for language, speaker in counts:
            own = named.filter(pc.and_(pc.equal(named["language"], language), pc.equal(named["speaker"], speaker)))
            codes = pc.list_flatten(own["tokens"]).to_numpy()
            counts[language, speaker] += np.bincount(codes, minlength=num_codes)
    profiles: Profiles = {}
    for language, names in speakers.items():
        pooled = sum((counts[language, name] for name in names), np.ones(num_codes))
        shared = num_codes * pooled / pooled.sum()
        smooth = {name: counts[language, name] + shared for name in names}
        profiles[language] = {name: np.log(row / row.sum()) for name, row in smooth.items()}
    return profiles


def likelihoods(codes: Sequence[int], profiles: Mapping[str, np.ndarray]) -> np.ndarray:
    """Nats a token under each speaker, in the order of the profiles: (speakers,) float64; zeros without tokens."""
    if not len(codes):
        return np.zeros(len(profiles))
    return np.array([profile[np.asarray(codes)].mean() for profile in profiles.values()])


def asked_scores(said: Sequence[Said], profiles: Profiles) -> list[ItemScore]:
    """Whether each speaker asked for is the one told from what was said; every text must be said in every name."""
    scores = []
    for language, names in profiles.items():
        order = list(names)
        texts: dict[str, dict[str, Said]] = {}
        for one in said:
            if one.saying.language == language and one.saying.speaker is not None:
                texts.setdefault(one.saying.id, {})[one.saying.speaker] = one
        for text, by_name in texts.items():
            assert set(by_name) == set(order), f"{text}: said as {sorted(by_name)}, not as {sorted(order)}"
            values = np.stack([likelihoods(by_name[name].codes, names) for name in order])  # (asked, told)
            values = np.round(values - values.mean(0), 9)
            scores += [
                _score(text, language, ASKED, name, order, credit(row.tolist(), number), row)
                for number, (name, row) in enumerate(zip(order, values, strict=True))
            ]
    return scores


def choose_real(rows: Sequence[SpeechTokens], profiles: Profiles, config: EvaluateConfig) -> list[SpeechTokens]:
    """Unseen utterances of the profiles' speakers, at most config.num_by_speaker of each."""
    known = [row for row in rows if row.tokens and row.speaker in profiles.get(row.language, {})]
    return choose_each(
        known,
        config.num_by_speaker,
        seed=config.seed,
        key=lambda row: row.id,
        group=lambda row: f"{row.language}/{row.speaker}",
    )


def real_scores(rows: Sequence[SpeechTokens], profiles: Profiles) -> list[ItemScore]:
    """Whether the speaker of real utterances is told: what can be expected at most."""
    scores = []
    for row in rows:
        order = list(profiles[row.language])
        values = likelihoods(row.tokens, profiles[row.language])
        right = credit(values.tolist(), order.index(row.speaker))
        scores.append(_score(row.id, row.language, REAL, row.speaker, order, right, values))
    return scores


def _score(
    name: str, language: str, mode: str, speaker: str, order: list[str], right: float, values: np.ndarray
) -> ItemScore:
    """One utterance; chance is any of the speakers."""
    return ItemScore(
        id=f"{name}/{speaker}",
        task="speaker",
        mode=mode,
        groups=[],
        language=language,
        cluster=name,
        score=right,
        baseline=1 / len(order),
        weight=1.0,
        reference=speaker,
        answer=order[int(values.argmax())],
    )


def by_speaker(scores: Sequence[ItemScore]) -> dict[str, dict[str, float]]:
    """Share of a speaker's utterances that were told to be the speaker's: "asked" and "real" by "<language>/<name>"."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in scores:
        values.setdefault(f"{row.language}/{row.reference}", {}).setdefault(row.mode, []).append(row.score)
    return {name: {mode: float(np.mean(own)) for mode, own in modes.items()} for name, modes in sorted(values.items())}
