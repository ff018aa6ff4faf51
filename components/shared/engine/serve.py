"""Start SGLang servers for a model, tell where they are, and leave no process behind.

    python -m components.shared.engine.serve --model data/text_to_token/model [--num-servers 2] [--port 30000] [-- ...]

What follows `--` goes to SGLang as it is. SGLang lives in an environment of its own (`make setup-sglang` makes
.venv-sglang; SPEECHLOOM_SGLANG_PYTHON names another interpreter); where this Python has it, as on machines with a GPU,
it is used. Prints a URL a line once all are healthy, starts a server that dies again, and ends with SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from components.shared.engine import EngineConfig
from components.shared.manifest import NAME, read_manifest

ROOT = Path(__file__).resolve().parents[3]
SERVER = Path(__file__).with_name("sglang_server.py")
INTERPRETER = "SPEECHLOOM_SGLANG_PYTHON"
PREFIX, UNSEALED = "speechloom", "unsealed"
START_S = 900.0
"""Longest start of a server: loading a large model and capturing CUDA graphs take minutes."""
_STOP_S = 3.0
"""SGLang takes 9 s to end when asked to; nobody waits for its answers by then."""
_SOUND_S, _MOST_DEATHS = 120.0, 3
"""A server that ends so many times in a row, each time sooner after its start, is not started again."""

CPU = {
    "--attention-backend": "torch_native",
    "--sampling-backend": "pytorch",
    "--max-total-tokens": "65536",
    "--disable-cuda-graph": None,
    "--sleep-on-idle": None,
}
CUDA = {
    # not measured on a GPU yet: many short sequences, so large batches and graphs for them
    "--max-running-requests": "1024",
    "--cuda-graph-max-bs": "1024",
    "--schedule-conservativeness": "0.5",
}
ALWAYS = {
    "--skip-tokenizer-init": None,
    "--grammar-backend": "none",
    "--enable-custom-logit-processor": None,
    "--log-level-http": "warning",
}


@dataclass(kw_only=True)
class ServingConfig:
    """What to serve and how."""

    model: str
    """Folder of a causal LM with its tokenizer."""
    host: str = "127.0.0.1"
    """Address to listen on; whoever reaches it can use the server."""
    port: int = 0
    """Of the first server, the others follow; 0: free ones."""
    num_servers: int = 1
    """On a GPU machine, one a GPU."""
    device: str = ""
    """cpu or cuda; '': cuda where there is one."""
    dtype: str = "float32"
    """float32 or bfloat16."""
    num_threads: int = 1
    """CPU threads of each server's model."""
    logs: Path = Path("runs/serve")
    """Folder of the servers' output, a file a port."""
    extra: list[str] = field(default_factory=list)
    """More arguments of SGLang; they win over ours."""

    @classmethod
    def of(cls, config: EngineConfig) -> ServingConfig:
        """One server on this machine for an engine that names none."""
        return cls(model=config.model, dtype=config.dtype, num_threads=config.num_threads)


def served_name(folder: Path, vocab_size: int) -> str:
    """Under which name our servers serve a model: its manifest's content hash and the size of its vocabulary."""
    content = read_manifest(folder).content_hash if (folder / NAME).is_file() else UNSEALED
    return f"{PREFIX}/{content}/{vocab_size}"


def served_here(info: dict[str, Any]) -> bool:
    """Whether a /server_info is that of a server which serve.py started."""
    return str(info.get("served_model_name")).startswith(f"{PREFIX}/")


