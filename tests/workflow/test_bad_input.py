"""A user's mistake: one line that names it and the remedy, no traceback, nothing half-written."""

import shutil
import socket
import subprocess
import sys

import pandas as pd
import pytest
from mini import REPO, Project

pytestmark = pytest.mark.workflow


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "project")


def text_of(done) -> str:
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    return text


def test_a_port_in_use(project):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, str(REPO / "demo" / "run.py"), "--out", str(project.out)]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True)
    assert done.returncode == 2
    assert text_of(done).count("\n") == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    command = [
        sys.executable,
        str(REPO / "demo" / "run.py"),
        "--out",
        str(tmp_path / "file" / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert text_of(done).count("\n") == 1
    assert str(tmp_path / "file") in done.stderr


def test_a_folder_of_annotations_that_is_missing(project):
    shutil.rmtree(project.folder / "notes")
    done = project.run()
    assert done.returncode != 0
    lines = [line for line in text_of(done).splitlines() if "annotations in" in line]
    assert len(lines) == 1
    assert "datasets.demo.enabled: false" in lines[0]
    assert not (project.out / "data").exists()


def test_an_annotation_file_that_cannot_be_read(project):
    table = project.folder / "notes" / "clips.tsv"
    lines = table.read_text().splitlines()
    lines[3] = lines[3].replace('"[""', '"[broken')
    table.write_text("\n".join(lines) + "\n")
    done = project.run()
    assert done.returncode != 0
    assert "clips.tsv, line 4: invalid captions" in text_of(done)
    assert not list(project.out.glob("data/*/*.parquet"))


def test_a_config_mistake_stops_before_anything_runs(project):
    config = project.folder / "config.yaml"
    config.write_text(config.read_text().replace("max_segments: 2", "max_segment: 2", 1))
    done = project.run()
    assert done.returncode != 0
    assert "inputs.max_segment: unknown key; did you mean max_segments?" in text_of(done)


def test_a_web_page_in_place_of_weights_stops_before_anything_runs(project):
    page = project.folder / "clip.pt"
    page.write_text("<html>Sign in</html>")
    config = project.folder / "config.yaml"
    weights = "weights.mine.path: clip.pt\nrecipe:\n  model.weights: mine\n"
    config.write_text(config.read_text().replace("recipe:\n", weights, 1))
    done = project.run()
    assert done.returncode != 0
    assert (
        f"weights mine: {page}: is a web page (HTML or XML), not weights. Fix: download"
        in text_of(done)
    )
    assert not list(project.out.glob("data/*/*.parquet"))


def test_broken_media_are_rows_of_the_ledger(project):
    """Local files: gone, empty, cut off, another type under the suffix, no video, no sound."""
    media = project.folder / "media" / "clips"
    media.mkdir(parents=True)
    names = pd.read_csv(project.folder / "notes" / "clips.tsv", sep="\t").file
    for name in names:
        shutil.copy(REPO / "demo" / name, project.folder / "media" / name)
    paths = [project.folder / "media" / name for name in names[:4]]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:2000])
    paths[3].write_text("<html>not a video</html>")
    (project.folder / "notes" / "film.tsv").unlink()
    config = project.folder / "config.yaml"
    local = "  source: local\n  media: media\n  min_coverage: 0.5\nrecipe:"
    config.write_text(config.read_text().replace("recipe:", local, 1))
    done = project.run("data")
    assert done.returncode == 0, text_of(done)
    ledger = pd.read_parquet(next(project.out.glob("data/*/ledger.parquet"))).set_index("clip_id")
    broken = [path.stem for path in paths]
    assert ledger.loc[broken[0], "fetch"] == "gone"
    assert set(ledger.loc[broken[1:], "video"]) == {"decode_error"}
    assert (ledger.video == "ok").sum() == len(names) - 4


def test_too_little_data_stops_with_a_count_by_status(project):
    config = project.folder / "config.yaml"
    config.write_text(config.read_text().replace("recipe:", "  min_coverage: 1\nrecipe:", 1))
    done = project.run("data")
    assert done.returncode != 0
    assert "min_coverage" in text_of(done)
    assert "gone" in done.stdout + done.stderr
    assert not list(project.out.glob("data/*/ledger.parquet"))


def test_without_any_data_the_tables_stand_and_say_so(project):
    config = project.folder / "config.yaml"
    config.write_text(config.read_text().replace("recipe:", "  enabled: false\nrecipe:", 1))
    done = project.run("tables", "report")
    assert done.returncode == 0, text_of(done)
    table = (project.out / "results/tables/mini_retrieval/table.md").read_text()
    assert table.count("not run (no data)") >= 2
    assert (project.out / "results/report.zip").is_file()
