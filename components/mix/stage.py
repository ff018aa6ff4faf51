"""The story of mix: a tokenizer, token shards of every source, a plan, a schedule, and a look at what came of it."""

from __future__ import annotations

from components.mix.config import MixConfig
from components.mix.documents import SOURCES
from components.mix.figures import shares_figure
from components.mix.plan import Budget, describe, plan
from components.mix.schedule import sequences, write
from components.mix.sources import TABLES, Source, make_shards
from components.mix.vocabulary import make_tokenizer
from components.shared.contracts import Text
from components.shared.manifest import read_manifest, read_table, seal
from components.shared.packed_data import PackedData
from components.shared.places import Inputs, Outputs
from components.shared.tokens import Vocabulary
from components.shared.tracking import Tracker

DROPPED = ("dropped_test", "dropped_empty")
MAX_STATS_ROWS = 5000


def run(config: MixConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Plan what pre-training reads and write it as packed token sequences.

    Reads   data/collect/texts, data/tokenize/tokens, data/synthesize/interleaved
    Writes  data/mix/tokenizer/, data/mix/shards/ (see shared.packed_data)
    Metrics planned_share_*, achieved_share_* (of all tokens) and epochs_* of every source; padding_share; dropped_*
    Source  Zeng et al. 2024, section 2.4

    Raises ValueError when the budgets cannot be met or a speech code is outside the vocabulary.
    """
    folders = {source: inputs.folder(*TABLES[source]) for source in SOURCES}
    num_codes = int(read_manifest(folders["asr"]).extra["num_codes"])
    texts = (row.text for row in read_table(folders["text"], Text) if row.split == "train")
    tokenizer, num_base_tokens = make_tokenizer(config, texts, num_codes)
    vocabulary = Vocabulary.of(tokenizer, num_codes)
    tokenizer_folder = outputs.folder("tokenizer")
    tokenizer.save_pretrained(tokenizer_folder)
    seal(tokenizer_folder, extra={"num_codes": num_codes, "base": config.base, "num_base_tokens": num_base_tokens})

    made = make_shards(config, folders, tokenizer_folder, num_codes, outputs.work, tracker)
    sources = [Source.read(index, name, made[name]) for index, name in enumerate(SOURCES)]
    budgets = plan(config, {source.name: source.documents["train"].num_tokens for source in sources})

    shards = outputs.folder("shards")
    for source in sources:
        source.publish(shards)
    train = [source.stream("train", budget.planned, config) for source, budget in zip(sources, budgets, strict=True)]
    length, window, seed = config.sequence_length, config.window_sequences, config.seed
    num_sequences = write(shards, "train", sequences(train, length, window, seed))
    held_out = [source.stream("validation", config.validation_tokens, config) for source in sources]
    num_validation = write(shards, "validation", sequences(held_out, length, window, seed))
    extra = {
        "sources": list(SOURCES),
        "shards": {source.name: len(source.folders) for source in sources},
        "sequence_length": length,
        "pad_id": vocabulary.pad,
        "num_codes": num_codes,
        "vocabulary_size": vocabulary.size,
        "budgets": {budget.source: budget.planned for budget in budgets},
    }
    seal(shards, extra=extra)

    metrics = {"vocabulary_size": float(vocabulary.size), "num_validation_sequences": float(num_validation)}
    for reason in DROPPED:
        metrics[reason] = float(sum(source.counts.get(reason, 0) for source in sources))
    if metrics["dropped_empty"]:
        tracker.say(f"mix: {metrics['dropped_empty']:.0f} rows without text or without tokens were left out")
    return metrics | _compare(config, budgets, PackedData(shards, "train"), num_sequences, outputs, tracker)


def _compare(
    config: MixConfig, budgets: list[Budget], data: PackedData, num_sequences: int, outputs: Outputs, tracker: Tracker
) -> dict[str, float]:
    """Log what was planned beside what the finished schedule holds; write the statistics for the gate."""
    tokens, pieces = data.count()
    achieved = {budget.source: int(count) for budget, count in zip(budgets, tokens, strict=True)}
    total, planned_total = max(1, int(tokens.sum())), sum(budget.planned for budget in budgets)
    padding = 1 - total / max(1, num_sequences * config.sequence_length)
    table = describe(budgets, achieved)
    tracker.say(f"mix: how {config.total_tokens:,} tokens were filled\n{table}\npadding {padding:.2%}")
    tracker.log_text(table + "\n", "plan.txt")
    tracker.log_figure(shares_figure(budgets, achieved), "shares")
    metrics = {"num_sequences": float(num_sequences), "total_tokens": float(total), "padding_share": padding}
    stats = []
    for index, budget in enumerate(budgets):
        planned, got = budget.planned / planned_total, float(tokens[index]) / total
        epochs = float(tokens[index]) / budget.available if budget.available else 0.0
        name = budget.source
        metrics |= {f"planned_share_{name}": planned, f"achieved_share_{name}": got, f"epochs_{name}": epochs}
        stats.append(
            {
                "source": float(index),
                "share_error": abs(planned - got),
                "epochs": epochs,
                "available_tokens": float(budget.available),
                "pieces": float(pieces[index]),
                "padding_share": padding,
            }
        )
    sample = [data.pieces(number) for number in range(0, num_sequences, max(1, num_sequences // MAX_STATS_ROWS))]
    rows = [{"fill": float(p["length"].sum() / config.sequence_length), "pieces": float(len(p))} for p in sample]
    outputs.write_stats(shards=stats, rows=rows)
    return metrics
