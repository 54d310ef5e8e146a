"""Recognise archives, web pages and pointers under a wrong name by their first bytes."""

HEAD = 4096  # bytes that identify a file
UNPACK = "unpack it and use the file inside"
_PACKED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a", "a RAR archive"),
)
_LFS = b"version https://git-lfs"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def foreign_kind(head: bytes) -> tuple[str, str] | None:
    """Return the kind of a file and the fix, if it is neither a list nor weights.

    head: the first bytes of the file. None: unknown; a zip file is too, because torch writes
    weights as one.
    """
    for start, kind in _PACKED:
        if head.startswith(start):
            return kind, UNPACK
    if head[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if head.startswith(bytes(8)):
        return "zero bytes, as an interrupted copy leaves them", "copy it again"
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text.startswith(_LFS):
        return (
            "a Git LFS pointer",
            "run `git lfs pull` in the repository that it is from, or download the file itself",
        )
    if text.startswith(b"<"):
        return (
            "a web page (HTML or XML)",
            "download the file itself, in a browser if need be (on GitHub: Raw)",
        )
    return None
