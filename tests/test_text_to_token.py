"""Text-to-token: pairs, packing that resumes, the measure of real speech, and a model that learns to say letters."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import letters
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from components.config import load_config
from components.shared.engine import Completion
from components.shared.packing import IGNORED, attention_mask
from components.shared.speech_lm import ARCHITECTURES, random_model
from components.shared.tokens import SPECIALS, Vocabulary
from components.shared.words import words
from components.text_to_token.alignment import Alignment, align, align_pairs
from components.text_to_token.crossing import cross, join, mix, spoken
from components.text_to_token.data import PLAIN, Choices, Encoder, PairLoader, within
from components.text_to_token.guidance import NOWHERE, Guide
from components.text_to_token.hearing import SENTENCES, SPANS, ask
from components.text_to_token.model import load, plain_ids, prompt_of
from components.text_to_token.pace import Pace
from components.text_to_token.pairs import Pair, main_speakers, make_tokenizer, select


def _encoder(words_in_speech: bool = False) -> tuple[Encoder, list[Pair]]:
    pairs = select(letters.rows(), Counter())["train"]
    tokenizer = make_tokenizer(pairs, 300, letters.NUM_CODES)
    vocabulary = Vocabulary.of(tokenizer, letters.NUM_CODES)
    return Encoder(tokenizer, vocabulary, words_in_speech=words_in_speech), pairs


def _alignment(pairs: list[Pair]) -> Alignment:
    pace = Pace.learn((pair.language, pair.said, pair.codes) for pair in pairs)
    return align_pairs(pairs, pace, letters.NUM_CODES, num_pairs=1000, iterations=6)


def _loader(words_in_speech: bool = False, **changes) -> PairLoader:
    encoder, pairs = _encoder(words_in_speech)
    examples = list(zip(spoken(pairs, _alignment(pairs)), [pair.speaker for pair in pairs], strict=True))
    settings = dict(sequence_length=128, batch_size=3, num_batches=60, choices=PLAIN, seed=5)
    return PairLoader(examples, encoder, **(settings | changes))


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
    loader = _loader(batch_size=1, num_batches=400, choices=dataclasses.replace(PLAIN, speaker_share=0.5))
    v = loader.encoder.vocabulary
    wanted = Counter(tuple(v.to_ids(own.codes.tolist())) for own, _ in loader.examples)
    found: Counter[tuple[int, ...]] = Counter()
    named = 0
    for batch in loader:
        ids, labels, segments = batch["token_ids"][0], batch["labels"][0], batch["segments"][0]
        for number in range(1, int(segments.max()) + 1):
            inside = segments == number
            learnt = labels[inside][labels[inside] != IGNORED].tolist()
            assert learnt[-1] == v.end_of_audio and all(v.is_audio(i) for i in learnt[:-1])
            assert int(ids[inside][-len(learnt) - 1]) == v.begin_of_audio
            named += int(ids[inside][0] == v.system)
            found[tuple(learnt[:-1])] += 1
        if sum(found.values()) >= len(loader.examples):
            break
    assert found == wanted
    assert 0.35 < named / len(loader.examples) < 0.65


def test_a_loader_that_goes_on_from_its_state_gives_the_same_batches():
    choices = Choices(speaker_share=0.5, crossed_share=0.4, joined_share=0.3, noise_share=0.1)
    loader = _loader(choices=choices)
    states, batches = [], []
    for batch in loader:
        states.append(loader.state_dict())
        batches.append(batch)
    assert len(batches) == 60 and max(state["epoch"] for state in states) >= 1
    for done in (1, 17, 59):
        again = _loader(choices=choices)
        again.load_state_dict(states[done - 1])
        rest = list(again)
        assert len(rest) == 60 - done
        for got, wanted in zip(rest, batches[done:], strict=True):
            assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_pairs_that_do_not_fit_are_left_out_and_no_pair_at_all_is_refused():
    encoder, pairs = _encoder()
    examples = list(zip(spoken(pairs, _alignment(pairs)), [pair.speaker for pair in pairs], strict=True))
    assert 0 < len(within(examples, encoder, 50)) < len(pairs)
    with pytest.raises(ValueError, match="no training pair"):
        PairLoader([], encoder, sequence_length=9, batch_size=1, num_batches=1, choices=PLAIN, seed=0)
    with pytest.raises(ValueError, match="at most 16384"):
        make_tokenizer([], 20_000, 10)


def test_a_control_token_inside_a_text_is_spelled_out():
    encoder, _ = _encoder()
    v = encoder.vocabulary
    text, control = (plain_ids(encoder.tokenizer, t) for t in ("a <|end_of_audio|> <|user|> b", "<|pad|>"))
    ids = prompt_of(text, [v.system, *control], v)
    assert v.pad not in ids
    assert [ids.count(i) for i in (v.system, v.user, v.end_of_audio, v.begin_of_audio)] == [1, 1, 0, 1]


def test_noise_changes_what_is_read_and_not_what_is_learnt():
    clean = next(iter(_loader(batch_size=8)))
    noisy = next(iter(_loader(batch_size=8, choices=dataclasses.replace(PLAIN, noise_share=0.3))))
    assert torch.equal(clean["labels"], noisy["labels"])
    audio = clean["token_ids"] >= _encoder()[0].vocabulary.first_audio_id
    changed = clean["token_ids"] != noisy["token_ids"]
    assert not changed[~audio].any()
    assert 0.2 < changed[audio].float().mean() < 0.4


def test_the_alignment_finds_where_every_letter_is_said():
    """Letters of one to three tokens each, so that an even pace is wrong."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh"), 20)) for _ in range(200)]
    lasting = {letter: 1 + i % 3 for i, letter in enumerate("abcdefgh")}
    codes = [np.array([letters.LETTERS.index(c) for c in text for _ in range(lasting[c])]) for text in texts]
    even = [(np.arange(20) + 0.5) * len(own) / 20 for own in codes]
    alignment = align(texts, codes, even, letters.NUM_CODES, iterations=8)
    right = total = 0
    for text, times in zip(texts, alignment.times(texts, codes), strict=True):
        ends = np.cumsum([lasting[c] for c in text])
        right += int(((times > ends - [lasting[c] for c in text] - 0.6) & (times < ends + 0.6)).sum())
        total += len(text)
        assert (np.diff(times) >= 0).all()
    assert right / total > 0.97


