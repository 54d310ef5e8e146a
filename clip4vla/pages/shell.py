"""Shell of a self-contained page: style, cards to filter and sort, and the script for that.

Captions and ids are untrusted, so every text goes through `escape`, also in attributes.
"""

from collections.abc import Iterable, Mapping
from html import escape

from clip4vla.pages.thumbnails import Thumbnails

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; background: #f4f6f8; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; line-height: 1.2; margin: .5rem 0; } h2 { font-size: 1.1rem; }
.facts, .meta { color: #4a5a6a; font-size: 87%; margin: .3rem 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; background: #fff; }
th, td { padding: .2rem .6rem; text-align: right; font-size: 90%;
         border-bottom: 1px solid #dde3e9; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.bar { position: sticky; top: 0; z-index: 1; background: #f4f6f8; padding: .6rem 0; display: flex;
       flex-wrap: wrap; gap: .4rem; align-items: center; border-bottom: 1px solid #cfd6dd; }
.bar button, .bar input, .bar select { font: inherit; font-size: 90%; padding: .2rem .6rem;
       border: 1px solid #9aa7b4; border-radius: .4rem; background: #fff; color: #1c2733; }
.bar button[aria-pressed=true] { background: #0072b2; border-color: #0072b2; color: #fff; }
.bar output { margin-left: auto; color: #4a5a6a; font-size: 87%; }
.cards { display: grid; gap: .8rem; margin-top: .8rem; }
.cards.pairs { grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
article { background: #fff; border: 1px solid #dde3e9; border-radius: .5rem; padding: .7rem .9rem; }
article[hidden] { display: none; }
.said { font-size: 105%; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; align-items: flex-start; }
.row > b { flex: 0 0 100%; font-size: 85%; font-weight: 400; color: #4a5a6a; }
figure { margin: 0; width: 144px; } 
.t { display: block; border-radius: .3rem; background-size: cover; background-color: #dee3e8; }
figcaption { margin-top: 5px; font-size: 78%; line-height: 1.25; color: #4a5a6a;
             overflow-wrap: anywhere; }
figure.right .t { outline: 3px solid #009e73; } figure.wanted .t { outline: 3px dashed #009e73; }
figure.wanted { margin-right: .8rem; }
.own { color: #006348; } .donor, .other { color: #953f00; } .none { color: #7a2d6b; }
.with { display: flex; gap: .9rem; } .with > div { min-width: 0; }
ul { margin: .3rem 0; padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
""".strip()

SCRIPT = """
const cards = [...document.querySelectorAll('article')], place = document.querySelector('.cards');
const find = document.querySelector('#find'), order = document.querySelector('#order');
const buttons = [...document.querySelectorAll('button[data-group]')];
function show() {
  const group = buttons.find(b => b.ariaPressed === 'true').dataset.group;
  const text = find.value.toLowerCase();
  let shown = 0;
  for (const card of cards) {
    const there = group === '' || card.dataset.groups.split(' ').includes(group);
    card.hidden = !(there && card.textContent.toLowerCase().includes(text));
    shown += !card.hidden;
  }
  document.querySelector('output').textContent = shown + ' of ' + cards.length + ' shown';
}
function sort() {
  const [key, sign] = order.value.split(' ');
  const value = c => key in c.dataset ? sign * c.dataset[key] : Infinity;
  const by = key ? (a, b) => value(a) - value(b) || cards.indexOf(a) - cards.indexOf(b) : () => 0;
  place.append(...[...cards].sort(by));
}
for (const button of buttons) button.onclick = () => {
  buttons.forEach(b => b.ariaPressed = b === button);
  show();
};
find.oninput = show; order.onchange = sort; show();
""".strip()


def card(groups: Iterable[str], numbers: Mapping[str, float | None], body: str) -> str:
    """Return one card. `numbers`: the values that cards can be sorted by."""
    data = "".join(
        f' data-{name}="{value:g}"' for name, value in numbers.items() if value is not None
    )
    return f'<article data-groups="{escape(" ".join(groups))}"{data}>\n{body}\n</article>'


def cards(
    shown: list[str], groups: Mapping[str, int], orders: Mapping[str, str], kind: str = ""
) -> str:
    """Return cards under a bar to choose a group, find a text and sort.

    groups: name -> number of cards; orders: label -> `number 1` (ascending) or `number -1`.
    """
    buttons = [f'<button data-group="" aria-pressed="true">all ({len(shown)})</button>']
    buttons += [
        f'<button data-group="{escape(name)}" aria-pressed="false">'
        f"{escape(name.replace('-', ' '))} ({count})</button>"
        for name, count in groups.items()
        if count
    ]
    options = ['<option value="">as listed</option>']
    options += [f'<option value="{escape(v)}">{escape(k)}</option>' for k, v in orders.items()]
    bar = [
        *buttons,
        '<input id="find" type="search" placeholder="find text or id" aria-label="find">',
        f'<select id="order" aria-label="sort">{"".join(options)}</select>',
        "<output></output>",
    ]
    body = "\n".join(shown)
    return f'<div class="bar">{" ".join(bar)}</div>\n<div class="cards {kind}">\n{body}\n</div>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a plain HTML table of texts."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{top}</tr>\n{body}</table></div>'


def page(title: str, facts: list[str], body: str, thumbnails: Thumbnails) -> str:
    """Return the page; `body` is HTML, all else is text."""
    lines = "\n".join(f'<p class="facts">{escape(fact)}</p>' for fact in facts)
    script = f"<script>{SCRIPT}</script>\n" if '<div class="bar">' in body else ""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n{thumbnails.css()}\n</style>\n"
        f"<main>\n<h1>{escape(title)}</h1>\n{lines}\n{body}\n</main>\n{script}</html>\n"
    )
