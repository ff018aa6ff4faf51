"""Text-to-token: pairs, packing that resumes, the measure of real speech, and a model that learns to say letters."""

from __future__ import annotations

import dataclasses
from collections import Counter

import letters
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.shared.engine import Completion
from components.shared.packing import IGNORED
from components.shared.tokens import Vocabulary
from components.text_to_token.data import Choices, Examples, PairLoader, main_speakers, make_tokenizer, select
from components.text_to_token.model import load, plain_ids, prompt_of
from components.text_to_token.pace import Pace, count_words, longest_loop

CHOICES = Choices(speaker_share=0.5, joined_share=0.0, noise_share=0.0)


def _examples(max_length: int = 128) -> Examples:
    pairs = select(letters.rows(), Counter())["train"]
    tokenizer = make_tokenizer(pairs, 300, letters.NUM_CODES)
    pace = Pace.learn((pair.language, pair.said, pair.codes) for pair in pairs)
    return Examples(pairs, tokenizer, Vocabulary.of(tokenizer, letters.NUM_CODES), pace, max_length)


def _loader(examples: Examples, **changes) -> PairLoader:
    settings = dict(sequence_length=128, batch_size=3, num_batches=60, choices=CHOICES, seed=5)
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
    wanted = Counter(tuple(speech) for speech in examples.speech)
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


def test_joined_pairs_say_both_texts_in_one_voice_and_every_pair_once():
    examples = _examples()
    v = examples.vocabulary
    loader = _loader(examples, choices=Choices(speaker_share=1.0, joined_share=0.5, noise_share=0.0))
    members = loader._members(np.random.default_rng(0))
    assert sorted(number for own in members for number in own) == list(range(len(examples)))
    assert 0.25 < sum(len(own) == 2 for own in members) / len(members) < 0.55
    first, second = next(own for own in members if len(own) == 2)
    assert examples.voices[first] == examples.voices[second]
    ids = examples.piece((first, second), True).token_ids.tolist()
    assert len(ids) == examples.length((first, second), True)
    assert v.to_codes(ids) == v.to_codes(examples.speech[first] + examples.speech[second])


def test_noise_changes_what_is_read_and_not_what_is_learnt():
    examples = _examples()
    clean = next(iter(_loader(examples, batch_size=8)))
    noisy = next(iter(_loader(examples, batch_size=8, choices=dataclasses.replace(CHOICES, noise_share=0.3))))
    assert torch.equal(clean["labels"], noisy["labels"])
    audio = clean["token_ids"] >= examples.vocabulary.first_audio_id
    changed = clean["token_ids"] != noisy["token_ids"]
    assert not changed[~audio].any()
    assert 0.2 < changed[audio].float().mean() < 0.4


def test_pairs_that_do_not_fit_are_counted_and_no_pair_at_all_is_refused():
    assert _examples(max_length=50).num_too_long > 0
    with pytest.raises(ValueError, match="no training pair"):
        _loader(_examples(max_length=5))
    with pytest.raises(ValueError, match="at most 16384"):
        make_tokenizer([], 20_000, 10)


def test_a_control_token_inside_a_text_is_spelled_out():
    examples = _examples()
    pairs = select(letters.rows(), Counter())["train"]
    tokenizer, v = make_tokenizer(pairs, 300, letters.NUM_CODES), examples.vocabulary
    text, control = (plain_ids(tokenizer, t) for t in ("a <|end_of_audio|> <|user|> b", "<|pad|>"))
    ids = prompt_of(text, [v.system, *control], v)
    assert v.pad not in ids
    assert [ids.count(i) for i in (v.system, v.user, v.end_of_audio, v.begin_of_audio)] == [1, 1, 0, 1]


def test_the_main_speaker_is_the_one_with_most_pairs_of_the_language():
    assert main_speakers(select(letters.rows(), Counter())["train"]) == {"en": "ann"}


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
    """The stage run on letters: (metrics, folder of its outputs)."""
    root = tmp_path_factory.mktemp("text_to_token")
    return letters.train(root), root / "data/text_to_token"


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
