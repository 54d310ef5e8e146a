"""BERT's word pieces: the lines of vocab.txt, and their table in a checkpoint.

The table is a tensor, so that the weights alone suffice to read and write texts.
"""

from pathlib import Path

import torch
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.models.coavt.text_ids import BERT_VOCABULARY, PAD, TEXT_IDS

BYTES = 64  # of a piece in the table
SPECIAL = {
    "[PAD]": PAD,
    "[UNK]": 100,
    "[CLS]": TEXT_IDS["bert"].first,
    "[SEP]": TEXT_IDS["bert"].end,
}
EXPECTED = "give the vocab.txt of bert-base-uncased"


def read_pieces(path: Path) -> list[str]:
    """Return the pieces in a vocab.txt, one a line. UserError unless they are bert-base-uncased's.

    OSError if it cannot be opened.
    """
    try:
        pieces = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text. Fix: {EXPECTED}") from None
    pieces = [piece.rstrip("\r") for piece in pieces]
    if pieces[-1] == "":
        pieces.pop()
    if len(pieces) != BERT_VOCABULARY or len(set(pieces)) != len(pieces):
        raise UserError(
            f"{path}: has {len(set(pieces)):,} different word pieces in {len(pieces):,} lines, not "
            f"{BERT_VOCABULARY:,}. Fix: {EXPECTED}"
        )
    for piece, index in SPECIAL.items():
        if pieces[index] != piece:
            raise UserError(
                f"{path}:{index + 1}: is {pieces[index]!r}, not {piece}. Fix: {EXPECTED}"
            )
    for index, piece in enumerate(pieces):
        if not 0 < len(piece.encode()) <= BYTES:
            raise UserError(
                f"{path}:{index + 1}: a word piece of {len(piece.encode())} bytes, not 1 to "
                f"{BYTES}. Fix: {EXPECTED}"
            )
    return pieces


def table_of(pieces: list[str]) -> Tensor:
    """Return the pieces in UTF-8, padded with zeros: uint8 [V, 64]."""
    content = b"".join(piece.encode().ljust(BYTES, b"\0") for piece in pieces)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, BYTES)


def empty_table() -> Tensor:
    """Return a table that is not filled yet."""
    return torch.zeros(BERT_VOCABULARY, BYTES, dtype=torch.uint8)


def pieces_of(table: Tensor) -> list[str]:
    """Return the pieces of a table, uint8 [V, 64].

    Without values, for a plan of the cost, the special ones are all: every word is unknown.
    """
    if table.is_meta:
        names = {index: piece for piece, index in SPECIAL.items()}
        return [names.get(index, f"[unused{index}]") for index in range(BERT_VOCABULARY)]
    content = table.cpu().numpy().tobytes()
    rows = (content[start : start + BYTES] for start in range(0, len(content), BYTES))
    return [row.rstrip(b"\0").decode() for row in rows]
