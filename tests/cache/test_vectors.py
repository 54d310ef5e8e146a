"""Tables of vectors: built once, by any number of processes, in whole blocks."""

import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest
import torch

from clip4vla.cache.vectors import Vectors
from clip4vla.common.errors import UserError

NAMES = [f"clip{i}" for i in range(10)]
FORK = multiprocessing.get_context("fork")


def vector(name):
    return torch.full((4,), float(name.removeprefix("clip"))) / 3


def compute(names):
    return torch.stack([vector(name) for name in names])


def table(folder, names=NAMES, meaning=None, block=3):
    return Vectors(folder, names, meaning or {"tower": "x"}, block)


def forbidden(names):
    pytest.fail(f"computed again: {names}")


def test_round_trip_in_blocks(tmp_path):
    vectors = table(tmp_path)
    vectors.build(compute)
    assert len(list(vectors.folder.glob("*.npy"))) == 4
    for one in (vectors, table(tmp_path), pickle.loads(pickle.dumps(vectors))):
        for name in reversed(NAMES):
            assert torch.equal(one[name], vector(name))
    table(tmp_path).build(forbidden)


def test_every_input_of_the_vectors_decides_the_folder(tmp_path):
    folders = {
        table(tmp_path).folder,
        table(tmp_path, NAMES[:-1]).folder,
        table(tmp_path, NAMES[::-1]).folder,
        table(tmp_path, meaning={"tower": "y"}).folder,
        table(tmp_path, block=4).folder,
    }
    assert len(folders) == 5
    assert table(tmp_path).folder in folders


def test_a_stopped_builder_leaves_whole_blocks_and_the_next_resumes(tmp_path):
    asked = []

    def stops(names):
        asked.append(names)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return compute(names)

    with pytest.raises(KeyboardInterrupt):
        table(tmp_path).build(stops)
    asked_again = []
    vectors = table(tmp_path)
    vectors.build(lambda names: asked_again.append(names) or compute(names))
    assert asked_again == [NAMES[6:9], NAMES[9:]]
    assert not list(vectors.folder.glob(".*.tmp"))
    assert torch.equal(vectors["clip9"], vector("clip9"))


def slow(folder, log, seconds):
    def one(names):
        with open(log, "a") as stream:
            stream.write(f"{os.getpid()} {names[0]}\n")
        time.sleep(seconds)
        return compute(names)

    table(folder, block=1).build(one)


def test_processes_share_the_work(tmp_path):
    """Three at once compute every block once between them, and each ends when all is there."""
    log = tmp_path / "log"
    processes = [FORK.Process(target=slow, args=(tmp_path, log, 0.05)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(name for _, name in lines) == sorted(NAMES)
    assert len({pid for pid, _ in lines}) > 1


def test_the_block_of_a_killed_process_is_taken_over(tmp_path, capfd):
    log = tmp_path / "log"
    stuck = FORK.Process(target=slow, args=(tmp_path, log, 600))
    stuck.start()
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    other = FORK.Process(target=slow, args=(tmp_path, log, 0))
    other.start()
    vectors = table(tmp_path, block=1)
    while len(list(vectors.folder.glob("*.npy"))) < 9:
        time.sleep(0.01)
    assert other.is_alive()  # everything else is done; it waits for the block of the stuck one
    os.kill(stuck.pid, signal.SIGKILL)
    other.join(60)
    assert other.exitcode == 0
    stuck.join()
    assert "waiting" in capfd.readouterr().err
    assert all(torch.equal(vectors[name], vector(name)) for name in NAMES)


@pytest.mark.parametrize(
    "content",
    [b"", b"cut", np.zeros((3, 4)), np.zeros(3, np.float32), np.zeros((2, 4), np.float32)],
)
def test_corrupt_files_are_named(tmp_path, content):
    table(tmp_path).build(compute)
    path = table(tmp_path).folder / "000001.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(UserError, match=r"000001\.npy: .*delete") as error:
        table(tmp_path)["clip0"]
    assert "\n" not in str(error.value)


def test_a_changed_block_is_refused_and_one_without_its_hash_is_read(tmp_path):
    table(tmp_path).build(compute)
    path = table(tmp_path).folder / "000001.npy"
    note, content = path.with_suffix(".sha256"), path.read_bytes()
    path.write_bytes(content[:-4] + bytes(4))  # the last number is 0 now, in a whole file
    with pytest.raises(UserError, match=r"000001\.npy: changed since .* Fix: delete") as error:
        table(tmp_path).build(forbidden)
    assert "\n" not in str(error.value)
    note.write_bytes(b"\xff garbage")
    with pytest.raises(UserError, match=r"000001\.npy: changed since"):
        table(tmp_path).build(forbidden)
    note.unlink()
    table(tmp_path).build(forbidden)  # of an older version
    path.write_bytes(content)
    path.unlink()
    table(tmp_path).build(compute)
    assert note.is_file() and path.read_bytes() == content
