"""Only files as they were indexed, below the folder of the index, are served."""

import os
import shutil

import pytest
from app_files import SPEECH

from clip4vla.common.errors import UserError
from clip4vla.search.app.files import checked_file
from clip4vla.search.changes import Stamp


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clips" / "more").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    shutil.copy(SPEECH, tmp_path / "else" / "a.mp4")
    return shutil.copy(SPEECH, tmp_path / "clips" / "more" / "a.mp4")


def checked(folder, name, about):
    return checked_file(folder, str(name), Stamp(about.st_size, about.st_mtime_ns))


def test_an_unchanged_file_is_served(tmp_path, clip):
    assert checked(tmp_path / "clips", "more/a.mp4", clip.stat()) == clip.resolve()


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
        checked(tmp_path / "clips", "more/a.mp4", about)


def test_links_and_dots_lead_to_no_other_file(tmp_path, clip):
    other = tmp_path / "else" / "a.mp4"
    about = other.stat()
    (tmp_path / "clips" / "link.mp4").symlink_to(other)
    (tmp_path / "clips" / "door").symlink_to(tmp_path / "else")
    for name in ("link.mp4", "door/a.mp4", "../else/a.mp4", other):
        with pytest.raises(UserError, match="lies outside of the indexed folder. Fix: "):
            checked(tmp_path / "clips", name, about)


def test_a_folder_that_is_a_link_is_the_one_it_leads_to(tmp_path, clip):
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    assert checked(tmp_path / "link", "more/a.mp4", clip.stat()) == clip.resolve()


@pytest.mark.parametrize("name", ["nul\0.mp4", "loop.mp4", "x" * 300])
def test_paths_that_cannot_exist_are_one_sentence(tmp_path, clip, name):
    (tmp_path / "clips" / "loop.mp4").symlink_to("loop.mp4")
    with pytest.raises(UserError, match="the file is no longer there"):
        checked(tmp_path / "clips", name, clip.stat())
