"""Only files as they were indexed, below the folders of the index, are served."""

import os
import shutil

import pytest
from app_files import SPEECH

from clip4vla.common.errors import UserError
from clip4vla.search.app.files import checked_file


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clips" / "more").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    shutil.copy(SPEECH, tmp_path / "else" / "a.mp4")
    return shutil.copy(SPEECH, tmp_path / "clips" / "more" / "a.mp4")


def checked(path, about, *folders):
    return checked_file(path, about.st_size, about.st_mtime_ns, folders)


def test_an_unchanged_file_is_served(tmp_path, clip):
    assert checked(clip, clip.stat(), tmp_path / "clips") == clip.resolve()


@pytest.mark.parametrize("change", ["removed", "longer", "later", "folder"])
def test_a_file_that_changed_is_refused(tmp_path, clip, change):
    about = clip.stat()
    if change == "later":
        os.utime(clip, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    elif change == "longer":
        with open(clip, "ab") as stream:
            stream.write(b"x")
        os.utime(clip, ns=(about.st_atime_ns, about.st_mtime_ns))
    else:
        clip.unlink()
        if change == "folder":
            clip.mkdir()
    with pytest.raises(UserError, match=r"a\.mp4: the file .*\. Fix: "):
        checked(clip, about, tmp_path / "clips")


def test_links_and_dots_lead_to_no_other_file(tmp_path, clip):
    other = tmp_path / "else" / "a.mp4"
    about = other.stat()
    link = tmp_path / "clips" / "link.mp4"
    link.symlink_to(other)
    (tmp_path / "clips" / "door").symlink_to(tmp_path / "else")
    dots = tmp_path / "clips" / ".." / "else" / "a.mp4"
    absolute = tmp_path / "clips" / str(other)
    for path in (link, tmp_path / "clips" / "door" / "a.mp4", dots, absolute, other):
        with pytest.raises(UserError, match="lies outside of the indexed folder. Fix: .*--allow"):
            checked(path, about, tmp_path / "clips")
        assert checked(path, about, tmp_path / "clips", tmp_path / "else") == other.resolve()


@pytest.mark.parametrize("name", ["nul\0.mp4", "loop.mp4", "x" * 300])
def test_paths_that_cannot_exist_are_one_sentence(tmp_path, clip, name):
    (tmp_path / "clips" / "loop.mp4").symlink_to("loop.mp4")
    with pytest.raises(UserError, match="the file is no longer there"):
        checked(tmp_path / "clips" / name, clip.stat(), tmp_path / "clips")
