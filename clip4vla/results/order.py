"""Check of the order of rows, the claim of an ablation, against the paper's order."""

from dataclasses import dataclass
from itertools import combinations
from math import hypot

from clip4vla.config.metrics import metric_of
from clip4vla.results.compare import NO_REFERENCE, NOT_COMPARABLE, Entry
from clip4vla.results.sheet import Sheet
from clip4vla.results.text import number


@dataclass(frozen=True)
class Order:
    """Pairs of rows of one column that differ in the paper and that ours scored on equal clips."""

    pairs: int
    broken: tuple[tuple[Entry, Entry], ...]  # pairs in the opposite order, or equal
    partial: bool  # whether clips or seeds of any pair are missing

    @property
    def verdict(self) -> str:
        """Return `order kept 10/10`, or `order broken 9/10` with the number of pairs kept."""
        kept = self.pairs - len(self.broken)
        word = "broken" if self.broken else "kept"
        return f"order {word} {kept}/{self.pairs}" + (", partial" if self.partial else "")


def orders(sheet: Sheet, entries: list[Entry]) -> dict[tuple[str, str], Order]:
    """Return the order in each (dataset, column) that has a comparable pair.

    Entries that are not comparable to the paper's are left out.
    """
    checked = {}
    judged = [e for e in entries if e.difference is not None and e.verdict != NOT_COMPARABLE]
    for column in sheet.columns:
        place = (column.dataset, column.metric)
        rows = [e for e in judged if (e.dataset, e.column) == place]
        pairs = [pair for pair in combinations(rows, 2) if _comparable(*pair)]
        if pairs:
            broken = tuple(pair for pair in pairs if not _kept(*pair))
            partial = any(e.verdict == "partial" for pair in pairs for e in pair)
            checked[place] = Order(len(pairs), broken, partial)
    return checked


def order_notes(sheet: Sheet, entries: list[Entry]) -> list[str]:
    """Return the footers on the order: its rule, and every pair in the opposite order."""
    checked = orders(sheet, entries)
    if not checked:
        return []
    lines = [
        "Order: of the pairs of rows that the paper tells apart and ours scored on the same "
        "clips, those that stand the same way round."
    ]
    for (dataset, metric), order in checked.items():
        label = sheet.column_label(dataset, metric)
        if order.broken:
            pairs = "; ".join(_described(one, two) for one, two in order.broken)
            lines.append(f"Order broken, {sheet.dataset_label(dataset)} {label}: {pairs}.")
    return lines


def best_notes(sheet: Sheet, entries: list[Entry]) -> list[str]:
    """Return the footer on the best row of a sweep for each dataset; the first one among equals."""
    if not sheet.sweep:
        return []
    places = []
    for column in {c.dataset: c for c in reversed(sheet.columns)}.values():
        own = [e for e in entries if (e.dataset, e.column) == (column.dataset, column.metric)]
        scored = [(e.ours, e) for e in own if e.ours is not None and e.gallery == own[0].gallery]
        if scored:
            pick = min if metric_of(column.metric).lower_is_better else max
            _, best = pick(scored, key=lambda item: item[0])
            places.append(f"{sheet.dataset_label(column.dataset)} {column.label}: {best.label}")
    return [f"Best of the sweep: {'; '.join(places)}."] if places else []


def order_cell(order: Order | None) -> str:
    """Return a cell of the table's last line."""
    return order.verdict if order else NO_REFERENCE


def _comparable(one: Entry, two: Entry) -> bool:
    """Return whether the paper's numbers differ and ours were scored on the same clips."""
    return one.paper != two.paper and one.ids_sha256 == two.ids_sha256


def _numbers(entry: Entry) -> tuple[float, float]:
    """Return ours and the paper's number of an entry that has a difference."""
    assert entry.ours is not None and entry.paper is not None
    return entry.ours, entry.paper


def _kept(one: Entry, two: Entry) -> bool:
    (ours_one, paper_one), (ours_two, paper_two) = _numbers(one), _numbers(two)
    return (ours_one - ours_two) * (paper_one - paper_two) > 0


def _described(one: Entry, two: Entry) -> str:
    """Describe a pair by ours, the paper's numbers, and whether they are within 2 sd."""
    (ours_one, paper_one), (ours_two, paper_two) = _numbers(one), _numbers(two)
    ours, paper = (
        " and ".join(number(value, one.metric) for value in values)
        for values in ((ours_one, ours_two), (paper_one, paper_two))
    )
    text = f"{one.label} and {two.label} are {ours} (paper {paper}"
    if one.sd is not None and two.sd is not None:
        near = abs(ours_one - ours_two) <= 2 * hypot(one.sd, two.sd)
        text += "; closer to each other than 2 sd" if near else ""
    return f"{text})"
