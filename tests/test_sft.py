"""sft: the published chat format, loss on the answers alone, replies taken apart as they come."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from components.pretrain.stage import run as run_pretrain
from components.sft.config import SftConfig
from components.sft.data import ChatLoader, batches_of, read_chats
from components.sft.model import ChatTurn, Splitter, load
from components.sft.stage import run
from components.shared.contracts import Dialogue, Turn
from components.shared.formats import AUDIO_RUN, CHAT_MODE, TEXT_RUN, Formats
from components.shared.manifest import write_table
from components.shared.packing import IGNORED
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from components.shared.tracking import TerminalTracker
from tests.speech_rows import NUM_CODES, places, say, write_world
from tests.test_mix import CONFIG as MIX
from tests.test_pretrain import CONFIG as PRETRAIN
from tests.test_pretrain import Curves

SYSTEM = "Be kind."
CONFIG = SftConfig(
    seed=17,
    system=SYSTEM,
    written_share=0.5,
    num_epochs=3,
    sequence_length=160,
    batch_sequences=2,
    loss_chunk=64,
    compute=PRETRAIN.compute,
    optimizer=replace(PRETRAIN.optimizer, peak_lr=5e-3),
    trainer=replace(PRETRAIN.trainer, num_steps=0),
    num_threads=1,
)


@pytest.fixture(scope="module")
def formats() -> Formats:
    tokenizer = add_speech(train_bpe(["what pet does anna have a dog is the pet of anna"] * 3, 320), NUM_CODES)
    return Formats(tokenizer, Vocabulary.of(tokenizer, NUM_CODES))


def turn(role: str, text: str, codes: list[int] | None = None) -> ChatTurn:
    return ChatTurn(role=role, text=text, codes=codes or [])


def dialogue(number: int, split: str = "train") -> Dialogue:
    texts = {"user": f"What pet does Anna {number} have?", "assistant": "Anna has a dog."}
    turns = [Turn(role=role, text=text, tokens=say(text), origin="text_to_token") for role, text in texts.items()]
    return Dialogue(id=f"d{number}", language="en", turns=turns, fact="", split=split)


def test_a_chat_is_in_the_published_format(formats: Formats) -> None:
    ids, _ = formats.chat([turn("system", SYSTEM), turn("user", "", [1, 2]), turn("assistant", "A dog.", [3, 4])])
    shown = formats.show(ids)
    asked = "<|begin_of_audio|><|audio_1|><|audio_2|><|end_of_audio|>"
    assert shown == (
        f"<|system|>\n{SYSTEM}<|user|>\n{asked}<|assistant|>{CHAT_MODE}A dog.<|audio_3|><|audio_4|><|user|>"
    )
    prompt = formats.chat_prompt([turn("system", SYSTEM), turn("user", "Hello")])
    assert formats.show(prompt) == f"<|system|>\n{SYSTEM}<|user|>\nHello<|assistant|>{CHAT_MODE}"


def test_only_answers_and_the_stop_token_are_learnt(formats: Formats) -> None:
    turns = [
        turn("system", SYSTEM),
        turn("user", "", say("what")),
        turn("assistant", "A dog.", say("adog")),
        turn("user", "and"),
        turn("assistant", "A cat.", say("acat")),
    ]
    ids, learn = formats.chat(turns)
    learnt = formats.show([i for i, flag in zip(ids, learn, strict=True) if flag])
    audio = ["".join(f"<|audio_{code}|>" for code in say(word)) for word in ("adog", "acat")]
    assert learnt == f"A dog.{audio[0]}<|user|>A cat.{audio[1]}<|user|>"
    assert ids.count(formats.vocabulary.user) == 3  # the stop of an answer opens the next turn


def test_text_and_audio_alternate_thirteen_to_twenty_six(formats: Formats) -> None:
    text = "what pet does anna have " * 6
    codes = [i % NUM_CODES for i in range(90)]
    answer = formats.answer(text, codes)
    kinds = [(is_audio, len(list(run))) for is_audio, run in itertools.groupby(answer, formats.vocabulary.is_audio)]
    assert kinds[0] == (False, TEXT_RUN) and kinds[1] == (True, AUDIO_RUN)
    assert sum(length for is_audio, length in kinds if is_audio) == 90


@pytest.mark.parametrize("num_codes", [0, 3, 26, 200])
@pytest.mark.parametrize("text", ["", "A dog.", "what pet does anna have 你好 " * 4])
def test_an_answer_comes_apart_as_it_went_together(formats: Formats, text: str, num_codes: int) -> None:
    codes = [i % NUM_CODES for i in range(num_codes)]
    answer = formats.answer(text, codes)
    splitter = Splitter(formats)
    parts = [splitter.push([token]) for token in answer]
    assert "".join(part.text for part in parts) == text
    assert [code for part in parts for code in part.codes] == codes


@pytest.mark.parametrize(
    "turns", [[("assistant", "hi")], [("user", "a"), ("user", "b")], [("user", "a"), ("system", "b")], [("robot", "a")]]
)
def test_turns_out_of_order_are_refused(formats: Formats, turns: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"chat: turn \d"):
        formats.chat([turn(*one) for one in turns])


def test_a_prompt_must_end_with_the_user(formats: Formats) -> None:
    with pytest.raises(ValueError, match="last turn of 'assistant', wanted 'user'"):
        formats.chat_prompt([turn("user", "a"), turn("assistant", "b")])


def test_every_epoch_holds_every_chat_once_and_resumes(formats: Formats) -> None:
    chats = read_chats([dialogue(i) for i in range(11)], formats, SYSTEM, 0.5, 160, seed=1)
    assert len(chats.pieces) == 11 and {piece.source for piece in chats.pieces} == {0, 1}
    loader = ChatLoader(chats, 160, 0, 2, batches_of(chats, 160, 2, 1, 2), seed=1)
    for epoch in range(2):
        assert sorted(i for one in loader.packed(epoch) for i in one) == list(range(11))
    batches = list(loader)
    assert len(batches) == len(loader)
    learnt = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    assert learnt == 2 * chats.num_learnt
    resumed = ChatLoader(chats, 160, 0, 2, len(loader), seed=1)
    resumed.load_state_dict({"position": len(loader) - 2})
    for ours, theirs in zip(resumed, batches[-2:], strict=True):
        assert ours["token_ids"].equal(theirs["token_ids"])


def test_a_dialogue_longer_than_a_sequence_is_counted(formats: Formats) -> None:
    assert read_chats([dialogue(0)], formats, SYSTEM, 0.0, 30, seed=1).dropped_long == 1


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from components.mix.stage import run as run_mix

    root = tmp_path_factory.mktemp("sft")
    write_world(root / "data")
    inputs, outputs = places(root, "mix")
    outputs.publish(run_mix(MIX, inputs, outputs, TerminalTracker()))
    inputs, outputs = places(root, "pretrain")
    config = replace(PRETRAIN, trainer=replace(PRETRAIN.trainer, num_steps=3))
    outputs.publish(run_pretrain(config, inputs, outputs, TerminalTracker()))
    dialogues = [dialogue(i, "validation" if i % 8 == 7 else "train") for i in range(24)]
    write_table(root / "data" / "dialogues" / "dialogues", dialogues, Dialogue)
    inputs, outputs = places(root, "sft")
    tracker = Curves()
    metrics = run(CONFIG, inputs, outputs, tracker)
    outputs.publish(metrics)
    assert tracker.losses[max(tracker.losses)] < tracker.losses[1]
    assert metrics["epochs"] == 3 and "validation_loss_spoken_source" in metrics
    return root / "data" / "sft" / "model"


def test_a_reply_streams_what_it_says_whole(chat_folder: Path) -> None:
    chat = load(chat_folder)
    asked = [turn("user", "", say("What pet does Anna have?"))]
    whole = chat.reply(asked, max_new_tokens=40)
    parts = list(chat.reply(asked, stream=True, max_new_tokens=40))
    assert "".join(part.text for part in parts) == whole.text
    assert [code for part in parts for code in part.codes] == whole.codes
    assert parts[-1].finished == whole.finished
    assert all(0 <= code < NUM_CODES for code in whole.codes)


def test_a_folder_that_is_no_chat_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no chat\.json"):
        load(tmp_path)
