"""Writes docs/prompts.md: every format that a model sees, with real samples, out of the code that makes the formats.

    python -m docs.prompts [--samples data]

docs/prompts.json holds the samples: rows of a finished run, picked by --samples from its data folder. A test renders
the page again and compares, so that the page cannot say anything that the code does not do.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.shared.contracts import Dialogue, Interleaved, Question, Segment, SpeechTokens, Story, Text
from components.shared.formats import AUDIO_RUN, TEXT_RUN, ChatTurn, Formats, short_answer
from components.shared.manifest import read_table, write_json
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from components.text_to_token.model import answer_of, plain_ids, prompt_of

PAGE, SAMPLES = Path("docs/prompts.md"), Path("docs/prompts.json")
SHOWN, MARGIN = 8, 3
"""Runs of more than SHOWN speech tokens are shown by their first and last MARGIN."""
SYSTEM = "You hear speech or read text. Answer in text and speech."
_RUN = re.compile(r"(?:<\|audio_\d+\|>)+")


def render(samples: dict[str, Any]) -> str:
    """The page. samples: what `collect_samples` gives."""
    formats = _formats(samples)
    parts = [_HEAD]
    for title, words, lines in _sections(samples, formats):
        shown = "\n".join(short(line) for line in lines)
        parts.append(f"## {title}\n\n{words}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def short(line: str) -> str:
    """A line with long runs of speech tokens cut in the middle, the number left out in words."""

    def cut(found: re.Match[str]) -> str:
        tokens = re.findall(r"<\|audio_\d+\|>", found[0])
        if len(tokens) <= SHOWN:
            return found[0]
        return "".join(tokens[:MARGIN]) + f" ...{len(tokens) - 2 * MARGIN} more... " + "".join(tokens[-MARGIN:])

    return _RUN.sub(cut, line)


def _sections(samples: dict[str, Any], formats: Formats) -> Iterable[tuple[str, str, list[str]]]:
    show, pair, question, story = formats.show, samples["pair"], samples["question"], samples["story"]
    segments = [Segment(**segment) for segment in samples["interleaved"]]
    v = formats.vocabulary
    yield "Text (mix, pretrain)", "A document and the end of it.", [show(formats.text_document(samples["text"]))]
    yield (
        "Unsupervised speech (mix, pretrain)",
        "An utterance without text.",
        [show(formats.speech_document(samples["speech"]))],
    )
    yield (
        "Speech recognition, ASR (mix, pretrain)",
        "`Transcribe:`, the speech, its text; in Mandarin `转写：` without a space.",
        [show(formats.asr_document(pair["tokens"], pair["text"], pair["language"]))],
    )
    yield (
        "Speech synthesis, TTS (mix, pretrain)",
        "`Say:`, the text, the speech that says it; in Mandarin `朗读：` without a space.",
        [show(formats.tts_document(pair["tokens"], pair["text"], pair["language"]))],
    )
    yield (
        "Interleaved (mix, pretrain)",
        "A text whose spans are replaced by the speech tokens that say them; text and spaces around a span stay as "
        "they stood.",
        [show(formats.interleaved_document(segments))],
    )
    chats = []
    for codes in (True, False):
        turns = [ChatTurn(role="system", text=SYSTEM, codes=[])]
        for turn in samples["dialogue"]:
            heard = turn["tokens"] if codes or turn["role"] == "assistant" else []
            turns.append(ChatTurn(role=turn["role"], text=turn["text"], codes=heard))
        chats.append(show(formats.chat(turns)[0]))
    yield (
        "Dialogue (sft)",
        f"The published chat format. The user speaks (first) or writes (second); the answer alternates {TEXT_RUN} text "
        f"and {AUDIO_RUN} speech tokens, and what is left of either follows. Learnt are the answer and the `<|user|>` "
        "that ends it; `<|user|>` is the stop token.",
        chats,
    )
    yield (
        "Story, scored (evaluate)",
        "Context and ending, S->T and S->S: the log-probability of the ending's tokens given the context's.",
        [
            f"{show(formats.context(story['tokens']))} => {show(formats.continuation(story['ending'], 'en'))}",
            f"{show(formats.context(story['tokens']))} => {show(formats.continuation(story['ending_tokens'], 'en'))}",
        ],
    )
    answer = short_answer(question["answer"], "en")
    yield (
        "Question, scored (evaluate)",
        "Question and answer, T->T and S->T; the answer is written as the quizzes of the closed world write it.",
        [
            f"{show(formats.context(question['text']))} => {show(formats.continuation(answer, 'en'))}",
            f"{show(formats.context(question['tokens']))} => {show(formats.continuation(answer, 'en'))}",
        ],
    )
    text = plain_ids(formats.tokenizer, pair["said"])
    asked = prompt_of(text, [], v)
    named = prompt_of(text, [v.system, *plain_ids(formats.tokenizer, pair["speaker"])], v)
    codes = v.to_ids(pair["tokens"])
    other = samples["pair_mandarin"]
    mandarin = prompt_of(
        plain_ids(formats.tokenizer, other["said"]),
        [v.system, *plain_ids(formats.tokenizer, other["speaker"])],
        v,
    )
    spelled = answer_of(codes, text, [len(codes) * number // len(text) for number in range(len(text))])
    yield (
        "Text-to-token (text_to_token, synthesize)",
        "A model and a tokenizer of their own. The text is in its spoken form; a speaker may be named (second, and "
        "third in Mandarin). With `words_in_speech` (fourth) each text token stands once more before the speech that "
        "says it, where the alignment has it; here at an even pace.",
        [
            show([*prompt, *answer, v.end_of_audio])
            for prompt, answer in (
                (asked, codes),
                (named, codes),
                (mandarin, v.to_ids(other["tokens"])),
                (asked, spelled),
            )
        ],
    )


def _formats(samples: dict[str, Any]) -> Formats:
    """Formats over a tokenizer of the samples' own words: large enough that a word is about one token."""
    texts = [line for line in json.dumps(samples, ensure_ascii=False).split('"') if " " in line] * 2 + [SYSTEM]
    num_codes = 1 + max(_codes(samples))
    tokenizer = add_speech(train_bpe(texts, 1000), num_codes)
    return Formats(tokenizer, Vocabulary.of(tokenizer, num_codes))