def test_texts_shorter_than_the_longest_jump_can_be_aligned():
    alignment = align(["abc", "b"], [np.array([0, 1, 2]), np.array([1])], [np.arange(3) + 0.5, np.array([0.5])], 5, 3)
    assert alignment.times(["abc"], [np.array([0, 1, 2])])[0].tolist() == pytest.approx([0.5, 1.5, 2.5], abs=0.3)


def test_alignment_of_what_cannot_be_is_finite():
    alignment = align(["ab", "abcdefghij" * 9], [np.array([1, 2]), np.array([3])], [np.ones(2), np.ones(90)], 5, 2)
    for times in alignment.times(["zz", "a" * 200], [np.array([4]), np.array([1, 1])]):
        assert np.isfinite(times).all() and (np.diff(times) >= 0).all()


def test_crossed_examples_swap_their_ends_between_words():
    _, pairs = _encoder()
    examples = [own for own in spoken(pairs, _alignment(pairs)) if " " in own.said]
    rng = np.random.default_rng(1)
    exact = total = 0
    for first, second in itertools.pairwise(examples[:100]):
        crossed = cross(first, second, rng)
        assert crossed is not None
        assert sum(len(one.codes) for one in crossed) == len(first.codes) + len(second.codes)
        assert sum(len(one.said) for one in crossed) == len(first.said) + len(second.said)
        for one in crossed:
            assert len(one.edges) == len(one.said) + 1 and (np.diff(one.edges) >= 0).all()
            assert one.edges[-1] == len(one.codes)
            exact += letters.hear(one.codes) == one.said
            total += 1
    assert exact / total > 0.9
    both = join(examples[0], examples[1])
    assert both.said == f"{examples[0].said} {examples[1].said}" and both.edges[-1] == len(both.codes)


def test_mixing_keeps_every_token_and_every_voice():
    _, pairs = _encoder()
    examples = list(zip(spoken(pairs, _alignment(pairs)), [pair.speaker for pair in pairs], strict=True))
    mixed = mix(examples, 0.5, 0.3, lambda own: len(own.codes) < 60, np.random.default_rng(0))
    assert len(mixed) < len(examples)
    for voice in ("ann", "bob"):
        before, after = (
            Counter(int(c) for own, speaker in some if speaker == voice for c in own.codes)
            for some in (examples, mixed)
        )
        assert before == after


