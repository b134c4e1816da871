"""Emu2's tokenizer, straight on SentencePiece.

The rule is that of the tokenizer Emu2 was trained with (transformers 4.31, slow LLaMA): text is cut at special
tokens, spaces that touch one are dropped, and what stays is encoded with SentencePiece's own leading space. Later
versions of transformers give other ids for the same string.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import sentencepiece

from emu2_lit.errors import UserError
from emu2_lit.model.segments import Segment, parse_prompt
from emu2_lit.model.special_tokens import ASSISTANT, BOI, EOI, FRAME, IMAGE, PAD, USER, special_token_ids

MODEL_FILE, CONFIG_FILE = "tokenizer.model", "tokenizer_config.json"


class Emu2Tokenizer:
    """Texts or segments to ids, and back.

    Args:
        model: the bytes of a SentencePiece model.
        chat: with the role tokens `[USER]` and `[ASSISTANT]`.
    """

    bos_id, eos_id = 1, 2

    def __init__(self, model: bytes, chat: bool):
        self.model_bytes, self.chat = model, chat
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.base_vocab_size = self._pieces.get_piece_size()
        self.special_ids = special_token_ids(self.base_vocab_size, chat)
        self._special_strings = {id_: token for token, id_ in self.special_ids.items()}
        self.pad_id = self.special_ids[PAD]

    def __reduce__(self):
        return type(self), (self.model_bytes, self.chat)

    @property
    def vocab_size(self) -> int:
        """SentencePiece's pieces and the added tokens."""
        return self.base_vocab_size + len(self.special_ids) - 3

    # -- ids -------------------------------------------------------------------------------------------------
    def __call__(self, text: str | Sequence[str]) -> dict[str, list]:
        """Ids of raw prompts, special strings read as tokens, BOS first. Picture slots stand as they are written."""
        if isinstance(text, str):
            return {"input_ids": self.encode_segments(parse_prompt(text, self.chat))[0]}
        return {"input_ids": [self(one)["input_ids"] for one in text]}

    def encode_segments(
        self, segments: Iterable[Segment], image_tokens: int = 1, frame_tokens: int = 1
    ) -> tuple[list[int], list[bool]]:
        """Ids of a prompt, and which of them are learned.

        Neighbouring texts are encoded as one, so the ids are those of the whole string; a piece that holds a learned
        character is learned. Of a learned picture, `[IMG]` and its slots are; `[/IMG]` never is.

        Raises:
            UserError: a role token, and this tokenizer has none.
        """
        ids, learned = [self.bos_id], [False]
        for piece_ids, piece_learned in self._runs(list(segments), image_tokens, frame_tokens):
            ids += piece_ids
            learned += piece_learned
        return ids, learned

    def _runs(self, segments: list[Segment], image_tokens: int, frame_tokens: int) -> Iterator[tuple[list, list]]:
        groups = [(kind, list(group)) for kind, group in groupby(segments, key=lambda s: s.kind == "text")]
        for place, (is_text, group) in enumerate(groups):
            if is_text:
                yield self._text(group, strip_left=place > 0, strip_right=place < len(groups) - 1)
                continue
            for segment in group:
                if segment.kind == "token":
                    yield [self._token(segment.text)], [segment.learn]
                else:
                    slot, count = (IMAGE, image_tokens) if segment.kind == "image" else (FRAME, frame_tokens)
                    slots = [self.special_ids[slot]] * count
                    yield (
                        [self.special_ids[BOI], *slots, self.special_ids[EOI]],
                        [segment.learn] * (1 + count) + [False],
                    )

    def _token(self, text: str) -> int:
        if text in self.special_ids:
            return self.special_ids[text]
        if text in (USER, ASSISTANT):
            raise UserError("This tokenizer has no role tokens: make the processor with chat=True")
        raise UserError(f"{text!r} is no special token")

    def _text(self, group: list[Segment], strip_left: bool, strip_right: bool) -> tuple[list[int], list[bool]]:
        flags = [segment.learn for segment in group for _ in segment.text]
        text = "".join(segment.text for segment in group)
        text = text.encode(errors="replace").decode()  # half an emoji, as cut JSON holds it, becomes a question mark
        if strip_left:
            flags = flags[len(text) - len(text.lstrip()) :]
            text = text.lstrip()
        if strip_right:
            text = text.rstrip()
        if not text:
            return [], []
        pieces = self._pieces.encode(text, return_type="offset_mapping")
        # A character outside the vocabulary is several byte pieces, of which only the last spans it.
        learned = [any(flags[begin : max(end, begin + 1)]) for begin, end in pieces["offsets"]]
        return pieces["ids"], learned

    # -- text ------------------------------------------------------------------------------------------------
    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids. Kept special tokens stand between spaces, as the published code prints them."""
        ids = [int(id_) for id_ in ids]
        if skip_special_tokens:
            return self._pieces.decode([id_ for id_ in ids if id_ not in self._special_strings])
        parts = []
        for special, group in groupby(ids, key=lambda id_: id_ >= self.base_vocab_size):
            group = list(group)
            parts += [self._special_strings[id_] for id_ in group] if special else [self._plain(group)]
        return " ".join(parts)

    def _plain(self, ids: list[int]) -> str:
        """SentencePiece's own control tokens (`</s>`) decode to nothing: put them back. As in the published code, the
        text before one starts with a space."""
        text, run = "", ""
        for control, group in groupby(ids, key=lambda id_: id_ in self._special_strings):
            group = list(group)
            if control:
                text += (" " + run if run else "") + "".join(self._special_strings[id_] for id_ in group)
                run = ""
            else:
                run = self._pieces.decode(group)
        return text + run

    def batch_decode(self, batch: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """`decode` of each row."""
        return [self.decode(row, skip_special_tokens) for row in batch]

    def token_to_id(self, token: str) -> int:
        """Raises KeyError for what is no special token."""
        return self.special_ids[token]

    def id_to_token(self, id_: int) -> str:
        """A special token's string, or SentencePiece's piece."""
        return self._special_strings.get(id_) or self._pieces.id_to_piece(id_)

    # -- files -----------------------------------------------------------------------------------------------
    @classmethod
    def from_sentencepiece(cls, path: str | Path, chat: bool) -> "Emu2Tokenizer":
        """Read a SentencePiece `tokenizer.model`, or the folder that holds one.

        Raises:
            UserError: it is not there, or no SentencePiece model.
        """
        path = Path(path)
        path = path / MODEL_FILE if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{path}: there is no SentencePiece model here")
        try:
            return cls(path.read_bytes(), chat)
        except RuntimeError as error:
            raise UserError(f"{path}: not a SentencePiece model ({error})") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `tokenizer.model`, and what transformers' own LLaMA tokenizer wants beside it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.model_bytes)
        added = {t: i for t, i in self.special_ids.items() if i >= self.base_vocab_size}
        config = dict(
            tokenizer_class="LlamaTokenizer", legacy=True, add_bos_token=True, add_eos_token=False, bos_token="<s>",
            eos_token="</s>", unk_token="<unk>", pad_token=PAD, padding_side="left", model_max_length=2048,
            clean_up_tokenization_spaces=False, emu2_chat=self.chat,
            added_tokens_decoder={
                str(i): dict(content=t, lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
                for t, i in added.items()
            },
        )  # fmt: skip
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")
