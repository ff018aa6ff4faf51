"""Settings come from exactly one of two files; what is unknown, mistyped or missing is named in one line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from components.config import SCALES, STAGES, Config, as_dict, load_config

ROOT = Path(__file__).resolve().parents[1]


def keys(value: Any, hint: Any = Config, prefix: str = "", free: bool = True) -> set[str]:
    """Dotted names of the settings in a file; free: also inside mappings with free names, such as the corpora's."""
    if not isinstance(value, dict):
        return {prefix}
    found: set[str] = set()
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        for name, inner in value.items():
            found |= keys(inner, hints.get(name), f"{prefix}.{name}" if prefix else name, free)
    elif free:
        for name, inner in value.items():
            found |= keys(inner, (get_args(hint) or [None])[-1], f"{prefix}.{name}", free)
    return found


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("scale", SCALES)
def test_every_shipped_scale_loads(scale: str) -> None:
    config = load_config([f"scale={scale}"], ROOT)
    assert config.scale == scale
    assert all(getattr(config, stage).seed == config.seed for stage in STAGES)


def test_the_seed_reaches_every_section() -> None:
    config = load_config(["seed=5"], ROOT)
    assert {getattr(config, stage).seed for stage in STAGES} == {5}


def test_no_value_of_a_file_is_an_interpolation_that_a_sweep_would_write_out() -> None:
    """`dvc exp run -S` writes the files anew with all ${...} resolved: every stage would seem changed."""
    for path in [ROOT / "params.yaml", *(ROOT / "conf" / "scale").glob("*.yaml")]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
        assert "${" not in "\n".join(lines), path.name


def test_all_scales_have_the_same_keys() -> None:
    files = {scale: read(ROOT / "conf" / "scale" / f"{scale}.yaml") for scale in SCALES}
    named = {scale: keys(content, free=False) for scale, content in files.items()}
    for scale in SCALES:
        assert named[scale] == named["tiny"], f"{scale}: {sorted(named[scale] ^ named['tiny'])}"


def test_the_papers_scale_leaves_out_what_the_paper_does_not_have() -> None:
    config = load_config(["scale=h800"], ROOT)
    said, decoder, tokenizer = config.text_to_token, config.speech_decoder, config.speech_tokenizer
    assert not (said.words_in_speech or said.crossed_share or said.joined_share or said.noise_share)
    assert said.guidance.weight == decoder.objective.prior_weight == tokenizer.distil_weight == 0.0
    assert not decoder.straight_start and all(phase.flow for phase in decoder.phases)


def test_a_value_stands_in_exactly_one_of_the_two_files() -> None:
    method, size = keys(read(ROOT / "params.yaml")), keys(read(ROOT / "conf" / "scale" / "tiny.yaml"))
    assert not method & size


def test_every_override_comes_in(checkout: Path) -> None:
    assert load_config(["tokenize.seed=3"]).tokenize.seed == 3
    assert as_dict(load_config(["tokenize.seed=3"]).tokenize)["seed"] == 3


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\nsynthesize:\n", "\nsynthesize:\n  ratioo: 1\n", ["synthesize.ratioo"]),
        ("\nsynthesize:\n", "\nsynthesize:\n  seed: many\n", ["synthesize.seed", "many"]),
        ("\n  ratio: 0.3\n", "\n", ["synthesize.ratio", "no value in params.yaml and"]),
        ("\ntokenize:", "\ntokenise:", ["tokenise", "unknown section", "tokenize"]),
        ("scale: smoke", "scale: grand", ["scale: got 'grand'", "wanted one of h100, h800, smoke, tiny"]),
        ("seed: 17", "seed: [1", ["params.yaml"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(checkout: Path, old: str, new: str, words: list[str]) -> None:
    change(checkout / "params.yaml", old, new)
    with pytest.raises(ValueError) as caught:
        load_config()
    assert len(str(caught.value).splitlines()) == 1
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"params.yaml: no such file in .*; run from the project's root"):
        load_config([], tmp_path)


def dataclasses_of(config_class: Any, seen: set[Any]) -> set[Any]:
    if config_class in seen or not is_dataclass(config_class):
        return seen
    seen.add(config_class)
    for hint in get_type_hints(config_class).values():
        for part in (hint, *get_args(hint)):
            dataclasses_of(part, seen)
    return seen


def test_settings_have_no_defaults_and_choices_are_enums() -> None:
    for config_class in dataclasses_of(Config, set()):
        for field in fields(config_class):
            name = f"{config_class.__name__}.{field.name}"
            assert field.default is MISSING and field.default_factory is MISSING, f"{name} has a default"
            assert field.kw_only, f"{name} is not kw_only"
        for hint in get_type_hints(config_class).values():
            assert "Literal" not in str(hint)
            assert (
                not isinstance(hint, type)
                or not issubclass(hint, Enum)
                or all(member.name == member.value for member in hint)
            )


def test_the_schema_is_light() -> None:
    code = "import sys, components.config; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
