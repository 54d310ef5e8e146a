"""Annotation files with the wrong content under the right name, and cells rewritten by Excel."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip4vla.common.signatures import HEAD, UNPACK, foreign_kind

EXCEL_ROWS = 1_048_576  # a sheet has no more: Excel drops the rest of a longer list
UNTOUCHED = "take the official file as published; a spreadsheet changes ids when it saves them"
PUBLISHED = "take the official file as published"
AS_JSON = "name it .json, if that form is read too, or take the official csv"
_AS_UTF8 = "convert it: iconv -f {0} -t UTF-8 {1} > new, then put the new file there"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (  # (first bytes, kind, fix)
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook or document of old Office", UNTOUCHED),
    (b"{\\rtf", "a rich text document", "save it as plain text"),
    (b"%PDF-", "a PDF", PUBLISHED),
    (b"PAR1", "a Parquet table", PUBLISHED),
    (b"\xff\xfe\0\0", "UTF-32 text", _AS_UTF8.format("UTF-32", "old")),
    (b"\0\0\xfe\xff", "UTF-32 text", _AS_UTF8.format("UTF-32", "old")),
    (b"\xff\xfe", "UTF-16 text", _AS_UTF8.format("UTF-16", "old")),
    (b"\xfe\xff", "UTF-16 text", _AS_UTF8.format("UTF-16", "old")),
)
_ANNEX = re.compile(rb"(/annex/objects/|\.\./.*\.git/annex/objects/)\S+\s*")
_REFUSAL = re.compile(rb"[45]\d\d: [A-Z][A-Za-z ]{2,40}\s*")  # 404: Not Found
_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*(\{|\[\s*[\[{\"])")
_NUMPY = b"\x93NUMPY"
# What Excel and its like make of an id that begins with - or =, of 12E4, and of 1-2 or mar-10.
_ERROR = r"#[^\sa-z]{1,20}[?!]|#N/?[A-Z]{1,3}|#{3,}|Err:\d{3}"
_POWER = r"[+-]?\d(?:[.,]\d+)?E[+-]\d{2,3}"
_DATE = (
    r"\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}"
    r"|\d{1,2}-[A-Z][a-z]{2}(?:-\d{2})?|[A-Z][a-z]{2}-\d{2}"
)
REWRITES = {"error": "an error", "power": "a number", "date": "a date"}
_REWRITTEN = re.compile(rf"\s*(?:(?P<error>{_ERROR})|(?P<power>{_POWER})|(?P<date>{_DATE}))\s*")


def disguise_of(path: Path) -> tuple[str, str] | None:
    """Return the kind of a file and the fix; None where it may be a text or .npy list."""
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    if head.startswith(b"PK\x03\x04"):
        if b"xl/" in head or b"[Content_Types].xml" in head:
            return "an Excel workbook (.xlsx)", UNTOUCHED
        return "a zip archive", UNPACK
    for begin, kind, fix in _SIGNATURES:
        if head.startswith(begin):
            return kind, fix
    if head.startswith(_NUMPY) and path.suffix != ".npy":
        return "a numpy file", "put the list there as plain text, one a line"
    if _ANNEX.fullmatch(head):
        return "a git-annex pointer", "run `git annex get` on it"
    if _REFUSAL.fullmatch(text := head.strip()):
        return f"the error message of a server: {ascii(text.decode())}", "download it again"
    if foreign := foreign_kind(head):
        return foreign
    if path.suffix == ".csv" and _JSON.match(head):
        return "JSON", AS_JSON
    if _is_wide(head):
        return "UTF-16 text without a byte order mark", _AS_UTF8.format("UTF-16LE", "old")
    return None


def _is_wide(head: bytes) -> bool:
    """Return whether nearly every second byte is zero, as in UTF-16 of Western texts."""
    pairs = len(head) // 2
    return pairs >= 8 and max(head[0::2].count(0), head[1::2].count(0)) > 0.9 * pairs


def rewritten(cells: Sequence[str], kinds: Mapping[str, str] = REWRITES) -> str | None:
    """Describe how a spreadsheet has rewritten one of these cells; None where it has not.

    No YouTube id (11 letters, digits, _ and -) has such a form. kinds: those of REWRITES that are
    looked for.
    """
    for cell in cells:
        match = _REWRITTEN.fullmatch(cell)
        if match and match.lastgroup and match.lastgroup in kinds:
            kind = kinds[match.lastgroup]
            return f"{ascii(cell.strip())} is {kind} that a spreadsheet made of a text"
    return None
