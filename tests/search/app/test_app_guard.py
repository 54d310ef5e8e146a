"""Which requests are refused: foreign host names, and those of other pages."""

import socket

import pytest
from starlette.datastructures import Headers

from clip4vla.search.app.guard import Guard

GUARD = Guard(app=None, hosts=["studio.lan"])


def problem(path="/api/about", **headers):
    return GUARD.problem(
        path, Headers({name.replace("_", "-"): value for name, value in headers.items()})
    )


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8350", "localhost:9999", "LOCALHOST", "[::1]:8350", "10.0.0.7:8350"),
        *("studio.lan:8350", socket.gethostname()),
    ],
)
def test_own_names_and_addresses_are_answered(host):
    assert problem(host=host) == ""


@pytest.mark.parametrize(
    "host",
    ["evil.example:8350", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a@b"],
)
def test_foreign_names_are_refused(host):
    assert "not a name of this server. Fix: " in problem(host=host)
    assert "not a name of this server. Fix: " in problem("/", host=host)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_pages_are_refused(site):
    host = {"host": "localhost:8350"}
    assert "another page" in problem(**host, sec_fetch_site=site)
    assert "another page" in problem(**host, sec_fetch_site=site, sec_fetch_mode="navigate")
    assert problem("/", **host, sec_fetch_site=site, sec_fetch_mode="navigate") == ""  # a link
    assert "another page" in problem("/", **host, sec_fetch_site=site, sec_fetch_mode="no-cors")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000"])
def test_other_origins_are_refused(origin):
    assert "another page" in problem(host="localhost:8350", origin=origin)
    assert problem(host="localhost:8350", origin="http://localhost:8350") == ""


def test_the_page_and_commands_are_answered():
    assert problem(host="localhost:8350", sec_fetch_site="same-origin", sec_fetch_mode="cors") == ""
    assert problem(host="localhost:8350") == ""  # curl


@pytest.mark.parametrize("length", ["", "100001", "9" * 5000, "-1", "1e3", "\xb2"])
def test_a_query_of_unknown_or_huge_size_is_not_read(length):
    headers = {"host": "localhost:8350"} | ({"content_length": length} if length else {})
    assert "huge size" in problem("/api/search", **headers)
    assert problem("/api/search/file", **headers) == ""  # counted while it is read


def test_a_query_of_usual_size_is_read():
    assert problem("/api/search", host="localhost:8350", content_length="100000") == ""
