"""What the benchmarks share: two sides timed in turn, the rows that come of it, options, a record.

A benchmark is a script with `parser()` and `rows(options)`, which yields what `compare` returns.
It imports this package before numpy and torch (first by alphabet), whose threads it sets to one.
"""

from bench.agreement import agreed
from bench.rounds import REPO, Apart, Round, launches
from bench.rows import Row, compare, require
from bench.script import main, parser

DEMO = REPO / "demo" / "clips"

__all__ = [
    "DEMO",
    "REPO",
    "Apart",
    "Round",
    "Row",
    "agreed",
    "compare",
    "launches",
    "main",
    "parser",
    "require",
]
