"""Tables of own clips that tests write, in every form."""

import csv
import io
import json

import pandas as pd

ROWS = [
    {"id": "a", "file": "a.mp4", "caption": "a dog, barking", "label": "dog", "split": "train"},
    {"id": "b", "file": "in/b.mp4", "caption": 'he says "no"', "label": "man, old", "split": "val"},
    {"id": "c", "file": "c.wav", "caption": "Übung", "label": "dog", "split": "test"},
]


def as_csv(rows, delimiter=","):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write(path, rows):
    match path.suffix.lower():
        case ".csv":
            path.write_text(as_csv(rows))
        case ".tsv":
            path.write_text(as_csv(rows, "\t"))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path, index=False)
    return path
