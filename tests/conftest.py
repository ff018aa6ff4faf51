"""What all tests share: quiet libraries, a checkout to run in, a sign of life in long tests, GPU tests set aside."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.update(QUIET)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
for variable in ("MLFLOW_TRACKING_URI", "SPEECHLOOM_PARENT_RUN", "SPEECHLOOM_PIPELINE", "DVC_EXP_NAME"):
    os.environ.pop(variable, None)

ROOT = Path(__file__).resolve().parents[1]
SIGN_OF_LIFE_S = 60.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set aside what needs a CUDA device on a machine without one."""
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if for_gpu:
        import torch

        if not torch.cuda.is_available():
            config.hook.pytest_deselected(items=for_gpu)
            items[:] = [item for item in items if item not in for_gpu]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Say every minute which test is still running, on a descriptor that the Makefile keeps open past the capture."""
    done, started = threading.Event(), time.time()

    def speak(descriptor: int) -> None:
        while not done.wait(SIGN_OF_LIFE_S):
            os.write(descriptor, f"\n... {time.time() - started:.0f} s in {item.nodeid}\n".encode())

    if "SIGN_OF_LIFE_FD" in os.environ:
        threading.Thread(target=speak, args=[int(os.environ["SIGN_OF_LIFE_FD"])], daemon=True).start()
    try:
        return (yield)
    finally:
        done.set()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped params and scales, at scale smoke, as the current one."""
    for name in ("params.yaml", "conf"):
        source = ROOT / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("scale: tiny", "scale: smoke", 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., dict[str, float]]


@pytest.fixture
def stage_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], str]:
    """Put a function in the place of the story of `tokenize`, and give back the stage's name."""

    def put(run: Run) -> str:
        module = ModuleType("components.tokenize.stage")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "components.tokenize.stage", module)
        return "tokenize"

    return put


@pytest.fixture
def no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave records in the spool: for tests that do not look at MLflow."""
    import components.shared.delivery as delivery
    import components.shared.spool as spool

    monkeypatch.setattr(delivery, "ensure_sender", lambda folder: None)
    monkeypatch.setattr(spool, "PATIENCE_S", 0.0)
