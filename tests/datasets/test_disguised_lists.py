"""Lists with other content, or saved by a spreadsheet: all readers name them in one line."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import miniatures
import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets import official, read_annotations
from clip4vla.datasets.disguised import rewritten

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def zipped(member: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(member, "a,b\n")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train.csv"))
    return stream.getvalue()


DISGUISES = {  # content, what it is called, what helps
    "lfs": (POINTER, "is a Git LFS pointer", "git lfs pull"),
    "annex": (b"/annex/objects/MD5E-s12--0a.csv\n", "is a git-annex pointer", "git annex get"),
    "page": (b"\n\n <!DOCTYPE html>\n<html><body>Log in</body></html>", "is a web page", "Raw"),
    "refusal": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page", "Raw"),
    "raw": (b"404: Not Found", "is the error message of a server: '404: Not Found'", "download it again"),
    "gzip": (gzip.compress(b"a,b\n" * 50), "is a gzip file", "unpack it"),
    "bzip2": (bz2.compress(b"a,b\n"), "is a bzip2 file", "unpack it"),
    "xz": (lzma.compress(b"a,b\n"), "is an xz file", "unpack it"),
    "zip": (zipped("train.csv"), "is a zip archive", "unpack it"),
    "tar": (tarred(), "is a tar archive", "unpack it"),
    "xlsx": (zipped("xl/workbook.xml"), "is an Excel workbook", "as published"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "old Office", "as published"),
    "pdf": (b"%PDF-1.7\n", "is a PDF", "as published"),
    "utf-16": ("id,name\nä,b\n".encode("utf-16"), "is UTF-16 text", "iconv -f UTF-16 "),
    "utf-16be": (b"\xfe\xff" + "id\n".encode("utf-16-be"), "is UTF-16 text", "iconv -f UTF-16 "),
    "no mark": ("id,name\nab,b\n".encode("utf-16-le"), "without a byte order mark", "iconv -f UTF-16LE"),
    "utf-32": ("id,name\n".encode("utf-32"), "is UTF-32 text", "iconv -f UTF-32"),
    "zeros": (bytes(4096), "is zero bytes", "copy it again"),
}  # fmt: skip


def refused(reader, folder) -> str:
    with pytest.raises(UserError) as caught:
        read_annotations("mine", Dataset(reader=reader, annotations=folder, media=folder))
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and text.isprintable() and text.startswith("mine: ")
    assert ". Fix: " in text
    return text


@pytest.mark.parametrize("form", miniatures.FORMS)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_file_in_place_of_a_list_is_named_with_the_remedy(tmp_path, form, disguise):
    reader, write = miniatures.FORMS[form]
    write(tmp_path)
    content, what, remedy = DISGUISES[disguise]
    for path in miniatures.files_in(tmp_path):
        original = path.read_bytes()
        path.write_bytes(content)
        text = refused(reader, tmp_path)
        assert f"{path} {what}" in text or (str(path) in text and what in text)
        assert remedy in text and "in place of" in text
        path.write_bytes(original)
    read_annotations("mine", Dataset(reader=reader, annotations=tmp_path, media=tmp_path))


CELLS = ["#NAME?", " #VALUE! ", "#ИМЯ?", "#DIV/0!", "#N/A", "#NV", "########", "Err:509"]
CELLS += ["1.2E+05", "1E+12", "1,23E-07", "10-Jan", "Jan-10", "10-Jan-10", "1/2/2010", "2010-01-02"]
INTACT = [
    "-0nqfRcnAYE",
    "=",
    "# 3 dogs",
    "#wow",
    "1E5",
    "5.0",
    "-12.5",
    "10-Jan-2010",
    "1-2-3-4-5-6",
]
INTACT += ["1-100032-A-0.wav", "1 ApplyEyeMakeup", "a #NAME? in a caption", "", "12345678901"]


def test_cells_rewritten_by_a_spreadsheet_are_detected_and_ids_are_not():
    assert [cell for cell in CELLS if not rewritten(["fine", cell])] == []
    assert [cell for cell in INTACT if rewritten([cell])] == []


TABLES = [  # reader, file, a cell of a row that is replaced, its line
    ("audioset", "unbalanced_train_segments.csv", "x-_00000001", 5),
    ("audioset", "class_labels_indices.csv", "/m/09x0r", 2),
    ("audioset", "eval_segments.csv", "--4gqARaEJE", 3),
    ("vggsound", "vggsound.csv", "v-_00000000", 1),
    ("vggsound", "test.csv", "v-_00000011_000007.mp4", 1),
    ("vggsound", "vggsounder.csv", "v-_00000006_000180", 2),
    ("audiocaps", "train.csv", "s-_00000000", 2),
    ("audiocaps", "test.csv", '"A man speaks, then 7 dogs bark 0"', 2),
    ("howto100m", "HowTo100M_v1.csv", None, 2),
    ("msrvtt", "MSRVTT_train.9k.csv", "video0", 2),
    ("msrvtt", "MSRVTT_JSFUSION_test.csv", '"a person, asleep"', 2),
    ("vatex", "vatex_retrieval_val.txt", None, 1),
    ("esc50", "meta/esc50.csv", "1-100100-A-0.wav", 2),
    ("ucf101", "classInd.txt", "1 ApplyEyeMakeup", 1),
]


@pytest.mark.parametrize("cell", ["#NAME?", "1.2E+05", "10-Jan"])
@pytest.mark.parametrize(("reader", "file", "old", "line"), TABLES)
def test_a_list_that_was_saved_by_excel_is_refused_with_its_line(
    tmp_path, reader, file, old, line, cell
):
    miniatures.WRITE[reader](tmp_path)
    rows = (tmp_path / file).read_text().splitlines()
    old = old or rows[line - 1].split(",")[0]
    assert old in rows[line - 1]
    rows[line - 1] = rows[line - 1].replace(old, cell, 1)
    (tmp_path / file).write_text("\n".join(rows) + "\n")
    text = refused(reader, tmp_path)
    assert f"{file}, line {line}: '{cell}' is " in text and "that a spreadsheet made" in text


def test_audiosets_comments_end_where_its_rows_begin(tmp_path):
    miniatures.audioset(tmp_path)
    path = tmp_path / "unbalanced_train_segments.csv"
    whole = path.read_text()
    path.write_text(whole + "# the rest, some other day\n")
    with pytest.raises(UserError, match=rf"line {len(whole.splitlines()) + 1}: 2 columns"):
        read_annotations("a", Dataset(reader="audioset", annotations=tmp_path, media=tmp_path))


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_are_named(tmp_path, separator, word):
    miniatures.audiocaps(tmp_path)
    path = tmp_path / "val.csv"
    path.write_text(path.read_text().replace(",", separator))
    assert f"separated by {word}" in refused("audiocaps", tmp_path)
    miniatures.audioset(tmp_path)
    path = tmp_path / "unbalanced_train_segments.csv"
    path.write_text(path.read_text().replace(",", separator))
    assert f"separated by {word}" in refused("audioset", tmp_path)


def test_a_list_that_ends_at_the_last_row_of_a_sheet_is_refused(tmp_path, monkeypatch):
    miniatures.audioset(tmp_path)
    lines = (tmp_path / "unbalanced_train_segments.csv").read_text().splitlines()
    monkeypatch.setattr(official, "EXCEL_ROWS", len(lines))
    assert "the last row of an Excel sheet" in refused("audioset", tmp_path)
