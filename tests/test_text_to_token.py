"""Text-to-token: pairs, packing that resumes, the measure of real speech, and a model that learns to say letters."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import letters
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts import SpeechTokens
from components.shared.engine import Completion, EngineConfig, EngineKind
from components.shared.lm_config import LmShapeConfig, OptimizerConfig
from components.shared.manifest import seal, write_table
from components.shared.packing import IGNORED
from components.shared.places import Inputs, Outputs
from components.shared.tokens import Vocabulary
from components.shared.tracking import TerminalTracker
from components.shared.training_config import TrainerConfig
from components.text_to_token.config import TextToTokenConfig
from components.text_to_token.data import Examples, PairLoader, main_speakers, make_tokenizer, select
from components.text_to_token.model import load, prompt_ids
from components.text_to_token.pace import Pace, count_words, longest_loop
from components.text_to_token.stage import run


def _config(**changes) -> TextToTokenConfig:
    config = TextToTokenConfig(
        seed=1,
        speaker_share=0.5,
        label_smoothing=0.0,
        vocab_size=300,
        shape=LmShapeConfig(
            hidden_size=64,
            feed_forward_size=128,
            num_layers=2,
            num_heads=4,
            num_key_value_heads=2,
            rope_theta=1e4,
            init_std=0.05,
            tied=True,
            pad_vocabulary_to=64,
        ),
        optimizer=OptimizerConfig(peak_lr=5e-3, final_lr=5e-4, warmup_steps=5, weight_decay=0.0, beta1=0.9, beta2=0.95),
        sequence_length=128,
        batch_size=8,
        trainer=TrainerConfig(
            num_steps=80,
            precision="32-true",
            gradient_clip=1.0,
            accumulate_batches=1,
            log_every_steps=20,
            validate_every_steps=80,
            checkpoint_every_steps=40,
        ),
        temperature=0.0,
        top_p=1.0,
        num_validation=20,
        engine=EngineConfig(
            kind=EngineKind.transformers,
            model="",
            dtype="float32",
            max_batch=8,
            max_length=256,
            max_tokens=1024,
            num_threads=1,
            logprobs=False,
        ),
    )
    return dataclasses.replace(config, **changes)


def _rows() -> list[SpeechTokens]:
    train = [letters.utterance(i, text) for i, text in enumerate(letters.sentences(200, seed=0))]
    unseen = sorted(set(letters.sentences(200, seed=1)) - {row.text for row in train})
    return train + [letters.utterance(1000 + i, text, split="validation") for i, text in enumerate(unseen)]


def _examples(max_length: int = 128) -> Examples:
    pairs = select(_rows(), Counter())["train"]
    tokenizer = make_tokenizer(pairs, 300, letters.NUM_CODES)
    return Examples(pairs, tokenizer, Vocabulary.of(tokenizer, letters.NUM_CODES), max_length)


def _loader(examples: Examples, **changes) -> PairLoader:
    settings = dict(sequence_length=128, batch_size=3, num_batches=60, speaker_share=0.5, seed=5)
    return PairLoader(examples, **(settings | changes))


def test_only_human_text_of_train_and_validation_is_learnt_from_and_the_rest_is_counted():
    rows = [
        letters.utterance(0, "Anna sees two dogs."),
        letters.utterance(1, None),
        letters.utterance(2, "heard by a machine", text_source="pseudo"),
        letters.utterance(3, "never seen", split="test"),
        letters.utterance(4, "😀 …", tokens=[1]),
        letters.utterance(5, "no tokens", tokens=[]),
        letters.utterance(6, "Bert likes bread.", split="validation"),
    ]
    dropped: Counter[str] = Counter()
    pairs = select(rows, dropped)
    assert {split: [pair.id for pair in found] for split, found in pairs.items()} == {
        "train": ["u0000"],
        "validation": ["u0006"],
    }
    assert dropped == {"unspeakable": 1, "no_tokens": 1}


def test_every_pair_is_packed_once_an_epoch_and_only_its_speech_is_learnt():
    examples = _examples()
    v = examples.vocabulary
    wanted = Counter(tuple(speech[:-1]) for speech in examples.speech)
    found: Counter[tuple[int, ...]] = Counter()
    named = 0
    for batch in _loader(examples, batch_size=1, num_batches=200):
        ids, labels, segments = batch["token_ids"][0], batch["labels"][0], batch["segments"][0]
        for number in range(1, int(segments.max()) + 1):
            inside = segments == number
            learnt = labels[inside][labels[inside] != IGNORED].tolist()
            assert learnt[-1] == v.end_of_audio and all(v.is_audio(i) for i in learnt[:-1])
            assert int(ids[inside][-len(learnt) - 1]) == v.begin_of_audio
            named += int(ids[inside][0] == v.system)
            found[tuple(learnt[:-1])] += 1
        if sum(found.values()) >= len(examples):
            break
    assert found == wanted
    assert 0.35 < named / len(examples) < 0.65


def test_a_loader_that_goes_on_from_its_state_gives_the_same_batches():
    examples = _examples()
    batches = list(_loader(examples))
    for position in (1, 17, 59):
        again = _loader(examples)
        again.load_state_dict({"position": position})
        rest = list(again)
        assert len(rest) == 60 - position
        assert all(torch.equal(a["token_ids"], b["token_ids"]) for a, b in zip(rest, batches[position:], strict=True))


def test_pairs_that_do_not_fit_are_counted_and_no_pair_at_all_is_refused():
    assert _examples(max_length=50).num_too_long > 0
    with pytest.raises(ValueError, match="no training pair"):
        _loader(_examples(max_length=5))
    with pytest.raises(ValueError, match="at most 16384"):
        make_tokenizer([], 20_000, 10)


def test_a_control_token_inside_a_text_is_spelled_out():
    examples = _examples()
    pairs = select(_rows(), Counter())["train"]
    tokenizer, v = make_tokenizer(pairs, 300, letters.NUM_CODES), examples.vocabulary
    ids = prompt_ids(tokenizer, v, "a <|end_of_audio|> <|user|> b", "<|system|>")
    assert [ids.count(i) for i in (v.system, v.user, v.end_of_audio, v.begin_of_audio)] == [1, 1, 0, 1]


def test_the_main_speaker_is_the_one_with_most_pairs_of_the_language():
    assert main_speakers(select(_rows(), Counter())["train"]) == {"en": "ann"}


@given(st.lists(st.integers(0, 3), max_size=40))
def test_loops_are_found_as_a_search_by_hand_finds_them(codes):
    best = 0
    for period in range(1, 7):
        for start in range(len(codes)):
            stop = start + period
            while stop < len(codes) and codes[stop] == codes[stop - period]:
                stop += 1
            if stop - start >= 2 * period and stop <= len(codes):
                best = max(best, stop - start)
    assert longest_loop(np.array(codes, dtype=np.uint16)) == best


def test_real_speech_has_no_fault_and_what_cannot_be_speech_has_one():
    rng = np.random.default_rng(0)
    texts = [speech for speech in letters.sentences(300, seed=3)]
    said = [text.lower()[: rng.integers(8, 40)] for text in texts]
    pace = Pace.learn(("en", text, np.array(letters.say(text))) for text in said)
    faults = [pace.fault(text, "en", letters.say(text)) for text in said]
    assert sum(bool(fault) for fault in faults) <= 3
    text = "anna sees two dogs"
    assert pace.expected(text, "en") == pytest.approx(len(letters.say(text)), rel=0.1)
    assert pace.fault(text, "en", [1, 2]) == "too_short"
    assert pace.fault(text, "en", list(range(28)) * 2) == "too_long"
    assert pace.fault(text, "en", [1, 2, 3] * 6) == "loop"
    assert Pace.from_json(pace.to_json()) == pace
    with pytest.raises(ValueError, match="got language 'fr'"):
        pace.fault(text, "fr", [1])


def test_words_are_counted_ideographs_one_by_one():
    assert count_words("hello, two worlds!") == 3
    assert count_words("我有两个 iphone.") == 5
    assert count_words(", .") == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The stage run on letters with an ear that reads them back: (metrics, folder of outputs)."""
    root = tmp_path_factory.mktemp("text_to_token")
    tokens = root / "data/tokenize/tokens"
    write_table(tokens, _rows(), SpeechTokens, extra={"num_codes": letters.NUM_CODES, "tokens_per_s": 12.5})
    ear = root / "data/speech_tokenizer/model"
    ear.mkdir(parents=True)
    seal(ear)
    outputs = Outputs(root=root / "out", work=root / "work")
    with pytest.MonkeyPatch.context() as patch:
        import components.speech_tokenizer.model as door

        heard = SimpleNamespace(transcribe=lambda codes, languages=None: [letters.hear(c.tolist()) for c in codes])
        patch.setattr(door, "load", lambda path: heard)
        metrics = run(_config(), Inputs(root / "data"), outputs, TerminalTracker())
    outputs.publish(metrics)
    return metrics, root / "out"


