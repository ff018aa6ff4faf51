"""dialogues: exchanges are found in texts, withheld facts stay out, every turn is spoken and says where from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.dialogues.config import DialoguesConfig
from components.dialogues.exchanges import Exchange, FactIndex, closed_world, open_domain, written
from components.dialogues.stage import run
from components.shared.contracts import Dialogue, Fact, SpeechTokens, Text
from components.shared.manifest import read_manifest, read_table, write_table
from components.shared.tracking import TerminalTracker
from tests.letters import engine_config, rows, train, utterance
from tests.speech_rows import places, text_row

CONFIG = DialoguesConfig(
    seed=3,
    closed_world="closed_world",
    open_domain=["chats"],
    files=[],
    num_closed_world=12,
    num_open_domain=4,
    second_exchange_share=0.5,
    max_turn_chars=80,
    validation_share=0.2,
    temperature=0.0,
    keep_faulty=False,
    engine=engine_config(),
)


def fact(number: int, subject: str, thing: str, withheld: bool = False, relation: str = "likes") -> Fact:
    return Fact(
        id=f"en-{relation}-{number}", language="en", subject=subject, relation=relation, object=thing, withheld=withheld
    )


FACTS = [
    fact(0, "Anna", "two dogs"),
    fact(1, "Anna Baker", "the old boat"),
    fact(2, "Bert", "some bread", withheld=True),
    fact(3, "Carla", "a red house"),
    fact(4, "Anna", "rome", relation="sees"),
]


def test_of_nested_names_only_the_longest_is_meant() -> None:
    index = FactIndex(FACTS)
    assert [f.id for f in index.stated("Anna Baker paints the old boat.", "en")] == ["en-likes-1"]
    assert [f.id for f in index.stated("Anna paints two dogs.", "en")] == ["en-likes-0"]
    assert index.stated("Annabel paints two dogs.", "en") == []


def test_questions_get_a_statement_as_their_answer() -> None:
    texts = [
        text_row("a", "What does Anna like? Two dogs. Where is Anna? Rome."),
        text_row("b", "Anna likes two dogs at home. Bert likes some bread."),
        text_row("c", "What does Bert like? Some bread. What does Carla like? A red house."),
    ]
    found = {fact_id: exchanges for fact_id, (_, exchanges) in closed_world(texts, FactIndex(FACTS)).items()}
    assert found == {
        "en-likes-0": [Exchange("What does Anna like?", "Anna likes two dogs at home.")],
        "en-sees-4": [Exchange("Where is Anna?", "Rome.")],
        "en-likes-3": [Exchange("What does Carla like?", "A red house.")],
    }


def test_conversations_are_a_question_and_the_reply_to_it() -> None:
    texts = [
        text_row("a", "Are you well? I am fine. I slept all night. And you? Good."),
        text_row("b", "Nobody asks here. So there is no answer."),
        text_row("c", "Is there more?"),
    ]
    drafts = list(open_domain(texts, max_turn_chars=30))
    assert [draft.exchanges for draft in drafts] == [(Exchange("Are you well?", "I am fine. I slept all night."),)]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-token model of the letters, and texts whose answers are partly among its utterances."""
    root = tmp_path_factory.mktemp("dialogues")
    train(root)
    annas = [row.text for row in rows() if row.text and row.text.startswith("Anna")]
    dogs = next(text for text in annas if text.endswith("two dogs at home."))
    rome = next(text for text in annas if text.endswith("in rome.") and "dogs" not in text)
    texts = [
        text_row("a", f"Anna likes? {dogs} Anna paints? {rome}"),
        text_row("b", "Carla paints? Carla paints a red house at home."),
        text_row("c", "Bert likes? Bert likes some bread. Bert sees? Carla sees a red house. Bert likes some bread."),
        text_row("d", "Bert sees two dogs? Anna sees the old boat in rome.", corpus="chats"),
        text_row("e", "Anna sees Bert? Bert likes some bread at home.", corpus="chats"),
        text_row("f", "Dino likes? 你好，你好吗。", corpus="chats"),
    ]
    questions = [
        "Anna likes?",
        "Anna paints?",
        "Carla paints?",
        "Bert sees two dogs?",
        "Anna sees Bert?",
        "Dino likes?",
    ]
    asked = [utterance(5000 + i, question) for i, question in enumerate(questions)]
    extra = read_manifest(root / "data" / "tokenize" / "tokens").extra
    write_table(root / "data" / "tokenize" / "tokens", [*rows(), *asked], SpeechTokens, extra=extra)
    write_table(root / "data" / "collect" / "texts", texts, Text)
    write_table(root / "data" / "collect" / "facts", FACTS, Fact)
    return root


def made(root: Path, config: DialoguesConfig = CONFIG) -> tuple[list[Dialogue], dict[str, float]]:
    inputs, outputs = places(root, "dialogues")
    metrics = run(config, inputs, outputs, TerminalTracker())
    outputs.publish(metrics)
    return list(read_table(root / "data" / "dialogues" / "dialogues", Dialogue)), metrics


def test_every_turn_is_spoken_and_says_where_its_tokens_come_from(spoken: Path) -> None:
    dialogues, metrics = made(spoken)
    turns = [turn for row in dialogues for turn in row.turns]
    assert {turn.origin for turn in turns} == {"synthesized", "text_to_token"}
    assert all(turn.tokens for turn in turns)
    assert [turn.role for turn in dialogues[0].turns][:2] == ["user", "assistant"]
    assert any(len(row.turns) == 4 for row in dialogues)
    assert {row.split for row in dialogues} == {"train", "validation"}
    assert metrics["num_dialogues"] == len(dialogues)
    assert 0 < metrics["generated_share"] < 1
    assert made(spoken)[0] == dialogues


def test_no_dialogue_speaks_of_a_withheld_fact(spoken: Path) -> None:
    dialogues, metrics = made(spoken)
    assert metrics["dropped_withheld"] == 1  # the conversation e
    for row in dialogues:
        said = " ".join(turn.text for turn in row.turns).lower()
        assert not ("bert" in said and "some bread" in said)


def test_what_the_model_cannot_say_is_dropped_and_counted(spoken: Path) -> None:
    _, metrics = made(spoken)
    assert metrics["dropped_language"] == 1  # the conversation f


def test_dialogues_of_a_file_are_added(spoken: Path, tmp_path: Path) -> None:
    turns = [
        {"role": "system", "text": "x"},
        {"role": "user", "text": "Dino sees two dogs at home."},
        {"role": "assistant", "text": "Dino sees the old boat at home."},
    ]
    (tmp_path / "mine.jsonl").write_text(json.dumps({"id": 7, "language": "en", "turns": turns}) + "\n")
    dialogues, _ = made(spoken, replace(CONFIG, files=[str(tmp_path / "mine.jsonl")]))
    assert dialogues[-1].id == "mine-7"


def test_a_malformed_file_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"language": "en", "turns": [{"role": "assistant", "text": "hi"}]}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl:1: no dialogue: got roles \['assistant'\]"):
        list(written(bad))
