"""The page in a real browser: what a person types, drops, plays and reads."""

import json

import pytest
from app_client import served
from app_files import FILM
from browser import Browser

STATE = """(element => { const v = element.querySelector('video');
  return { at: v.currentTime, paused: v.paused, muted: v.muted, width: v.videoWidth, classes: element.className,
           cursor: element.querySelector('.cursor').style.left }; })"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
        assert browser.problems == []  # no exception, nothing that the policy refused


@pytest.fixture
def page(browser, client):
    browser.size(1280, 900)
    browser.open(client.url)
    return browser


def names(page):
    return page.run("[...document.querySelectorAll('article .name')].map(name => name.textContent)")


def ask(page, text):
    page.run("document.querySelector('#words').select()")
    page.type(text)
    page.key("Enter", "\r")
    page.wait("document.querySelector('#cards').ariaBusy === 'false'")


def card_of(page, name):
    page.wait(
        f"[...document.querySelectorAll('article')].some(card => card.hit.path === {json.dumps(name)})"
    )
    return f"[...document.querySelectorAll('article')].find(card => card.hit.path === {json.dumps(name)})"


def state(page, card):
    return page.run(f"{STATE}({card})")


def test_the_first_view_says_what_is_there_and_what_can_be_done(page, client):
    assert f"{len(client.site.index)} windows of 5 files" in page.text("#facts")
    assert "tiny model" in page.text("#notice")
    assert "drop a sound, a picture or a video" in page.text("#status")
    assert len(names(page)) == 8 and page.run("document.activeElement.id") == "words"


def test_words_find_windows_with_their_scores(page, client):
    ask(page, "a dog barks")
    wanted = [hit["name"] for hit in client.search(words="a dog barks").json["hits"]]
    assert names(page) == wanted
    assert page.text("article .rank") == "1" and "best" in page.text("#status")
    assert page.run("document.querySelector('article .scores').textContent").count("sound") == 1
    assert page.run("location.search") == "?q=a+dog+barks"
    page.wait(
        "document.querySelector('article .picture')?.naturalWidth > 0 || document.querySelector('article.unseen')"
    )
    page.wait("document.querySelector('article:not(.silent) .heard img').naturalWidth === 640")


def test_a_name_is_text(page, client):
    ask(page, "a dog barks")
    odd = next(
        hit
        for hit in client.search(words="a dog barks", top=100).json["hits"]
        if "<b>" in hit["name"]
    )
    page.run("document.querySelector('#more').click()")
    page.wait(f"document.querySelectorAll('article').length === {len(client.site.index)}")
    assert odd["name"] in names(page) and page.run("document.querySelector('article b')") is None


@pytest.mark.parametrize("name, begin", [("bbb_040.mp4", 4.0), ("old.avi", 0.0)])
def test_a_result_plays_from_its_second_to_the_end_of_its_window(page, client, name, begin):
    row = client.rows(name)[1]
    page.open(f"{client.url}?like={row}")
    card = card_of(page, name)
    assert page.run(f"{card}.hit.row") == row
    page.run(f"{card}.querySelector('.play').click()")
    page.wait(f"{card}.classList.contains('playing')")
    first = state(page, card)
    assert begin <= first["at"] < begin + 3 and first["width"] > 0 and not first["muted"]
    page.wait(f"parseFloat({card}.querySelector('.cursor').style.left) > 10")
    page.run(f"{card}.querySelector('video').currentTime = {begin + 3.5}")
    page.wait(f"!{card}.classList.contains('playing')")
    last = state(page, card)
    assert last["paused"] and page.wait(f"{card}.querySelector('video').currentTime === {begin}")
    assert "started" not in last["classes"]


def test_one_result_plays_at_a_time_and_the_spectrogram_seeks(page, client):
    row = client.rows("bbb_040.mp4")[0]
    page.open(f"{client.url}?like={row}")
    cards = [f"document.querySelectorAll('article')[{i}]" for i in (0, 1)]
    for card in cards:
        page.run(f"{card}.querySelector('.stage').click()")
        page.wait(f"{card}.classList.contains('playing')")
    assert state(page, cards[0])["paused"]
    page.run(f"{cards[1]}.querySelector('.stage').click()")
    assert state(page, cards[1])["paused"]
    page.run(f"""(heard => {{ const box = heard.getBoundingClientRect(); heard.dispatchEvent(
        new MouseEvent('click', {{ bubbles: true, clientX: box.left + box.width / 2 }})); }})({cards[1]}.querySelector('.heard'))""")
    page.wait(f"{cards[1]}.classList.contains('playing')")
    begin, end = page.run(f"[{cards[1]}.media.from, {cards[1]}.media.to]")
    assert state(page, cards[1])["at"] >= (begin + end) / 2 - 0.2


def test_a_file_is_a_query(page, client):
    page.choose("#file", FILM)
    page.wait("document.querySelector('#status').textContent.includes('best')")
    assert names(page) == [hit["name"] for hit in client.upload(FILM.read_bytes()).json["hits"]]
    assert (
        "bbb_040.mp4" in page.text("#chip")
        and page.run("document.querySelector('#words').value") == ""
    )
    page.run("document.querySelector('#chip button').click()")
    assert page.run("document.querySelector('#chip').hidden")


def test_a_dropped_file_is_a_query(page):
    page.run("""fetch('/page.css').then(() => { const files = new DataTransfer();
        files.items.add(new File(['no sound'], 'noise.wav'));
        for (const kind of ['dragenter', 'dragover', 'drop'])
          document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true })); })""")
    page.wait("!document.querySelector('#error').hidden")
    assert page.text("#error").startswith("noise.wav: cannot be decoded") and page.run(
        "document.querySelector('#drop').hidden"
    )


def test_more_like_this_and_the_way_back(page):
    ask(page, "a dog barks")
    before = names(page)
    wanted = page.run("document.querySelectorAll('article')[2].hit.row")
    page.run("document.querySelectorAll('article')[2].querySelector('.like').click()")
    page.wait(f"document.querySelector('article')?.hit.row === {wanted}")
    assert (
        page.text("#chip").startswith("like ") and page.run("location.search") == f"?like={wanted}"
    )
    page.run("history.back()")
    page.wait("document.querySelector('#words').value === 'a dog barks'")
    page.wait(
        f"JSON.stringify([...document.querySelectorAll('article .name')].map(n => n.textContent)) === {json.dumps(json.dumps(before, separators=(',', ':'), ensure_ascii=False))}"
    )


def test_the_keyboard_does_it_all(page):
    ask(page, "a dog barks")
    page.key("ArrowDown")
    assert page.run("document.activeElement.querySelector('.rank').textContent") == "1"
    page.key("ArrowRight")
    page.key("ArrowDown")
    rank = int(page.run("document.activeElement.querySelector('.rank').textContent"))
    assert rank == 2 + page.run(
        "getComputedStyle(document.querySelector('#cards')).gridTemplateColumns.split(' ').length"
    )
    page.key(" ", " ")
    page.wait("document.activeElement.classList.contains('playing')")
    page.key("Escape")
    assert page.run("document.querySelector('.playing')") is None
    page.key("/", "/")
    assert (
        page.run("document.activeElement.id") == "words"
        and page.run("document.querySelector('#words').value") == "a dog barks"
    )
    page.key("ArrowDown")
    page.key("m", "m")
    page.wait("location.search.startsWith('?like=')")


def test_sliders_change_the_order(page, client):
    ask(page, "a dog barks")
    for key, share in (("sound_weight", 1), ("nonverbal_share", 0.2)):
        page.run(f"""(slider => {{ slider.value = {share}; slider.dispatchEvent(new Event('input'));
            slider.dispatchEvent(new Event('change')); }})(document.querySelector('#{key}'))""")
        page.wait("document.querySelector('#cards').ariaBusy === 'false'")
    hits = client.search(words="a dog barks", sound_weight=1, nonverbal_share=0.2).json["hits"]
    assert names(page) == [hit["name"] for hit in hits]
    assert page.text("#weight output") == "0 : 100"


def test_errors_are_sentences_on_the_page(page):
    ask(page, "x" * 10_000)
    assert (
        page.text("#error")
        == "search: 10,000 characters, of which a model reads a sentence or two. Fix: shorten them to 1,000 or fewer"
    )
    assert names(page) == []
    ask(page, "a dog")
    assert page.run("document.querySelector('#error').hidden") and names(page)


def test_a_vanished_file_is_a_sentence_on_its_card(browser, own):
    client, clips = own
    row = client.rows("bbb_040.mp4")[0]
    (clips / "bbb_040.mp4").unlink()
    browser.open(f"{client.url}?like={row}")
    browser.wait("!document.querySelector('article .trouble').hidden")
    assert "bbb_040.mp4: the file is no longer there. Fix: " in browser.text("article .trouble")
    browser.run("document.querySelector('article .play').click()")
    browser.wait("!document.querySelector('article').classList.contains('loading')")
    assert "no longer there" in browser.text("article .trouble")


def test_a_stopped_server_is_a_sentence(browser, original, tmp_path):
    with served(original[1], tmp_path / "temporary") as client:
        browser.open(client.url)
    ask(browser, "a dog")
    assert (
        browser.text("#error")
        == "The server does not answer. Fix: check that `clip4vla app` is still running"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_fits_every_window_and_both_themes(page, width, dark):
    page.size(width, 800, dark=dark)
    ask(page, "a dog barks")
    assert page.run("document.documentElement.scrollWidth") <= width
    ink, paper = (
        page.run("""['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name]
        .match(/\\d+/g).slice(0, 3).reduce((sum, value) => sum + +value, 0))""")
    )
    assert (ink > 600 > 200 > paper) if dark else (paper > 600 > 200 > ink)
