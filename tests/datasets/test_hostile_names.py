"""Names that lead out of their folder, written into a plan after the reader's checks."""

from pathlib import Path

import miniatures
import numpy as np
import pandas as pd
import pytest

from clip4vla.cache.shards import build_shard
from clip4vla.common.errors import UserError
from clip4vla.config.data import Cache, Dataset
from clip4vla.datasets.plan import PLAN_COLUMNS
from clip4vla.media.fetch import fetch_shard

HOSTILE = {
    "up": "../../x",
    "absolute": "/etc/passwd",
    "nul": "a\0b",
    "long": "a" * 300,
    "look_alike_dots": "\u2024\u2024/x",
    "look_alike_letter": "\u0430bc",
    "reversed": "\u202egpm.4",
    "backslash": "..\\x",
    "newline": "a\nb",
    "option": "-rf",
    "dot": ".",
    "empty": "",
    "surrogate": "\ud800",
}


def everything_below(folder):
    return {path.relative_to(folder) for path in Path(folder).rglob("*")}


@pytest.fixture
def site(tmp_path):
    """A media folder with one file, its dataset, and one good plan row that cuts from it."""
    media = tmp_path / "deep" / "inside" / "media"
    media.mkdir(parents=True)
    miniatures.write_media(media, ["good.mp4"])
    section = Dataset(reader="demo", annotations=media, media=media)
    row = {"clip_id": "good", "source_id": "good", "file": "good.mp4"}
    row |= {"start": 0.5, "end": 1.5, "sound": "unknown", "shard": 0}
    return tmp_path, section, row


def plan_of(row):
    return pd.DataFrame([row], columns=list(PLAN_COLUMNS), dtype="object")


# Odd but harmless: there is no such file, and a source's id is in no path of a local source.
HARMLESS = {("file", name) for name in ("look_alike_letter", "look_alike_dots", "option")}
HARMLESS |= {("file", "backslash"), ("source_id", "option")}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("column", ["clip_id", "source_id", "file"])
def test_no_name_in_a_plan_leaves_its_folder(site, column, name):
    root, section, row = site
    folder = root / "deep" / "shard" / "media"
    before = everything_below(root)
    try:
        fetched = fetch_shard(plan_of(row | {column: HOSTILE[name]}), section, folder)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(error).isprintable()
    else:
        assert (column, name) in HARMLESS
        assert set(fetched.fetch) == {"gone" if column == "file" else "ok"}
    new = everything_below(root) - before
    assert all(Path("deep/shard") in (path, *path.parents) for path in new)


def test_a_good_row_is_cut_into_its_folder(site):
    root, section, row = site
    folder = root / "deep" / "shard" / "media"
    (fetched,) = fetch_shard(plan_of(row), section, folder).to_dict("records")
    assert (fetched["fetch"], Path(fetched["path"])) == ("ok", folder / "good.mp4")


def test_a_link_that_leads_out_is_refused(site):
    root, section, row = site
    (root / "secret.mp4").write_bytes((section.media / "good.mp4").read_bytes())
    (section.media / "link.mp4").symlink_to(root / "secret.mp4")
    with pytest.raises(UserError, match="leads out of"):
        fetch_shard(plan_of(row | {"file": "link.mp4"}), section, root / "shard")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_in_a_ledger_becomes_a_tar_member(site, tmp_path, name):
    _, section, row = site
    ledger = pd.DataFrame([row | {"fetch": "ok", "video": "ok", "audio": "no_audio_stream"}])
    ledger["path"] = str(section.media / "good.mp4")
    ledger["clip_id"] = pd.Series([HOSTILE[name]], dtype="object")

    def frames(path, fps, seconds=None):
        yield np.zeros((8, 8, 3), np.uint8)

    with pytest.raises(UserError, match="invalid clip id"):
        build_shard(ledger, Cache(), tmp_path / "out" / "0.tar", None, frames)
    assert not list(tmp_path.rglob("*.tar"))
