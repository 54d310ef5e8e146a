"""Pages whose clips play: addresses, previews, two runs side by side, and a browser that plays."""

import html
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from browser import Browser
from test_pages import EVIL, FakeCache, Page, metrics, retrieval

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json
from clip4vla.pages.examples import write_examples
from clip4vla.pages.media import beside, files_of, inside
from clip4vla.pages.pair import Evaluated, write_pair
from clip4vla.search.app.clip import write_clip

FILM = Path(__file__).parents[2] / "demo/clips/say_dog.mp4"


def media_of(page: Page) -> dict[str, str]:
    """Class of a thumbnail -> address, as the page has them."""
    return json.loads(html.unescape(re.search(r"<main data-media='([^']*)'", page.raw)[1]))


def written(folder, address, count=6):
    write_json(folder / "metrics.json", metrics("retrieval", {"t2v_R1": 1.0}))
    retrieval(count).to_parquet(folder / "predictions.parquet")
    shown = write_examples(FakeCache(), folder, address=address)
    return shown, Page(folder / "examples.html")


def test_clips_whose_files_are_there_can_be_played_from_any_name(tmp_path):
    name = "a #1 'x' \"y\" <b>%20.mp4"
    shutil.copy(FILM, tmp_path / name)
    shown, _ = written(tmp_path, address=lambda _: "")
    ledger = tmp_path / "ledger.parquet"
    paths = [str(tmp_path / name), str(tmp_path / "gone.mp4"), None]
    pd.DataFrame({"clip_id": shown[:3], "path": paths}).to_parquet(ledger)
    _, page = written(tmp_path, address=beside(files_of(ledger), tmp_path))
    page.check()
    assert list(media_of(page).values()) == ["a%20%231%20%27x%27%20%22y%22%20%3Cb%3E%2520.mp4"]
    played = [attributes for tag, attributes in page.tags if "data-clip" in attributes]
    assert played and {item["data-clip"] for item in played} == set(media_of(page))


def test_without_a_ledger_no_clip_can_be_played(tmp_path):
    assert files_of(tmp_path / "ledger.parquet") == {}
    _, page = written(tmp_path, address=beside({}, tmp_path))
    assert media_of(page) == {} and not [a for _, a in page.tags if "data-clip" in a]


def test_a_preview_is_small_and_inside_of_the_page(tmp_path):
    film = tmp_path / "film.mp4"
    write_clip(FILM, 0.0, 60.0, film, tallest=90, sound_bits=32_000)
    assert film.stat().st_size < 60_000
    shown, _ = written(tmp_path, address=lambda _: "")
    _, page = written(tmp_path, address=inside({shown[0]: film}))
    (address,) = media_of(page).values()
    assert address.startswith("data:video/mp4;base64,")


def side(name, ranks, **more):
    frame = retrieval(len(ranks)).assign(rank=[float(rank) for rank in ranks])
    values = metrics("retrieval", {"t2v_R1": 1.0}) | {"gallery": "all"} | more
    return Evaluated(name, values, frame)


def test_two_runs_side_by_side_show_what_only_one_gets_right(tmp_path):
    one, two = side("first", [1, 1, 4, 9, 1]), side(EVIL, [1, 3, 1, 2, 8])
    out = tmp_path / "pair.html"
    write_pair(FakeCache(), one, two, out)
    page = Page(out)
    page.check()
    groups = [article["data-groups"] for article in page.articles]
    assert sorted(groups) == [
        "both-right",
        "both-wrong",
        "only-first-right",
        "only-first-right",
        "only-second-right",
    ]
    gains = {a["data-groups"]: float(a["data-gain"]) for a in page.articles}
    assert gains["only-second-right"] == -3 and gains["both-wrong"] == -7
    assert "first: rank 1" in page.text and f"{EVIL}: rank 8" in page.text
    assert "40.0 %" in page.text and EVIL in page.text


@pytest.mark.parametrize(
    ("task", "column", "first", "second", "group"),
    [
        ("captioning", "CIDEr", 30.0, 20.0, "first-better"),
        ("tagging", "label_precision", 10.0, 10.0, "equal"),
        ("classification", "predicted", "a", "b", "only-first-right"),
    ],
)
def test_every_task_has_its_pairs(tmp_path, task, column, first, second, group):
    def evaluated(value):
        frame = pd.DataFrame({"clip_id": ["x"], column: [value]})
        more = {"hypothesis": EVIL, "label": "a"}
        frame = frame.assign(**more, references=[[EVIL]], labels=[["a"]], top5=[["a", EVIL]])
        return Evaluated(f"run {value}", metrics(task, {}) | {"gallery": "all"}, frame)

    out = tmp_path / "pair.html"
    assert write_pair(FakeCache(), evaluated(first), evaluated(second), out) == ["x"]
    page = Page(out)
    page.check()
    assert [article["data-groups"] for article in page.articles] == [group]


def test_runs_of_other_clips_are_not_compared(tmp_path):
    other = side("b", [1, 2])
    other.metrics["galleries"]["all"]["ids_sha256"] = "1" * 64
    with pytest.raises(UserError, match=r"a and b: they were scored on different clips .*Fix: "):
        write_pair(FakeCache(), side("a", [1, 2]), other, tmp_path / "pair.html")
    with pytest.raises(UserError, match=r"a and b: split is 'test' and 'val'\. Fix: "):
        write_pair(FakeCache(), side("a", [1]), side("b", [1], split="val"), tmp_path / "p.html")


def test_a_click_plays_the_clip_and_another_one_stops_it(tmp_path):
    shutil.copy(FILM, tmp_path / "film.mp4")
    shown, _ = written(tmp_path, address=lambda _: "")
    files = dict.fromkeys(shown[:2], tmp_path / "film.mp4")
    address = beside(files, tmp_path)
    written(
        tmp_path, address=lambda clip: address(clip) or ("gone.mp4" if clip == shown[2] else "")
    )
    button = "document.querySelectorAll('button.plays')"
    with Browser(tmp_path / "profile") as browser:
        browser.size(390, 844)
        browser.call("Page.navigate", url=(tmp_path / "examples.html").as_uri())
        browser.wait("document.readyState === 'complete'")
        browser.run(f"{button}[0].click()")
        browser.wait("document.querySelector('video')?.currentTime > 0.2")
        assert browser.run("document.querySelector('video').webkitAudioDecodedByteCount") > 0
        assert float(browser.run("document.querySelector('.cursor').style.left").strip("%")) > 0
        assert browser.run("document.documentElement.scrollWidth") <= 390
        browser.run(f"{button}[1].click()")
        browser.wait("document.querySelectorAll('video')[0].paused")
        assert browser.run("document.querySelectorAll('.playing').length") == 1
        browser.key("Escape")
        assert browser.run("document.querySelectorAll('.playing').length") == 0
        browser.run(
            "[...document.querySelectorAll('button.plays')].find(b => "
            f"b.ariaLabel === 'play ' + {json.dumps(shown[2])}).click()"
        )
        browser.wait("document.querySelector('.trouble')?.innerText.includes('--previews')")
        assert browser.problems == []
