"""Starting SGLang servers: what cannot be started is said in one line. No SGLang is needed for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_server import SmallServer

from components.shared.engine.serve import ServerProcesses, ServingConfig, interpreter
from components.shared.tokens import train_bpe

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere"], "serve: no config.json in 'nowhere'"),
        (["--model", "MODEL", "--num-servers", "0"], "num_servers: got 0"),
        (["--model", "MODEL", "--device", "cpu", "--port", "PORT"], "cannot listen there"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(tmp_path, arguments, words):

    (tmp_path / "config.json").write_text("{}")
    train_bpe(["a few words"], 260).save_pretrained(tmp_path)
    with SmallServer({}) as taken:
        named = {"MODEL": str(tmp_path), "PORT": str(taken.server_address[1])}
        command = [sys.executable, "-m", "components.shared.engine.serve", *(named.get(a, a) for a in arguments)]
        environment = {"PATH": "/usr/bin", "SPEECHLOOM_SGLANG_PYTHON": sys.executable}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_python_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("SPEECHLOOM_SGLANG_PYTHON", "/nowhere/python")
    with pytest.raises(ValueError, match="SPEECHLOOM_SGLANG_PYTHON: got '/nowhere/python'"):
        interpreter()


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path):

    (tmp_path / "config.json").write_text("{}")
    train_bpe(["a few words"], 260).save_pretrained(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHLOOM_SGLANG_PYTHON", sys.executable)  # which has no SGLang
        processes = ServerProcesses(ServingConfig(model=str(tmp_path), device="cpu", logs=tmp_path / "logs"))
        with pytest.raises(ConnectionError, match=r"did not start; .*No module named 'sglang'"):
            processes.start()
    assert processes.running == {}