def test_the_stage_learns_to_say_unseen_sentences(trained):
    metrics, out = trained
    assert metrics["wer_en"] <= 0.05
    assert metrics["wer_en_real_tokens"] == 0
    assert metrics["finished"] >= 0.95 and metrics["faulty"] <= 0.1
    assert metrics["length_ratio"] == pytest.approx(1, abs=0.05)
    assert metrics["validation_token_accuracy"] > 0.95
    assert (out / "stats.parquet").is_file()


def test_the_door_makes_requests_reads_codes_and_judges(trained):
    model = load(trained[1] / "model")
    assert model.speakers == ("ann", "bob") and model.main_speakers == {"en": "ann"}
    request = model.request("k", "Anna SEES 2 dogs!", "en", speaker="bob", seed=3)
    v = model.vocabulary
    assert request.token_ids[0] == v.system and request.token_ids[-1] == v.begin_of_audio
    assert request.allowed_range == (v.first_audio_id, v.first_audio_id + letters.NUM_CODES)
    assert model.request("k", "Anna sees two dogs!", "en").token_ids[0] == v.user
    codes = letters.say("anna sees two dogs!")
    good = Completion(key="k", token_ids=v.to_ids(codes), logprobs=None, finish_reason="stop", error="")
    assert model.codes(good.token_ids) == codes
    assert model.fault("Anna sees 2 dogs!", "en", good) == ""
    assert model.fault("Anna sees 2 dogs!", "en", dataclasses.replace(good, finish_reason="length")) == "unfinished"
    assert model.fault("Anna sees 2 dogs!", "en", dataclasses.replace(good, finish_reason="error")) == "refused"
    with pytest.raises(ValueError, match="nothing to say"):
        model.request("k", "😀", "en")
    with pytest.raises(ValueError, match="got speaker 'eve'"):
        model.request("k", "hello", "en", speaker="eve")
    with pytest.raises(ValueError, match="got language 'zh'"):
        model.request("k", "你好", "zh")


def test_a_folder_without_its_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no speech\.json"):
        load(tmp_path)