def check_info(url: str, info: dict[str, Any], *, folder: Path, vocab_size: int, max_length: int) -> None:
    """Raise ValueError in one line when the server's model is not that of the folder, or takes shorter requests.

    info: its /server_info. Our servers tell the content hash; of others the model's folder must be readable here.
    """
    where = f"engine.servers: {url}"
    if served_here(info):
        _, content, size = str(info["served_model_name"]).split("/")
        wanted = served_name(folder, vocab_size).split("/")[1]
        if int(size) != vocab_size:
            raise ValueError(f"{where}: its model has {size} ids, that of {folder} has {vocab_size}")
        if UNSEALED not in (content, wanted) and content != wanted:
            raise ValueError(f"{where}: serves the model {content[:12]}…, wanted {wanted[:12]}… of {folder}")
    else:
        theirs, ours = Path(str(info.get("model_path"))) / "config.json", folder / "config.json"
        if not theirs.is_file():
            raise ValueError(
                f"{where}: got model_path={info.get('model_path')!r}, which cannot be compared with {folder}"
            )
        got, wanted = (json.loads(path.read_text(encoding="utf-8")).get("vocab_size") for path in (theirs, ours))
        if got != wanted:
            raise ValueError(f"{where}: its model has a vocabulary of {got} rows, that of {folder} has {wanted}")
        sealed = (folder / NAME).is_file() and (theirs.parent / NAME).is_file()
        if sealed and read_manifest(folder).content_hash != read_manifest(theirs.parent).content_hash:
            raise ValueError(f"{where}: serves {theirs.parent}, whose content is not that of {folder}")
    longest = info.get("max_req_input_len")
    if isinstance(longest, int) and longest + 16 < max_length:  # SGLang keeps a few places for itself
        raise ValueError(f"{where}: takes prompts of at most {longest} ids, but engine.max_length={max_length}")


def interpreter() -> Path:
    """The Python that has SGLang. Raises ValueError when there is none."""
    if named := os.environ.get(INTERPRETER):
        if not Path(named).is_file():
            raise ValueError(f"serve: {INTERPRETER}: got {named!r}, wanted a Python that has SGLang")
        return Path(named)
    if importlib.util.find_spec("sglang") is not None:
        return Path(sys.executable)
    own = ROOT / ".venv-sglang" / "bin" / "python"
    if not own.is_file():
        raise ValueError(f"serve: no SGLang: not in this Python, no {own}, no {INTERPRETER}; `make setup-sglang` does")
    return own


