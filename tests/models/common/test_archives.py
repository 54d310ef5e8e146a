"""Files that others wrote are read, and nothing in them runs."""

import argparse
import errno
import os
import pickle
import random
import shlex
import subprocess
import sys
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from foreign_weights import openai_state, script_archive
from safetensors.torch import save_file

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.weights import read_named
from clip4vla.models.common.archives import read_tensors, read_weight_file
from clip4vla.models.common.tensor_files import read_metadata

WORDS = {"visual.conv1.weight": torch.arange(6.0).view(2, 3), "logit_scale": torch.tensor(4.0)}


def refused(path, *words):
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as error:
        read_tensors(path)
    message = str(error.value)
    assert all(word in message for word in (str(path), *words)), message
    assert "\n" not in message


def test_an_archive_gives_its_tensors_and_its_code_never_runs(tmp_path):
    path = tmp_path / "clip.pt"
    state = script_archive(path, openai_state(seed=5))
    file = read_weight_file(path)
    assert file.layout == "TorchScript archive"
    assert file.tensors.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in file.tensors.items())


@pytest.mark.parametrize(
    ("saved", "left_out"),
    [
        (WORDS, ()),
        ({"epoch": 3, "state_dict": WORDS}, ("epoch",)),
        ({"epoch": 3, "model": WORDS, "optimizer": {"state": {0: [torch.ones(1)]}}}, None),
        (WORDS | {"epoch": 3, "global_step": 70, "optimizer": {"lr": 0.1}}, None),
        ({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in WORDS.items()}}, ("epoch",)),
        ({f"module.{k}": v for k, v in WORDS.items()}, ()),
    ],
    ids=["plain", "open_clip", "nested", "among", "distributed", "distributed plain"],
)
def test_the_state_of_a_training_gives_its_weights(tmp_path, saved, left_out):
    path = tmp_path / "x.pt"
    torch.save(saved, path)
    file = read_weight_file(path)
    assert file.tensors.keys() == WORDS.keys()
    assert all(torch.equal(value, WORDS[name]) for name, value in file.tensors.items())
    expected = left_out if left_out is not None else set(saved) - set(WORDS) - {"model"}
    assert set(file.left_out) == set(expected)


@pytest.mark.parametrize("saved", [[1, 2], {"a": "text"}, {1: torch.ones(1)}, {"epoch": 3}, 5])
def test_what_is_no_state_dict(tmp_path, saved):
    torch.save(saved, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "plain state dict")


class Bomb:
    """Runs a command when a plain unpickler reads it."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.fixture
def nothing_runs(tmp_path, monkeypatch):
    """In an empty folder, in which a bomb leaves a file."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "saved",
    [
        {"visual.conv1.weight": Bomb()},
        {"epoch": 3, "global_step": 7, "optimizer": Bomb(), "state_dict": dict(WORDS)},
        {"clip.visual.conv1.weight": torch.ones(1), "optimizer": {"state": [Bomb()]}},
    ],
    ids=["weights", "resume", "among"],
)
def test_a_pickle_with_code_does_not_run(nothing_runs, saved, legacy):
    path = nothing_runs / "pytorch_model.bin.3"
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    refused(path, "contains posix.system, which may run code. Fix: give a safetensors")


def test_a_plain_pickle_with_code_does_not_run(nothing_runs):
    path = nothing_runs / "model.bin"
    path.write_bytes(pickle.dumps(Bomb(), 2))
    refused(path)


