"""A gate lets good statistics pass and says of bad ones which rule, how many of how many, and where to look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.config import SCALES, load_config
from components.entry import QualityError
from components.shared import checks
from components.shared.checks import apply, main, run_check
from components.shared.checks_config import Level, Rule
from components.shared.manifest import read_json

ROOT = Path(__file__).resolve().parents[1]


def rule(column: str, level: Level, low: float | None, high: float | None, mostly: float = 1.0) -> Rule:
    return Rule(column=column, level=level, min=low, max=high, mostly=mostly)


def stats(path: Path, rows: Any, shards: Any = (1.0,)) -> Path:
    """Statistics with a row column `duration_s` and a shard column `hours`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row_table = pd.DataFrame({"duration_s": list(rows)}).assign(level="row")
    pd.concat([row_table, pd.DataFrame({"hours": list(shards)}).assign(level="shard")]).to_parquet(path)
    return path


def test_each_level_is_held_against_its_own_records(tmp_path: Path) -> None:
    path = stats(tmp_path / "stats.parquet", np.arange(1.0, 101.0), [0.5, 2.5])
    rules = [
        rule("duration_s", Level.row, 1, 90, mostly=0.9),
        rule("hours", Level.shard, None, 2),
        rule("duration_s", Level.row, 1, 90, mostly=0.91),
    ]
    findings = apply(rules, path, "tokenize", tmp_path / "docs")
    assert [(found.num_records, found.num_broken, found.held) for found in findings] == [
        (100, 10, True),
        (2, 1, False),
        (100, 10, False),
    ]
    assert findings[1].line == "rule shard.hours in [-inf, 2] for 100 % is broken by 1 of 2 records, such as 2.5"
    assert (tmp_path / "docs" / "index.html").is_file()


def test_a_record_without_a_value_breaks_its_rule(tmp_path: Path) -> None:
    path = stats(tmp_path / "stats.parquet", [1.0, np.nan, 2.0])
    (found,) = apply([rule("duration_s", Level.row, 0, 5)], path, "tokenize", tmp_path / "docs")
    assert (found.num_broken, found.held) == (1, False)


def test_a_level_without_records_breaks_its_rules(tmp_path: Path) -> None:
    path = stats(tmp_path / "stats.parquet", [1.0], [])
    (found,) = apply([rule("hours", Level.shard, 0, 5, mostly=0.0)], path, "tokenize", tmp_path / "docs")
    assert not found.held and "has no records" in found.line


def test_no_rules_hold(tmp_path: Path) -> None:
    assert apply([], stats(tmp_path / "stats.parquet", [1.0]), "tokenize", tmp_path / "docs") == []


def test_a_rule_of_a_missing_column_or_without_a_bound_is_refused(tmp_path: Path) -> None:
    path = stats(tmp_path / "stats.parquet", [1.0])
    with pytest.raises(QualityError, match=r"column 'loudness' of a rule is not in stats.parquet; it has duration_s"):
        apply([rule("loudness", Level.row, 0, 1)], path, "tokenize", tmp_path / "docs")
    with pytest.raises(ValueError, match="rule of column 'hours' has neither min nor max"):
        apply([rule("hours", Level.shard, None, None)], path, "tokenize", tmp_path / "docs")


def overrides(low: float) -> list[str]:
    return [f"checks.tokenize=[{{column:duration_s,level:row,min:{low},max:30,mostly:0.9}}]"]


@pytest.mark.usefixtures("no_sender")
def test_the_verdict_does_not_tell_the_limits_so_that_moving_one_reruns_only_the_gate(checkout: Path) -> None:
    stats(checkout / "data" / "tokenize" / "stats.parquet", [1.0] * 20)
    verdict = checkout / "data" / "check" / "tokenize" / "verdict.json"
    contents = []
    for low in (0.2, 0.5):
        run_check("tokenize", overrides(low), root=checkout, publish=True)
        contents.append(verdict.read_bytes())
    assert contents[0] == contents[1] and read_json(verdict) == {"stage": "tokenize", "passed": True}


@pytest.mark.usefixtures("no_sender")
def test_a_broken_rule_is_one_line_exit_code_2_a_page_and_no_verdict(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats(checkout / "data" / "tokenize" / "stats.parquet", [1.0] * 15 + [99.0] * 5)
    with pytest.raises(SystemExit) as ended:
        main(["--stage", "tokenize", "--publish", *overrides(0.2)])
    assert ended.value.code == 2
    line = (
        "check@tokenize: rule row.duration_s in [0.2, 30] for 90 % is broken by 5 of 20 records, such as 99, 99, 99; "
        "see .work/check/tokenize/docs/index.html"
    )
    assert capsys.readouterr().err.strip().splitlines() == [line]
    assert read_json(checkout / ".work" / "check" / "tokenize" / "status.json")["kind"] == "quality"
    assert (checkout / ".work" / "check" / "tokenize" / "docs" / "index.html").is_file()
    assert not (checkout / "data" / "check" / "tokenize" / "verdict.json").exists()


@pytest.mark.usefixtures("no_sender")
def test_a_gate_without_statistics_or_of_no_stage_says_what_to_do(checkout: Path) -> None:
    with pytest.raises(ValueError, match=r"stats.parquet: not there; make it with `dvc repro tokenize`"):
        run_check("tokenize", [], root=checkout, publish=False)
    with pytest.raises(ValueError, match="--stage: got 'tokenise', wanted one of collect, speech_tokenizer"):
        run_check("tokenise", [], root=checkout, publish=False)


@pytest.mark.parametrize(
    ("heard", "held"),
    [
        ([0.1] * 14, True),
        ([0.1] * 13 + [np.nan], True),
        ([0.1] * 13 + [1.2], True),
        ([0.1] * 12 + [1.2, np.nan], False),
        ([1.2], False),
    ],
)
def test_shards_whose_speech_says_something_else_or_was_not_heard_stop_the_interleaved_data(
    tmp_path: Path, heard: list[float], held: bool
) -> None:
    (own,) = [one for one in load_config([], ROOT).checks.synthesize if one.column == "wer"]
    pd.DataFrame({"wer": heard}).assign(level="shard").to_parquet(tmp_path / "stats.parquet")
    (found,) = apply([own], tmp_path / "stats.parquet", "synthesize", tmp_path / "docs")
    assert found.held is held


@pytest.mark.parametrize("scale", SCALES)
def test_every_shipped_rule_has_a_bound_and_a_share(scale: str) -> None:
    shipped = vars(load_config([f"scale={scale}"], ROOT).checks)
    assert all(rules for rules in shipped.values()), "every stage has rules"
    for rules in shipped.values():
        for one in rules:
            assert one.min is not None or one.max is not None
            assert 0 < one.mostly <= 1
            assert one.min is None or one.max is None or one.min <= one.max


def test_the_gate_imports_nothing_heavy_until_it_looks_at_data() -> None:
    assert not {"great_expectations", "pandas"} & set(vars(checks))
