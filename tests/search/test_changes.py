"""What has changed in a folder: found by size and time, by content only where these cannot tell."""

from clip4vla.search.changes import Known, Stamp, changes

KNOWN = {
    "same": Known(Stamp(1, 10), "done", "s"),
    "touched": Known(Stamp(2, 10), "done", "t"),
    "rewritten": Known(Stamp(3, 10), "done", "r"),
    "longer": Known(Stamp(4, 10), "done", "l"),
    "moved": Known(Stamp(5, 10), "done", "m"),
    "gone": Known(Stamp(6, 10), "done", "g"),
    "begun": Known(Stamp(7, 10), "unfinished"),
}
CONTENT = {"touched": "t", "rewritten": "other", "new/moved": "m", "as long as gone": "else"}


def test_each_kind_of_change():
    found = {
        "same": Stamp(1, 10),
        "touched": Stamp(2, 11),
        "rewritten": Stamp(3, 11),
        "longer": Stamp(40, 10),
        "new/moved": Stamp(5, 10),
        "as long as gone": Stamp(6, 10),
        "begun": Stamp(7, 11),
        "new": Stamp(8, 1),
    }
    read = []
    result = changes(found, KNOWN, lambda path: read.append(path) or CONTENT[path])
    assert result.touched == ["touched"]
    assert result.changed == ["rewritten", "longer", "begun"]
    assert result.moved == {"moved": "new/moved"}
    assert result.new == ["as long as gone", "new"]
    assert result.vanished == ["gone"]
    assert sorted(read) == sorted(CONTENT), "nothing else is read"


def test_two_copies_of_a_vanished_file_take_its_windows_once():
    found = {"a": Stamp(5, 1), "b": Stamp(5, 2)}
    result = changes(found, {"moved": KNOWN["moved"]}, lambda _: "m")
    assert (result.moved, result.new, result.vanished) == ({"moved": "a"}, ["b"], [])
