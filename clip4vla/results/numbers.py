r"""All numbers as LaTeX macros: `\valours{table5/type_token/msrvtt/t2a_R1}` in running text.

One file to \input, so that a manuscript's numbers follow the runs. An unknown name stops LaTeX
with an error; a number that has not been measured prints as a bold `??`.
"""

from clip4vla.results.compare import Entry
from clip4vla.results.text import number, signed, tex

HEAD = r"""% Numbers of the tables. \input this file. NAME is table/row/dataset/metric; a second
% gallery of a row has its name after that, as /with_sound.
%   \valours{NAME}  mean over seeds   \valsd{NAME}   sd over seeds   \valn{NAME} clips ranked
%   \valpaper{NAME} the paper's       \valdiff{NAME} ours - paper    \valverdict{NAME}
\makeatletter
\newcommand\clipvla@get[2]{\@ifundefined{clipvla@#1@#2}%
  {\@latex@error{numbers.tex has no number `#2'}{The names stand in numbers.tex.}}%
  {\csname clipvla@#1@#2\endcsname}}
\newcommand\clipvla@set[7]{%
  \@namedef{clipvla@ours@#1}{#2}\@namedef{clipvla@sd@#1}{#3}\@namedef{clipvla@n@#1}{#4}%
  \@namedef{clipvla@paper@#1}{#5}\@namedef{clipvla@diff@#1}{#6}\@namedef{clipvla@verdict@#1}{#7}}
\newcommand\valours[1]{\clipvla@get{ours}{#1}}
\newcommand\valsd[1]{\clipvla@get{sd}{#1}}
\newcommand\valn[1]{\clipvla@get{n}{#1}}
\newcommand\valpaper[1]{\clipvla@get{paper}{#1}}
\newcommand\valdiff[1]{\clipvla@get{diff}{#1}}
\newcommand\valverdict[1]{\clipvla@get{verdict}{#1}}
"""
UNKNOWN = r"\textbf{??}"


def to_numbers(entries: list[Entry]) -> str:
    """Return the text of the file. Equal entries give equal text."""
    lines, named = [], set()
    for entry in entries:
        name = f"{entry.table}/{entry.row}/{entry.dataset}/{entry.metric}"
        name += f"/{entry.gallery}" if name in named else ""
        named.add(name)
        values = (
            UNKNOWN if entry.ours is None else number(entry.ours, entry.metric),
            UNKNOWN if entry.sd is None else f"{entry.sd:.1f}",
            entry.gallery_size or UNKNOWN,
            "---" if entry.paper is None else number(entry.paper, entry.metric),
            UNKNOWN if entry.difference is None else tex(signed(entry.difference)),
            tex(entry.verdict),
        )
        lines.append(rf"\clipvla@set{{{name}}}" + "".join(f"{{{value}}}" for value in values))
    return HEAD + "\n".join(lines) + "\n\\makeatother\n"
