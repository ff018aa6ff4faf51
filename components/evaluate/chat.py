"""The chat model: does it answer a spoken question, in text and aloud, and does it say what it writes?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import Evaluation, error_score, kept
from components.evaluate.language_modelling import SPOKEN, WITHHELD, relation_of
from components.evaluate.likelihood import best_baseline, majority_credits
from components.evaluate.samples import SampleBook, Wave
from components.evaluate.selection import choose
from components.evaluate.speech import Speech, read_speech
from components.shared.contracts import ItemScore, Question
from components.shared.formats import ChatTurn
from components.shared.manifest import read_table
from components.shared.places import Inputs
from components.shared.recognizer import normalize_text
from components.shared.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One spoken question with the model's reply."""

    question: Question
    text: str
    codes: list[int]
    heard: str
    """What the speech tokenizer makes of the codes."""
    finished: bool

    @property
    def id(self) -> str:
        """Id of the question."""
        return self.question.id

    @property
    def language(self) -> str:
        """ISO 639-1."""
        return self.question.language


def evaluate(config: EvaluateConfig, inputs: Inputs, book: SampleBook, tracker: Tracker) -> Evaluation:
    """Spoken questions, one turn each, answered greedily.

    A reply is right when it holds the answer and no other candidate of the relation (s_to_t: in its text, s_to_s: in
    its speech as the tokenizer hears it); chance is the commonest answer of the relation, or one of the candidates
    drawn blindly. The error rate of the speech against the text of the same reply is reply_wer_speech.
    """
    from components.sft.model import load
    from components.speech_tokenizer.model import load as load_tokenizer

    rows = [
        row for row in read_table(inputs.folder("collect", "questions"), Question) if row.split == config.split.value
    ]
    questions = choose(rows, config.num_replies, seed=config.seed, key=lambda row: row.id)
    speech = read_speech(inputs, {question.question_utterance for question in questions})
    asked = [question for question in questions if question.question_utterance in speech]
    chat = load(inputs.folder("sft", "model"), config.engine)
    requests = [
        chat.request(question.id, [_turn(question, speech)], config.max_reply_tokens, seed=config.seed)
        for question in asked
    ]
    tracker.say(f"chat: {len(requests)} spoken questions")
    completions = chat.engine.generate_all(requests, lambda made, total: tracker.progress(made, total, "chat: replies"))
    replies = [chat.read(completion.token_ids, completion.finish_reason == "stop") for completion in completions]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(inputs.folder("speech_tokenizer", "model"), device)
    heard = tokenizer.transcribe(
        [torch.tensor(reply.codes, dtype=torch.int64) for reply in replies], [question.language for question in asked]
    )
    answered = [
        Answered(question=question, text=reply.text, codes=reply.codes, heard=said, finished=reply.finished)
        for question, reply, said in zip(asked, replies, heard, strict=True)
    ]
    show(book, answered, speech, inputs, config)
    metrics = shares(answered) | {"dropped_without_speech_tokens": float(len(questions) - len(asked))}
    return Evaluation(scores=answer_scores(answered) + agreement_scores(answered), metrics=metrics)


def _turn(question: Question, speech: Speech) -> ChatTurn:
    return ChatTurn(role="user", text=question.question, codes=speech.tokens(question.question_utterance))


def holds_only(reply: str, answer: str, candidates: Sequence[str], language: str) -> bool:
    """Whether a reply names the answer and none of the other candidates, as whole words where there are words."""
    said = normalize_text(reply, language)
    return [name for name in candidates if _names(said, normalize_text(name, language), language)] == [answer]


def _names(said: str, name: str, language: str) -> bool:
    return name in said if language == "zh" else bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said))


def answer_scores(answered: Sequence[Answered]) -> list[ItemScore]:
    """Right answers in text and in speech, withheld and spoken facts apart."""
    questions = [item.question for item in answered]
    groups = [WITHHELD if question.withheld else SPOKEN for question in questions]
    majority = majority_credits([relation_of(item) for item in questions], [item.answer for item in questions])
    baselines = best_baseline([majority, [1.0 / len(item.candidates) for item in questions]], groups)
    return [
        ItemScore(
            id=item.id,
            task="reply",
            mode=mode,
            groups=[group],
            language=item.language,
            cluster=item.question.fact,
            score=float(holds_only(said, item.question.answer, item.question.candidates, item.language)),
            baseline=baseline,
            weight=1.0,
            reference=item.question.answer,
            answer=said,
        )
        for item, group, baseline in zip(answered, groups, baselines, strict=True)
        for mode, said in (("s_to_t", item.text), ("s_to_s", item.heard))
    ]


def agreement_scores(answered: Sequence[Answered]) -> list[ItemScore]:
    """Errors of the speech against the text of the same reply; replies without text have none."""
    scores = [
        error_score(item, task="reply", groups=["speech"], reference=item.text, answer=item.heard, beside=None)
        for item in answered
    ]
    return kept(scores)


def shares(answered: Sequence[Answered]) -> dict[str, float]:
    """Shares of replies that ended by themselves, and that have text and speech at all."""
    num = max(1, len(answered))
    return {
        "replies_finished": sum(item.finished for item in answered) / num,
        "replies_with_text": sum(bool(item.text.strip()) for item in answered) / num,
        "replies_with_speech": sum(bool(item.codes) for item in answered) / num,
    }


def show(
    book: SampleBook, answered: Sequence[Answered], speech: Speech, inputs: Inputs, config: EvaluateConfig
) -> None:
    """The first replies that have speech, with the question's sound and the reply through the speech decoder."""
    from components.speech_decoder.model import load

    decoder = load(inputs.folder("speech_decoder", "model"), "cuda" if torch.cuda.is_available() else "cpu")
    for item in [item for item in answered if item.codes][: config.num_samples]:
        question = item.question
        sounds: dict[str, Wave] = {
            "question": speech.wave(question.question_utterance),
            "reply": (decoder.decode(item.codes).numpy(), decoder.sample_rate_hz),
        }
        texts = {"question": question.question, "right": question.answer, "reply": item.text, "reply says": item.heard}
        title = "Question, fact withheld from speech" if question.withheld else "Question, fact also spoken"
        book.add(title, item.language, texts, sounds, key=item.id)
