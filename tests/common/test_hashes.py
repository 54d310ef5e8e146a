"""Hashes of files and folders."""

import hashlib

from clip4vla.common.files import sha256_of_file, sha256_of_files


def test_one_file_has_its_own_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    assert sha256_of_files([tmp_path / "a"]) == hashlib.sha256(b"one").hexdigest()


def test_a_folder_has_the_hash_of_its_files(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_bytes(b"one")
    (folder / "b").write_bytes(b"two")
    first = sha256_of_files([folder])
    (folder / "inner" / "c").write_bytes(b"not read")
    assert sha256_of_files([folder]) == first
    (folder / "b").write_bytes(b"three")
    assert sha256_of_files([folder]) != first
    both = sha256_of_files([folder / "a", folder / "b"])
    assert both == sha256_of_files([folder]) != sha256_of_file(folder / "a")
