"""Settings of a small evaluation, and a question for it."""

from __future__ import annotations

from letters import engine_config

from components.evaluate.config import EvaluateConfig, Ranking, Split
from components.shared.contracts import Question

LEVEL = 0.95


def question(number: int, answer: str, relation: str, withheld: bool) -> Question:
    candidates = ["Oslo", "Bern", "Rome", "Bonn"]
    return Question(
        id=f"q{number}",
        language="en",
        question=f"Where does person {number} live?",
        answer=answer,
        candidates=candidates,
        relation=relation,
        fact=f"f{number}",
        withheld=withheld,
        question_utterance=f"u-q{number}",
        candidate_utterances=[f"u-{name}" for name in candidates],
        split="test",
    )


def config(**changes) -> EvaluateConfig:
    values = {
        "seed": 3,
        "split": Split.test,
        "level": LEVEL,
        "start": "",
        "judges": {},
        "story_ranking": Ranking.mean,
        "question_ranking": Ranking.mean,
        "mean_span": 10.0,
        "temperature": 0.0,
        "engine": engine_config(),
        "num_utterances": 4,
        "num_sentences": 4,
        "num_stories": 50,
        "num_questions": 50,
        "num_replies": 4,
        "max_reply_tokens": 64,
        "num_decoded": 2,
        "num_samples": 2,
    }
    return EvaluateConfig(**(values | changes))