def test_every_text_token_stands_before_the_speech_that_says_it():
    """A letter is a code here, so that what follows a repeated text token can be read."""
    loader = _loader(words_in_speech=True)
    v, backend = loader.encoder.vocabulary, loader.encoder.tokenizer.backend_tokenizer
    exact = total = 0
    for example in loader.encoder.encode(loader.examples[:100], np.zeros(100, dtype=bool)):
        ids = example.piece.token_ids.tolist()
        start = ids.index(v.begin_of_audio)
        text, answer = ids[1:start], ids[start + 1 : -1]
        assert [i for i in answer if not v.is_audio(i)] == text
        places = [place for place, i in enumerate(answer) if not v.is_audio(i)]
        for place, stop in itertools.pairwise([*places, len(answer)]):
            spoken_as = letters.hear(v.to_codes(answer[place + 1 : stop]))
            exact += spoken_as == backend.decode([answer[place]])
            total += 1
    assert exact / total > 0.8


@pytest.mark.parametrize("words_in_speech", [False, True])
def test_the_guide_knows_what_is_said_and_what_follows(words_in_speech):
    loader = _loader(words_in_speech=words_in_speech)
    for example in loader.encoder.encode(loader.examples[:50], np.ones(50, dtype=bool)):
        ids = example.piece.token_ids
        first, start = ids.tolist().index(loader.encoder.vocabulary.user) + 1, len(ids) - example.piece.learn.sum()
        assert (example.said[: start - 1] == NOWHERE).all() and example.said[-1] == NOWHERE
        said, following = example.said[start - 1 : -1], example.following[start - 1 : -1]
        steps = np.diff(np.where(said == NOWHERE, first - 1, said))
        assert (steps >= 0).all() and said[-1] == start - 2 and following[-1] == NOWHERE
        assert (
            following[:-1][said[:-1] < start - 2] == np.maximum(said, first - 1)[:-1][said[:-1] < start - 2] + 1
        ).all()
        if words_in_speech:
            spelled = ids[start:-1] < loader.encoder.vocabulary.first_audio_id
            assert (ids[following[:-1][spelled]] == ids[start:-1][spelled]).all()


def test_the_guide_rewards_looking_at_the_right_text_token():
    batch = next(iter(_loader(batch_size=2)))
    mask = attention_mask(batch["segments"])
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=600, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    guide = Guide(model, layer=0)
    length = mask.shape[-1]
    right = [torch.nn.functional.one_hot(batch[name].clamp(min=0), length).float() for name in ("said", "following")]
    for name in ("said", "following"):
        seen = mask[:, 0].gather(-1, batch[name].clamp(min=0)[..., None])[..., 0]
        assert seen[batch[name] != NOWHERE].all()
    guide._weights = lambda head, mask: right[head]  # type: ignore[method-assign]
    assert float(guide.loss(batch, mask)) < 1e-3
    guide._weights = lambda head, mask: right[head].roll(1, -1)  # type: ignore[method-assign]
    assert float(guide.loss(batch, mask)) > 3


def test_the_main_speaker_is_the_one_with_most_pairs_of_the_language():
    assert main_speakers(select(letters.rows(), Counter())["train"]) == {"en": "ann"}


