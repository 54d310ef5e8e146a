"""Plans, datasets and processes that fetch from the misbehaving server."""

import json
import os
import subprocess
import sys

import pandas as pd

from clip4vla.config.data import Dataset
from clip4vla.datasets.plan import PLAN_COLUMNS
from clip4vla.media import fetch

SCRIPT = """
import json, resource, sys
import pandas
from clip4vla.cli.main import one_line_errors
from clip4vla.config.data import Dataset
from clip4vla.media import fetch

fetch.BACKOFF_SECONDS = (0.0, 0.01, 0.01)
plan, media, url, how, largest = sys.argv[1:]
if int(largest):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
dataset = Dataset(reader="demo", annotations=".", source="http", url=url)
with one_line_errors():
    fetch.fetch_shard(pandas.read_parquet(plan), dataset, media, **json.loads(how))
"""


def rows(*files, start=None, end=None):
    """A plan whose clip_<n> is file n."""
    table = [
        (f"clip_{n}", f"source_{n}", file, start, end, "unknown", 0, start, end)
        for n, file in enumerate(files)
    ]
    return pd.DataFrame(table, columns=list(PLAN_COLUMNS)).astype(PLAN_COLUMNS)


def hurry(monkeypatch):
    """Short pauses; and what the downloader changes in the environment is put back."""
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", (0.0, 0.01, 0.01))
    monkeypatch.setattr("clip4vla.media.ytdlp.SOCKET_SECONDS", 0.5)
    for name in ("no_proxy", "NO_PROXY", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def http(url, **more):
    return Dataset(reader="demo", annotations=".", source="http", url=f"{url}/{{file}}", **more)


def start(plan, media, url, largest=0, **how):
    """The same fetch in a process of its own, which may be killed."""
    media.mkdir(parents=True, exist_ok=True)
    path = media.parent / "plan.parquet"
    plan.to_parquet(path)
    arguments = [path, media, f"{url}/{{file}}", json.dumps(how), str(largest)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )


def journal(media):
    """The whole records of a journal, also while it is written."""
    path = media / "journal.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
