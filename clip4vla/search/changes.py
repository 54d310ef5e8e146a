"""What has changed in a folder since it was indexed: new, changed, moved and vanished files."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

State = Literal["unfinished", "done", "broken"]


class Stamp(NamedTuple):
    """What tells without reading it that a file is unchanged."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Known:
    """A file in the index. sha256: of its content, "" until it is done."""

    stamp: Stamp
    state: State
    sha256: str = ""
    problem: str = ""


@dataclass
class Changes:
    """Paths, by what happened to them. moved: from old paths to new ones."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)  # another time, the same content
    moved: dict[str, str] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)


def changes(
    found: Mapping[str, Stamp], known: Mapping[str, Known], hash_of: Callable[[str], str]
) -> Changes:
    """Compare the files of a folder with those of its index.

    hash_of: called only where size and time cannot tell: for a file with another time and its old
    size, and for a new file of the size of a vanished one.
    """
    result = Changes()
    lost: dict[int, list[str]] = defaultdict(list)  # size -> vanished paths
    for path in known:
        if path not in found:
            lost[known[path].stamp.size].append(path)
    for path, stamp in found.items():
        before = known.get(path)
        if before is None:
            candidates = [old for old in lost[stamp.size] if known[old].sha256]
            sha256 = hash_of(path) if candidates else ""
            same = [old for old in candidates if known[old].sha256 == sha256]
            if same:
                result.moved[same[0]] = path
                lost[stamp.size].remove(same[0])
            else:
                result.new.append(path)
        elif before.stamp != stamp:
            same_size = before.stamp.size == stamp.size and before.sha256
            unchanged = same_size and hash_of(path) == before.sha256
            (result.touched if unchanged else result.changed).append(path)
    result.vanished = sorted(path for paths in lost.values() for path in paths)
    return result
