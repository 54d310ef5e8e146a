"""Errors in the processes that read clips: one line, and the command ends."""

import subprocess
import sys

import pytest
import torch

from clip4vla.common.errors import UserError
from clip4vla.loading.loader import loader

MESSAGE = "0.tar: clip bravo: its bytes have changed. Fix: run `clip4vla data verify`"
LEFT_BEHIND = """
from test_loader_workers import Changed, loader, torch

kept = iter(loader(Changed(), [[0]] * 8, 2, torch.device("cpu")))
try:
    next(kept)
except ValueError as error:
    held = error
raise SystemExit(78)
"""


class Changed(torch.utils.data.Dataset):
    """A clip whose bytes have changed."""

    def collate(self, samples):
        return samples

    def __getitem__(self, index):
        raise UserError(MESSAGE)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_clip_is_refused_in_one_line_by_every_process(workers):
    with pytest.raises(UserError) as error:
        list(loader(Changed(), [[0]], workers, torch.device("cpu")))
    assert str(error.value) == MESSAGE


def test_workers_that_an_error_left_behind_do_not_keep_the_command():
    """They ignore SIGTERM, and Python waits for its children at exit."""
    command = [sys.executable, "-c", LEFT_BEHIND]
    found = subprocess.run(command, cwd=__file__.rpartition("/")[0], timeout=300, check=False)
    assert found.returncode == 78