def test_the_data_of_an_archive_with_code_do_not_run(nothing_runs):
    """data.pkl of a real TorchScript archive, replaced by a bomb."""
    whole, path = nothing_runs / "whole.pt", nothing_runs / "bomb.pt"
    script_archive(whole, openai_state())
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as copy:
        for entry in archive.infolist():
            bomb = entry.filename.endswith("/data.pkl")
            copy.writestr(entry, pickle.dumps(Bomb(), 2) if bomb else archive.read(entry))
    refused(path, "posix.system", "which no archive of CLIP needs. Fix")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as weights: it is empty. Fix: download it again"),
        (b"not weights at all", "cannot be read as weights: unknown format (18 bytes)"),
        (
            random.Random(5).randbytes(4000),
            "cannot be read as weights: unknown format (4,000 bytes)",
        ),
        (b"\x08\0\0\0\0\0\0\0{broken}", "cannot be read as weights: its header is corrupt"),
        (b"\xff" * 8 + b"{" + bytes(99), "its header is truncated or corrupt"),
        (b"PK\x03\x04" + bytes(99), "it is a truncated or corrupt zip file"),
        (b"\x80\x04" + bytes(99), "it is a plain pickle, which torch did not write"),
        (b"\x1f\x8b\x08" + bytes(99), "is a gzip file, not weights. Fix: unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file (Keras), not weights. Fix: convert"),
        (b'{"metadata": {"total_size": 1}}', "is a JSON file"),
        (bytes(4096), "is zero bytes, as an interrupted copy leaves them"),
        (bytes(250).replace(b"\0", b"x") + b"1234567ustar\x0000", "is a tar archive"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"<html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_a_file_that_is_no_weight_file(tmp_path, content, words):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    refused(path, words)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"best": np.float64(3.0)}, "numpy"),
        ({"rng": np.arange(3)}, "numpy"),
        ({"args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"out": PurePosixPath("runs")}, "pathlib.PurePosixPath"),
    ],
    ids=["scalar", "array", "namespace", "path"],
)
def test_a_training_with_other_classes_names_them_and_how_to_convert(
    tmp_path, monkeypatch, beside, named, legacy
):
    """Not in torch's words, which advise to run the file's code; and the command works."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    torch.save({"model": WORDS, **beside}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        UserError, match=rf"x\.pt: contains {named}\S*, which may run code"
    ) as error:
        read_tensors(path)
    message = str(error.value)
    assert message.isprintable()
    command = shlex.split(message.partition("save only its state dict: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert read_tensors(tmp_path / "weights.pt").keys() == WORDS.keys()


def test_a_class_of_a_hostile_name_is_printed_without_its_control_characters(tmp_path):
    pickled = b"\x80\x02cevil\x1b[31m\nname\x07\n)R."
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3\n")
    with pytest.raises(UserError) as error:
        read_tensors(tmp_path / "x.pt")
    assert str(error.value).isprintable() and "evil" in str(error.value)


def test_a_zip_archive_that_torch_did_not_write(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("model.safetensors", b"")
    refused(tmp_path / "x.zip", "zip archive that torch did not write. Fix: unpack it")


@pytest.mark.parametrize("more", [-1, 1])
def test_a_safetensors_file_of_another_size_than_its_header_says(tmp_path, more):
    path = tmp_path / "x.safetensors"
    save_file(WORDS, path)
    content = path.read_bytes()
    path.write_bytes(content[:more] if more < 0 else content + b"x")
    refused(path, f"it has {len(content) + more} bytes, but its header says {len(content)}")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_without_its_end_is_told_in_our_words(tmp_path, legacy):
    path = tmp_path / "x.pt"
    torch.save(WORDS, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: -8 if legacy else -200])
    refused(path, "cannot be read as weights: ")


def test_a_missing_file_is_one_of_the_system(tmp_path):
    for read in (read_tensors, read_metadata):
        with pytest.raises(FileNotFoundError) as error:
            read(tmp_path / "none.safetensors")
        assert error.value.errno == errno.ENOENT and error.value.filename


def test_a_folder_is_no_weight_file(tmp_path):
    refused(tmp_path, "is a folder")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    """Cut off anywhere, or with any byte changed, a file is read or refused; nothing else."""
    generator = random.Random(3)
    for form in ("zip", "legacy", "safetensors"):
        path = tmp_path / form
        if form == "safetensors":
            save_file(WORDS, path)
        else:
            torch.save(WORDS, path, _use_new_zipfile_serialization=form == "zip")
        content = path.read_bytes()
        assert len(read_tensors(path)) == 2
        refusals = 0
        for trial in range(60):
            broken = bytearray(content[: generator.randrange(len(content))])
            if trial % 2:
                broken = bytearray(content)
                broken[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
            path.write_bytes(broken)
            try:
                read_tensors(path)
            except UserError as error:
                assert "\n" not in str(error)
                refusals += 1
        assert refusals > 20, form


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path):
    """Refused by the sizes that it claims, before anything is unpacked."""
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"")
        with archive.open("bomb/data/0", "w") as member:
            for _ in range(100):
                member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    refused(path, "claim to unpack to 104,857,600", "from its publisher")

    with zipfile.ZipFile(path, "w") as archive:  # the same claim, of 20 GiB in a few bytes
        archive.writestr("bomb/data.pkl", b"")
        archive.writestr("bomb/data/0", b"")
        archive.filelist[1].file_size = 20 * 2**30
    refused(path, "claim to unpack to 21,474,836,480", "from its publisher")


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path):
    """One number with strides of zero looks like a tensor of any size."""
    path = tmp_path / "x.pt"
    torch.save({"visual.conv1.weight": torch.ones(1).expand(10**5, 10**5)}, path)
    refused(path, "visual.conv1.weight claims [100000, 100000]", "Fix: download the file again")


def test_custom_text_names_of_open_clip(tmp_path):
    state = openai_state()
    text = {k for k in state if not k.startswith("visual.") and k != "logit_scale"}
    named = {f"text.{k}" if k in text else k: v for k, v in state.items()}
    torch.save(named, tmp_path / "x.pt")
    torch.save(state, tmp_path / "y.pt")
    kind, ours = read_named(tmp_path / "x.pt")
    assert kind == "open_clip"
    _, same = read_named(tmp_path / "y.pt")
    assert ours.keys() == same.keys()
