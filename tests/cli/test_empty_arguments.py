"""An empty argument, such as an unset variable of a shell, is refused: as a path it would be `.`."""

import pytest

from clip4vla.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["index", ""], "the argument after index"),
        (["index", "clips", "--out", "", "--checkpoint", "x"], "--out"),
        (["search", "clips.index", "--image="], "--image"),
        (["search", "", "a dog"], "the argument after search"),
        (["checkpoint", "export", "x", ""], "the argument after x"),
        ([""], "the argument after clip4vla"),
    ],
)
def test_an_empty_argument_is_one_line(tmp_path, monkeypatch, capsys, arguments, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    *_, line = capsys.readouterr().err.splitlines()
    assert ended.value.code == 78
    assert line == f"clip4vla: {place}: empty. Fix: give a value, or leave it out"
    assert [*tmp_path.iterdir()] == []


def test_resources_of_a_profile_may_be_empty(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["launch", "0123456789ab", "--gpu-model", "", "--extra="])
    *_, line = capsys.readouterr().err.splitlines()
    assert "0123456789ab" in line and "empty" not in line
