"""collect: brings real and synthetic speech, texts and the closed world into the tables that everything starts from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from components.collect import bulk
from components.collect.audio_shards import Limits, file_state, make_shard, plan_shards
from components.collect.config import CollectConfig
from components.collect.corpora import read_corpus
from components.collect.documents import write_documents
from components.collect.items import Items, make_items
from components.collect.ledger import Ledger
from components.collect.script import EVALUATION, write_script
from components.collect.sources import Clip, Line
from components.collect.summary import draw, log_samples, metrics_of, stats_of
from components.collect.texts import read_texts
from components.collect.utterances import unpack
from components.collect.world import World, make_world
from components.shared.contracts import Fact, Question, Story, Text, Utterance
from components.shared.executor import map_shards
from components.shared.fingerprint import module_fingerprint
from components.shared.manifest import hash_of, seal, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker


def run(config: CollectConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Collect utterances, texts and the evaluation's items.

    Reads   the corpora and text corpora that params name (folders, manifests, pinned pieces), synthesiser voices
    Writes  utterances (contracts.Utterance, audio/*.flac), texts (Text), facts (Fact), stories (Story),
            questions (Question)
    Metrics utterances_*, hours_*, words_*, dropped_<reason>, facts_withheld, mandarin_speech_share; of bulk text
            bulk_documents, bulk_texts_*, bulk_characters_*, bulk_dropped_<reason>, bulk_mb_per_s
    Source  Zeng et al. 2024, sections 2.1 to 2.3 and 3; the closed world is this project's own

    Raises ValueError when a corpus is missing or leaves its folder, or an evaluation item could not be spoken.
    """
    root = inputs.data.parent
    planned = bulk.plan_bulk(config.bulk_texts, config.seed, root, tracker)
    ledger = Ledger()
    clips: list[Clip] = []
    for name, corpus in config.corpora.items():
        found = read_corpus(name, corpus, config.split, config.seed, root, ledger)
        tracker.say(f"collect: {len(found)} recordings in corpus {name}")
        clips += found

    written = read_texts(config.text_corpora, config.split, config.seed, root, ledger)
    worlds = {language: make_world(size, language, config.seed) for language, size in config.worlds.items()}
    items: dict[str, Items] = {}
    lines: list[Line] = []
    texts: list[Text] = [text for text in written if text.language not in worlds]
    for language, world in worlds.items():
        ours = write_documents(world, config.worlds[language].documents_per_person, config.seed)
        ours += [text for text in written if text.language == language]
        spoken: list[Line] = []
        if language in config.speech:
            items[language] = make_items(world, config.seed)
            held = [clip.text for clip in clips if clip.text and clip.split != "train" and clip.language == language]
            spoken, ours = write_script(world, items[language], ours, held, config, ledger)
        lines += spoken
        texts += ours
        tracker.say(
            f"collect: {len(world.facts)} facts, {len(ours)} texts and {len(spoken)} lines to say in {language}"
        )

    limits = Limits(
        min_duration_s=config.min_duration_s,
        max_duration_s=config.max_duration_s,
        silence_dbfs=config.silence_dbfs,
        edge_s=config.edge_silence_s,
    )
    shards = plan_shards(clips, lines, limits, config.lines_per_shard)
    code = module_fingerprint("components.collect.audio_shards")
    keys = [hash_of([asdict(shard), [file_state(clip.path) for clip in shard.clips], code]) for shard in shards]
    paths = map_shards(
        make_shard,
        shards,
        keys,
        work=outputs.work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "speech"),
    )

    folder = outputs.folder("utterances")
    rows = unpack(folder, paths, [*clips, *lines], ledger)
    _check_items(rows, items)
    stock = {language: sorted(phrases) for language, phrases in ledger.stock.items()}
    write_table(folder, rows, Utterance, extra={"stock_phrases": stock})
    written_to = outputs.folder("texts")
    write_table(written_to, texts, Text)
    write_table(outputs.folder("facts"), _facts(worlds), Fact)
    write_table(outputs.folder("stories"), [story for found in items.values() for story in found.stories], Story)
    asked = [question for found in items.values() for question in found.questions]
    write_table(outputs.folder("questions"), asked, Question)

    metrics = metrics_of(rows, texts, worlds, items, ledger)
    outputs.write_stats(*stats_of(rows, metrics))
    if planned.readings:
        metrics |= _add_bulk(planned, written_to, items, [*clips, *lines], texts, outputs, config, tracker)
    draw(rows, tracker)
    log_samples(rows, folder, tracker)
    for reason, count in sorted(ledger.drops.items()):
        tracker.say(f"collect: dropped {count} for {reason}")
    return metrics


def _add_bulk(
    planned: bulk.Bulk,
    folder: Path,
    items: dict[str, Items],
    spoken: list[Clip | Line],
    texts: list[Text],
    outputs: Outputs,
    config: CollectConfig,
    tracker: Tracker,
) -> dict[str, float]:
    """Add bulk texts that hold no item of the evaluation and no held-out text; returns the figures."""
    held = [(row.text, row.language) for row in [*spoken, *texts] if row.text and row.split != "train"]
    leaks = bulk.held_file(planned, items.values(), held, outputs.work)
    figures = bulk.write_bulk(planned, leaks, folder, outputs.work, config.executor, tracker)
    seal(folder, contract=Text.__name__)
    return figures


def _facts(worlds: dict[str, World]) -> list[Fact]:
    return [fact.row for world in worlds.values() for fact in world.facts]


def _check_items(rows: list[Utterance], items: dict[str, Items]) -> None:
    """Every spoken item must be there: a score over what happened to be sayable would mean nothing."""
    there = {row.id for row in rows if row.corpus == EVALUATION}
    missing = [(id, text) for found in items.values() for id, (text, _) in found.spoken.items() if id not in there]
    if missing:
        id, text = missing[0]
        raise ValueError(f"collect.speech: evaluation_voice: {len(missing)} items not spoken, first {id}: {text!r}")
