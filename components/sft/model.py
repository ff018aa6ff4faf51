"""The chat model: the door that later rooms and users open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, overload

from components.shared.engine import Engine, EngineConfig, EngineKind, Request, make_engine
from components.shared.formats import ChatTurn, Formats
from components.shared.manifest import read_json
from components.shared.tokens import Vocabulary, load_tokenizer

__all__ = ["Chat", "ChatTurn", "Reply", "Splitter", "load"]
CHAT_FILE = "chat.json"
MAX_NEW_TOKENS = 512


@dataclass
class Reply:
    """An answer, whole or the part that has come since the last one."""

    text: str = ""
    codes: list[int] = field(default_factory=list)
    """Speech codes, 0..N-1."""
    finished: bool = False
    """The model ended its answer; False in a whole reply: it was cut at max_new_tokens."""


@dataclass
class Splitter:
    """Takes the alternating stream apart as it comes; text is handed out in whole characters only."""

    formats: Formats
    _text_ids: list[int] = field(default_factory=list)
    _said: int = 0

    def push(self, token_ids: Sequence[int]) -> Reply:
        """What new token ids add: audio tokens are codes, everything else is text; control tokens are left out."""
        vocabulary = self.formats.vocabulary
        codes = vocabulary.to_codes(token_ids)
        control = {vocabulary.end_of_text, vocabulary.pad, vocabulary.begin_of_audio, vocabulary.end_of_audio}
        control |= {vocabulary.system, vocabulary.user, vocabulary.assistant}
        self._text_ids += [i for i in token_ids if not vocabulary.is_audio(i) and i not in control]
        text = self.formats.show(self._text_ids)
        whole = text if not text.endswith("\ufffd") else text.rstrip("\ufffd")
        new, self._said = whole[self._said :], max(self._said, len(whole))
        return Reply(new, codes)


@dataclass(frozen=True)
class Chat:
    """A chat model with its engine."""

    folder: Path
    formats: Formats
    engine: Engine
    system: str
    """The system prompt of its training, used when a chat brings none."""

    @overload
    def reply(
        self,
        turns: Sequence[ChatTurn],
        stream: Literal[False] = False,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
    ) -> Reply: ...

    @overload
    def reply(
        self,
        turns: Sequence[ChatTurn],
        stream: Literal[True],
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
    ) -> Iterator[Reply]: ...

    def reply(
        self,
        turns: Sequence[ChatTurn],
        stream: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Reply | Iterator[Reply]:
        """The answer to a chat that ends with the user's turn, in text and speech codes.

        stream: an iterator over parts as they are generated instead; the last one has finished set.
        Raises ValueError when the turns are no chat, or too long for the model.
        """
        request = self.request("reply", turns, max_new_tokens, temperature, seed)
        if stream:
            return self._stream(request)
        completion = self.engine.generate_all([request])[0]
        if completion.error:
            raise ValueError(f"chat: {completion.error}")
        return self.read(completion.token_ids, completion.finish_reason == "stop")

    def request(
        self, key: str, turns: Sequence[ChatTurn], max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Request:
        """The engine's request for the answer to a chat; what comes back goes to `read`."""
        if not turns or turns[0].role != "system":
            turns = [ChatTurn(role="system", text=self.system, codes=[]), *turns]
        return Request(
            key=key,
            token_ids=self.formats.chat_prompt(turns),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            stop_ids=(self.formats.vocabulary.user,),
            allowed_range=(0, self.formats.vocabulary.size),
        )

    def read(self, token_ids: Sequence[int], finished: bool = True) -> Reply:
        """A whole answer out of its token ids."""
        return replace(Splitter(self.formats).push(token_ids), finished=finished)

    def _stream(self, request: Request) -> Iterator[Reply]:
        splitter, count = Splitter(self.formats), 0
        for token_ids in self.engine.stream(request):
            count += len(token_ids)
            yield splitter.push(token_ids)
        yield Reply(finished=count < request.max_new_tokens)


def load(path: Path | str, engine: EngineConfig | None = None) -> Chat:
    """The chat model of data/sft/model. engine: how it runs; by default inside this process in float32.

    Raises ValueError when the folder is no chat model.
    """
    folder = Path(path)
    if not (folder / CHAT_FILE).is_file():
        raise ValueError(f"{folder}: no {CHAT_FILE}; wanted the model folder of sft")
    record = read_json(folder / CHAT_FILE)
    tokenizer = load_tokenizer(folder)
    formats = Formats(tokenizer, Vocabulary.of(tokenizer, int(record["num_codes"])))
    config = EngineConfig(
        kind=EngineKind.transformers,
        model=str(folder),
        dtype="float32",
        max_batch=16,
        max_length=2048,
        max_tokens=16384,
        num_threads=2,
        logprobs=False,
        servers=[],
        in_flight=64,
        timeout_s=300.0,
        patience_s=60.0,
    )
    chosen = config if engine is None else replace(engine, model=str(folder))
    return Chat(folder, formats, make_engine(chosen), str(record["system"]))