class ServerProcesses:
    """Servers on this machine, each a process group of its own that the kernel ends with this process.

    The kernel goes by the thread: start them from one that lives as long as they should.
    """

    def __init__(self, config: ServingConfig) -> None:
        """Raises ValueError when the folder is no model, the settings make no sense or SGLang is not there."""
        from components.shared.tokens import load_tokenizer

        if not (Path(config.model) / "config.json").is_file():
            raise ValueError(f"serve: no config.json in {config.model!r}; wanted the folder of a causal LM")
        if config.num_servers < 1:
            raise ValueError(f"serve: num_servers: got {config.num_servers}, wanted at least 1")
        self.config, self.python = config, interpreter()
        self.vocab_size = len(load_tokenizer(Path(config.model)))
        self.device = config.device or ("cuda" if _has_cuda() else "cpu")
        self.ports = [_port(config, number) for number in range(config.num_servers)]
        self.urls = [f"http://{config.host}:{port}" for port in self.ports]
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.started: dict[int, float] = {}
        self.deaths = [0] * config.num_servers

    def start(self) -> list[str]:
        """Start all and return their URLs once each is healthy. Raises ConnectionError when one does not come up."""
        try:
            for number in range(len(self.ports)):
                self._start(number)
            for number in range(len(self.ports)):
                self._wait(number)
        except BaseException:
            self.close()
            raise
        return self.urls

    def revive(self) -> None:
        """Start again what has ended. Raises ConnectionError when a server keeps ending soon after its start."""
        for number, process in self.running.items():
            if process.poll() is None:
                continue
            line = f"serve: {self.urls[number]} ended with {process.returncode}; {self._last_line(number)}"
            self.deaths[number] = self.deaths[number] + 1 if time.monotonic() - self.started[number] < _SOUND_S else 1
            if self.deaths[number] == _MOST_DEATHS:
                raise ConnectionError(line)
            print(f"{line}; starting it again", file=sys.stderr, flush=True)
            _end_group(process, 0)
            self._start(number)

    def close(self) -> None:
        """End every process of every server; those that do not listen are killed."""
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + _STOP_S
        for process in self.running.values():
            _end_group(process, max(0.0, end - time.monotonic()))
        self.running.clear()

    def _start(self, number: int) -> None:
        log = self._log(number)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "SPEECHLOOM_VOCAB_SIZE": str(self.vocab_size),
            "SPEECHLOOM_PARENT": str(os.getpid()),
            "OMP_NUM_THREADS": str(self.config.num_threads),
        }
        environment.pop("PYTHONPATH", None)
        if self.device == "cpu":
            environment["SGLANG_USE_CPU_ENGINE"] = "1"
        with log.open("ab") as output:
            # -P: the folder of this file holds a sglang.py of ours
            self.running[number] = subprocess.Popen(
                [str(self.python), "-P", str(SERVER), *self._arguments(number)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started[number] = time.monotonic()

    def _arguments(self, number: int) -> list[str]:
        named = {
            "--model-path": str(Path(self.config.model).resolve()),
            "--served-model-name": served_name(Path(self.config.model), self.vocab_size),
            "--host": self.config.host,
            "--port": str(self.ports[number]),
            "--device": self.device,
            "--dtype": self.config.dtype,
            **ALWAYS,
            **(CPU if self.device == "cpu" else CUDA | {"--base-gpu-id": str(number)}),
        }
        given = {word.split("=")[0] for word in self.config.extra}
        chosen = [[name] if value is None else [name, value] for name, value in named.items() if name not in given]
        return [word for words in chosen for word in words] + self.config.extra

    def _wait(self, number: int) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.running[number].poll() is not None:
                raise ConnectionError(f"serve: {self.urls[number]} did not start; {self._last_line(number)}")
            try:
                if httpx.get(f"{self.urls[number]}/health", timeout=30.0, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(0.3)
        raise ConnectionError(
            f"serve: {self.urls[number]} is not healthy after {START_S:.0f} s; see {self._log(number)}"
        )

    def _log(self, number: int) -> Path:
        return self.config.logs / f"{self.ports[number]}.log"

    def _last_line(self, number: int) -> str:
        lines = self._log(number).read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{self._log(number)} ends with: {said[-1][:300] if said else ''}"


def _end_group(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Wait for a server, then kill it: its children end with it, the last one after it has cleaned up."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    process.kill()
    process.wait()
    end = time.monotonic() + _STOP_S
    with suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)


def _port(config: ServingConfig, number: int) -> int:
    wanted = config.port + number if config.port else 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, wanted))
        except OSError as error:
            raise ValueError(f"serve: {config.host}:{wanted}: cannot listen there: {error.strerror}") from error
        return int(probe.getsockname()[1])


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(arguments: list[str]) -> None:
    """Start the servers, print their URLs, keep them running until told to stop."""
    own, extra = arguments, []
    if "--" in arguments:
        own, extra = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="serve", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a causal LM with its tokenizer")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=30000, help="of the first server; 0: free ones")
    parser.add_argument("--num-servers", type=int, default=1, help="on a GPU machine, one a GPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="", help="default: cuda where there is one")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="", help="default: bfloat16 on cuda")
    parser.add_argument("--num-threads", type=int, default=1, help="CPU threads of each server's model")
    parser.add_argument("--logs", type=Path, default=Path("runs/serve"))
    options = vars(parser.parse_args(own))
    options["device"] = options["device"] or ("cuda" if _has_cuda() else "cpu")
    options["dtype"] = options["dtype"] or ("bfloat16" if options["device"] == "cuda" else "float32")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    servers = ServerProcesses(ServingConfig(**options, extra=extra))
    try:
        for url in servers.start():
            print(url, flush=True)
        while True:
            time.sleep(1.0)
            servers.revive()
    finally:
        servers.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(2)
    except ConnectionError as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(1)