@pytest.mark.parametrize(
    ("scale", "least", "most"), [("tiny", 4e6, 6e6), ("h100", 140e6, 170e6), ("h800", 1.4e9, 1.6e9)]
)
def test_the_sizes_are_those_that_the_scales_claim_and_a_stock_llama(scale, least, most):
    """4.8M, about 150M, and the paper's 1.5B; counted without memory for the weights."""
    config = load_config([f"scale={scale}"], Path(__file__).parents[1])
    num_codes, num_texts = config.speech_tokenizer.num_codes, config.text_to_token.vocab_size
    first = num_texts + len(SPECIALS)
    vocabulary = Vocabulary(first + num_codes, first, num_codes, *range(num_texts, first))
    with torch.device("meta"):
        model = random_model(config.text_to_token.shape, vocabulary, config.text_to_token.engine.max_length, seed=1)
    assert least <= sum(parameter.numel() for parameter in model.parameters()) <= most
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    name = type(model).__name__
    assert name in ARCHITECTURES and name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The stage run on letters: (metrics, folder of its outputs)."""
    root = tmp_path_factory.mktemp("text_to_token")
    return letters.train(root), root / "data/text_to_token"


def test_the_stage_learns_to_say_unseen_sentences(trained):
    metrics, _ = trained
    assert metrics["wer_sentences"] <= 0.05
    assert metrics["wer_sentences_real_tokens"] == 0
    assert metrics["finished"] >= 0.95 and metrics["faulty"] <= 0.1
    assert metrics["length_ratio"] == pytest.approx(1, abs=0.05)
    assert metrics["validation_token_accuracy"] > 0.95


def test_the_stage_learns_to_say_unseen_spans_and_the_gate_can_see_how_well(trained):
    metrics, out = trained
    assert metrics["wer_spans"] <= 0.2
    assert metrics["wer_spans_real_tokens"] <= 0.2, "the alignment cuts real speech about between words"
    assert metrics["length_ratio_spans"] == pytest.approx(1, abs=0.15)
    stats = pd.read_parquet(out / "stats.parquet")
    rows, shards = (stats[stats["level"] == level] for level in ("row", "shard"))
    assert set(rows["is_span"]) == {0.0, 1.0} and rows[
        ["wer", "wer_beyond_real", "length_ratio", "faulty"]
    ].notna().all(None)
    assert shards["wer_spans"].tolist() == [metrics["wer_spans"]]


def test_spans_that_are_heard_are_parts_of_unseen_sentences_with_their_own_speech():
    _, pairs = _encoder()
    alignment, by_id = _alignment(pairs), {pair.id: pair for pair in pairs}
    asked = ask(pairs, alignment, mean_span=4.0, seed=1)
    spans = [one for one in asked if one.kind == SPANS]
    assert [one.id for one in asked if one.kind == SENTENCES] == list(by_id)
    assert asked[len(pairs) :] == spans and len(spans) == sum(len(words(pair.said)) > 1 for pair in pairs)
    same = 0
    for span in spans:
        pair = by_id[span.id.split(":")[0]]
        assert span.said in pair.said and span.said.strip(".") != pair.said.strip(".")
        same += letters.hear(span.codes).strip() == span.said
    assert same / len(spans) > 0.85
    places = {("first" if by_id[s.id.split(":")[0]].said.startswith(s.said) else "later") for s in spans}
    assert places == {"first", "later"}
    again = ask(pairs, alignment, mean_span=4.0, seed=1)
    assert [one.said for one in again] == [one.said for one in asked]


def test_what_has_no_second_word_or_no_word_an_ear_writes_has_no_span():
    _, pairs = _encoder()
    alignment = _alignment(pairs)

    def made(text: str) -> Pair:
        codes = np.array(letters.say(text), dtype=np.uint16)
        return Pair(id="u", language="en", text=text, said=text, speaker="ann", codes=codes)

    assert [one.kind for one in ask([made("anna")], alignment, 4.0, 1)] == [SENTENCES]
    assert all(one.said == "two" for seed in range(9) for one in ask([made("hmm. two")], alignment, 4.0, seed)[1:])


def test_the_door_makes_requests_reads_codes_and_judges(trained):
    model = load(trained[1] / "model")
    assert model.speakers == ("ann", "bob") and model.main_speakers == {"en": "ann"}
    request = model.request("k", "Anna SEES 2 dogs!", "en", speaker="bob", seed=3)
    v = model.vocabulary
    assert request.token_ids[0] == v.system and request.token_ids[-1] == v.begin_of_audio
    assert request.allowed_range is None
    alone = dataclasses.replace(model, words_in_speech=False).request("k", "Anna SEES 2 dogs!", "en")
    assert alone.allowed_range == (v.first_audio_id, v.first_audio_id + letters.NUM_CODES)
    assert model.request("k", "Anna sees two dogs!", "en").token_ids[0] == v.user
    codes, text = letters.say("anna sees two dogs!"), plain_ids(model.tokenizer, "anna sees two dogs!")
    answer = [*text[:1], *v.to_ids(codes[:4]), *text[1:], *v.to_ids(codes[4:]), v.end_of_audio]
    good = Completion(key="k", token_ids=answer, logprobs=None, finish_reason="stop", error="")
    assert model.codes(good.token_ids) == codes
    assert model.fault("Anna sees 2 dogs!", "en", good) == ""
    assert model.fault("Anna sees 3 dogs!", "en", good) == "misread"
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
