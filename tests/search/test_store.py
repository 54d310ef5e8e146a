"""Vectors in the tables of an index, and conditions on odd paths."""

import pytest
import torch

from clip4vla.search.store import Store, among, feature_table, tensor_of

ROW = {
    "number": 0, "start": 0.0, "end": 1.0, "has_picture": True, "has_sound": False,
    "thumbnail": b"",
}  # fmt: skip


@pytest.mark.parametrize("absent", [[], [1], [0, 2], [0, 1, 2]])
@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_vectors_come_back_with_zeros_for_what_is_missing(absent, shape, tmp_path):
    x = torch.randn(shape).half().float()
    x[absent] = 0
    store = Store(tmp_path, create=True)
    store.add_windows([ROW | {"path": str(n)} for n in range(3)], feature_table({"v": x}, None))
    (batch,) = store.windows.search().select(["v"]).to_arrow().to_batches()
    assert batch["v"].null_count == len(absent)
    found = tensor_of(batch["v"])
    assert torch.equal(found if len(absent) < 3 else found.expand_as(x), x)


def test_paths_of_any_kind_are_told_apart(tmp_path):
    paths = ["a'b", "a''b", "a\\b", "%", "_", "a\nb", "ü", " "]
    store = Store(tmp_path, create=True)
    rows = [ROW | {"path": path} for path in paths]
    store.add_windows(rows, feature_table({"v": torch.ones(len(paths), 2)}, None))
    for path in paths:
        (row,) = store.windows.search().where(among("path", [path])).to_list()
        assert row["path"] == path
    assert store.next_numbers(paths[:3]) == dict.fromkeys(paths[:3], 1)
    store.delete_windows(paths[1:])
    store.rename_windows(paths[0], "new")
    assert [row["path"] for row in store.windows.search().to_list()] == ["new"]


def test_numbers_of_rows_are_used_once(tmp_path):
    store, seen = Store(tmp_path, create=True), []
    for _ in range(3):
        store.add_windows([ROW | {"path": "a"}] * 2, feature_table({"v": torch.ones(2, 2)}, None))
        seen += [row["row"] for row in store.windows.search().to_list()]
        store.delete_windows(["a"])
    assert len(seen) == len(set(seen)) == 6
