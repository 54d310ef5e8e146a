"""A folder of odd and corrupt files: all that the page asks of them is answered."""

import sys
from pathlib import Path

import pytest
from app_client import served

sys.path.insert(0, str(Path(__file__).parents[2] / "media"))
from odd_media import CASES


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_window_of_odd_files_is_answered(tmp_path, index_of, every):
    clips = tmp_path / "clips"
    clips.mkdir()
    cases = CASES[::every]
    for case in cases:
        case.make(clips / case.name)
    (clips / "listed.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    with served(index_of(clips), tmp_path / "temporary") as client:
        hits = client.search(words="anything", top=100).json["hits"]
        assert len(CASES) >= 40 and len({hit["path"] for hit in hits}) > len(cases) // 2
        played = 0
        for hit in hits:
            row = hit["row"]
            for address in (f"/windows/{row}/thumbnail.jpg", f"/api/windows/{row}"):
                assert client.get(address).status == 200
            play = client.get(f"/api/windows/{row}/play")
            for answer in (
                play,
                client.get(f"/windows/{row}/picture.jpg"),
                client.get(f"/windows/{row}/spectrogram.png"),
            ):
                assert answer.status == 200 or answer.error
            if play.status == 200:
                media = client.get(play.json["url"])
                assert media.status == 200 and media.headers["content-type"][:5] in (
                    "video",
                    "audio",
                )
                played += 1
        assert played > 0.9 * len(hits)
