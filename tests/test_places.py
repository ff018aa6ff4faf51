"""A stage reads published folders and its own appear only when it ended well."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from components.shared.manifest import read_json, seal
from components.shared.places import Inputs, Outputs, main_checkout


@pytest.mark.parametrize(
    "below", ["", ".dvc/tmp/exps/temp-abc", ".dvc/tmp/exps/temp-abc/inner", ".work/scale/smoke", "data"]
)
def test_experiments_and_other_scales_share_the_main_checkouts_store(tmp_path: Path, below: str) -> None:
    expected = tmp_path / "data" if below == "data" else tmp_path
    assert main_checkout(tmp_path / below) == expected


def test_inputs_remember_what_was_opened(tmp_path: Path) -> None:
    (tmp_path / "mix" / "shards").mkdir(parents=True)
    content = seal(tmp_path / "mix" / "shards").content_hash
    seen: list[dict[str, str]] = []
    inputs = Inputs(tmp_path, remember=lambda read: seen.append(dict(read)))
    assert inputs.folder("mix", "shards") == tmp_path / "mix" / "shards"
    assert inputs.read == {"mix/shards": content} and seen == [inputs.read]


def test_an_input_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not there; make it with `dvc repro mix`"):
        Inputs(tmp_path).folder("mix", "shards")
    with pytest.raises(ValueError, match="not there; make it with `dvc repro mix`"):
        Inputs(tmp_path).json("mix", "metrics.json")


def test_folders_appear_with_the_metrics_and_not_before(tmp_path: Path) -> None:
    outputs = Outputs(root=tmp_path / "data", work=tmp_path / "work")
    folder = outputs.folder("model")
    (folder / "weights").write_text("new")
    assert not (tmp_path / "data" / "model").exists()
    outputs.publish({"loss": 1.0})
    assert (tmp_path / "data" / "model" / "weights").read_text() == "new"
    assert read_json(tmp_path / "data" / "metrics.json") == {"loss": 1.0}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["metrics.json", "model"]


def test_what_a_killed_run_left_is_cleared_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    Outputs(root=tmp_path, work=tmp_path, token=str(ended.pid)).folder("model")
    living = Outputs(root=tmp_path, work=tmp_path, token="1").folder("model")
    Outputs(root=tmp_path, work=tmp_path, token="none").discard()
    assert [path.name for path in tmp_path.iterdir()] == [living.parent.name]


def test_statistics_hold_shards_and_rows(tmp_path: Path) -> None:
    outputs = Outputs(root=tmp_path, work=tmp_path)
    outputs.write_stats(shards=[{"hours": 2.0}], rows=[{"duration_s": 1.0}, {"duration_s": 3.0}])
    outputs.publish({})
    table = pd.read_parquet(tmp_path / "stats.parquet")
    assert table["level"].value_counts().to_dict() == {"row": 2, "shard": 1}
    assert table[table["level"] == "row"]["duration_s"].tolist() == [1.0, 3.0]
