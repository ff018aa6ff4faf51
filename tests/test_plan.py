"""The plan of a big run: arithmetic that closes, rates with their sources, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.config import load_config
from components.shared.rates import Rates
from components.synthesize.plan import main, report, steps, volumes

ROOT = Path(__file__).resolve().parents[1]
RATES = Rates(ROOT / "docs/rates.yaml")


@pytest.fixture(scope="module")
def config():
    return load_config(["scale=h800"], ROOT).synthesize


def test_the_volumes_are_the_tokens_in_the_shares_of_the_languages(config):
    english, mandarin = volumes(config, 6e11, RATES)
    assert english.tokens + mandarin.tokens == pytest.approx(6e11)
    assert english.tokens == pytest.approx(2 * mandarin.tokens)
    for volume in (english, mandarin):
        text = (1 - config.ratio) * volume.units * RATES.of("languages", volume.language, "text_tokens_per_unit")
        assert text + volume.speech_tokens == pytest.approx(volume.tokens)


def test_twice_the_tokens_cost_twice_and_a_faster_engine_costs_less(config, tmp_path):
    once, twice = (steps(config, volumes(config, tokens, RATES), RATES) for tokens in (1e9, 2e9))
    for one, two in zip(once, twice, strict=True):
        for cost in ("gpu_hours", "core_hours", "stored_bytes"):
            assert getattr(two, cost) == pytest.approx(2 * getattr(one, cost))
    text = (ROOT / "docs/rates.yaml").read_text().replace("value: 25000", "value: 50000")
    (tmp_path / "rates.yaml").write_text(text)
    faster = {step.name: step for step in steps(config, volumes(config, 1e9, RATES), Rates(tmp_path / "rates.yaml"))}
    name = "synthesize: speech tokens"
    slower = {step.name: step for step in once}
    assert faster[name].gpu_hours == pytest.approx(slower[name].gpu_hours / 2)


def test_the_page_shows_what_the_command_prints(config):
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert report(config, config.target_tokens, 64, 256, RATES) in page


def test_every_rate_says_where_it_is_from():
    def leaves(node):
        return [node] if "value" in node else [leaf for child in node.values() for leaf in leaves(child)]

    assert all(leaf.get("source") for leaf in leaves(RATES.values))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("a: [", "not YAML"),
        ("said_again_share: {value: 0.1}", r"said_again_share: got .* wanted \{value"),
        ("said_again_share: {value: -1, source: x}", "said_again_share: got -1, wanted a number of 0 or more"),
        ("generated_per_gpu_s: {value: 0, source: x}", "generated_per_gpu_s: got 0, wanted a number above 0"),
    ],
)
def test_rates_that_cannot_be_used_are_refused(tmp_path, content, message):
    path = tmp_path / "rates.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        rates = Rates(path)
        rates.of(next(iter(rates.values)))


def test_a_plan_for_no_machine_is_refused():
    with pytest.raises(ValueError, match=r"--gpus 0 .* wanted numbers above 0"):
        main(["--gpus", "0"])