def _codes(value: Any) -> Iterable[int]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from inner if "tokens" in name else _codes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from [inner] if isinstance(inner, int) else _codes(inner)


def collect_samples(data: Path) -> dict[str, Any]:
    """Short rows of every kind from a finished run's data folder."""
    tokens = list(read_table(data / "tokenize" / "tokens", SpeechTokens))
    by_id = {row.id: row.tokens for row in tokens}
    train = [row for row in tokens if row.split == "train"]
    pair = _shortest(train, lambda row: row.corpus == "closed_world" and len(row.text.split()) > 4)
    mandarin = _shortest(train, lambda row: row.language == "zh" and row.text is not None and len(row.text) > 4)
    mixed = _shortest(
        read_table(data / "synthesize" / "interleaved", Interleaved),
        lambda row: row.corpus == "closed_world" and sum(s.modality == "speech" for s in row.segments) > 1,
    )
    question = _shortest(read_table(data / "collect" / "questions", Question), lambda row: row.language == "en")
    story = _shortest(read_table(data / "collect" / "stories", Story), lambda row: row.language == "en")
    dialogue = _shortest(
        read_table(data / "dialogues" / "dialogues", Dialogue),
        lambda row: row.fact and len(row.turns) == 2 and len(row.turns[1].tokens) > AUDIO_RUN,
    )
    text = _shortest(
        read_table(data / "collect" / "texts", Text), lambda row: row.corpus == "closed_world" and row.language == "en"
    )
    return {
        "text": text.text,
        "speech": _shortest(train, lambda row: row.text is None).tokens,
        "pair": _pair(pair),
        "pair_mandarin": _pair(mandarin),
        "interleaved": [asdict(segment) for segment in mixed.segments],
        "dialogue": [asdict(turn) for turn in dialogue.turns],
        "question": {
            "text": question.question,
            "answer": question.answer,
            "tokens": by_id[question.question_utterance],
        },
        "story": {
            "tokens": by_id[story.story_utterance],
            "ending": story.right,
            "ending_tokens": by_id[story.right_utterance],
        },
    }


def _pair(row: SpeechTokens) -> dict[str, Any]:
    """An utterance with its spoken form."""
    from components.shared.speakable import speakable

    return {
        "text": row.text,
        "said": speakable(row.text or "", row.language),
        "tokens": row.tokens,
        "language": row.language,
        "speaker": row.speaker,
    }


def _shortest(rows: Iterable[Any], wanted: Callable[[Any], bool]) -> Any:
    """The wanted row that is quickest to read. Raises ValueError when there is none."""
    found = [row for row in rows if wanted(row)]
    if not found:
        raise ValueError("prompts: a table has no row to show; run the pipeline first")
    return min(found, key=lambda row: (len(json.dumps(asdict(row))), row.id))


_HEAD = f"""# Every format that the models see

Made by `python -m docs.prompts` from the code that builds the formats (`components/shared/formats.py`,
`components/text_to_token/model.py`) and from rows of a real run; a test compares. Runs of more than {SHOWN} speech
tokens are cut in the middle here, nowhere else. `=>` stands between a prompt and what is scored after it, no token.

The chat format is the one of the published model. The formats of pre-training were never published: these are ours.
Control tokens are `<|endoftext|> <|pad|> <|system|> <|user|> <|assistant|> <|begin_of_audio|> <|end_of_audio|>`, speech
tokens `<|audio_0|>` and up. Text is encoded so that control tokens inside a corpus stay plain characters.
"""


def main() -> None:
    """Write the page; with --samples take new samples from a data folder first."""
    parser = argparse.ArgumentParser(prog="python -m docs.prompts", description=__doc__)
    parser.add_argument("--samples", type=Path, help="data folder of a finished run to take new samples from")
    options = parser.parse_args()
    if options.samples:
        write_json(SAMPLES, collect_samples(options.samples))
    PAGE.write_text(render(json.loads(SAMPLES.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
