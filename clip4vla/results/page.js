'use strict';
/* ---- in Snakemake's report a page is alone: the files that its links name are not there ---- */
if (location.protocol === 'data:' || /\/data\/raw\/[0-9a-f]{64}\/[^/]+$/.test(location.pathname)) {
  for (const link of document.querySelectorAll('a[href]')) {
    const address = link.getAttribute('href');
    if (address.startsWith('#') || /^[a-z]+:/.test(address)) continue;
    link.removeAttribute('href');
    link.title = `${decodeURI(address)}, below the folder results, is not part of this report`;
  }
}

/* ---- sorting: rows without a number stay last ---- */
const key = (row, index) => {
  const cell = row.cells[index], value = cell.dataset.value;
  if (index === 0 || cell.classList.contains('words')) return cell.textContent.trim().toLowerCase();
  return value === undefined ? parseFloat(cell.textContent.replace('−', '-')) : +value;
};
const compare = (a, b, sign) => {
  if (typeof a === 'string') return sign * a.localeCompare(b, 'en', { numeric: true });
  if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
  return sign * (a - b);
};
for (const table of document.querySelectorAll('table.sorts')) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells], body = table.tBodies[0];
  const listed = [...body.rows];
  if (listed.length < 2) continue;
  heads.forEach((head, index) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    head.ariaSort = 'none';
    button.onclick = () => {
      const first = index === 0 || head.classList.contains('words') ? 'ascending' : 'descending';
      const second = first === 'ascending' ? 'descending' : 'ascending';
      const next = { none: first, [first]: second, [second]: 'none' }[head.ariaSort];
      for (const other of heads) other.ariaSort = 'none';
      head.ariaSort = next;
      const sign = next === 'ascending' ? 1 : -1;
      body.append(...(next === 'none' ? listed
        : [...listed].sort((a, b) => compare(key(a, index), key(b, index), sign))));
    };
  });
}

/* ---- what is under the pointer, or has the focus ---- */
const tip = document.getElementById('tip');
function say(text, x, y) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect(), below = y + 18 + box.height < innerHeight;
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 8)) + 'px';
  tip.style.top = Math.max(4, below ? y + 18 : y - 10 - box.height) + 'px';
}
document.addEventListener('pointermove', event => {
  const place = event.target.closest?.('[data-tip]'), panel = event.target.closest?.('.panel svg');
  if (panel) nearest(panel, event); else { cool(); say(place?.dataset.tip, event.clientX, event.clientY); }
});
document.addEventListener('focusin', event => {
  const place = event.target.closest('[data-tip]'), box = event.target.getBoundingClientRect();
  say(place?.dataset.tip, box.left, box.bottom - 10);
});
document.addEventListener('focusout', () => say(''));
document.addEventListener('keydown', event => { if (event.key === 'Escape') say(''); });

/* ---- lines: the nearest point of all lines of a panel ---- */
const LEFT = 46, RIGHT = 310, TOP = 8, BOTTOM = 164;  // of the plot in a panel of 320 x 190
let hot = null;
function heat(panels, label) {
  cool();
  hot = panels;
  panels.classList.add('hot');
  for (const line of panels.querySelectorAll('.line')) line.classList.toggle('hot', line.dataset.label === label);
}
function cool() {
  if (!hot) return;
  hot.classList.remove('hot');
  for (const mark of hot.querySelectorAll('.here')) mark.setAttribute('visibility', 'hidden');
  hot = null;
}
function nearest(panel, event) {
  const box = panel.getBoundingClientRect(), scale = 320 / box.width;
  const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
  let best = null;
  for (const line of panel.querySelectorAll('.line')) {
    for (const point of line.querySelector('polyline').points) {
      const far = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (!best || far < best.far) best = { far, line, x: point.x, y: point.y };
    }
  }
  if (!best) return;
  const ends = name => panel.dataset[name].split(' ').map(Number);
  const [x0, x1] = ends('x'), [y0, y1] = ends('y'), short = value => +value.toPrecision(4);
  const axis = panel.parentNode.querySelector('.axis').textContent.split(';')[0];
  const across = x0 + (best.x - LEFT) / (RIGHT - LEFT) * (x1 - x0);
  const at = axis === 'step' ? Math.round(across) : short(across);
  const value = short(y0 + (BOTTOM - best.y) / (BOTTOM - TOP) * (y1 - y0));
  heat(panel.closest('.panels'), best.line.dataset.label);
  const mark = panel.querySelector('.here');
  mark.setAttribute('cx', best.x);
  mark.setAttribute('cy', best.y);
  mark.setAttribute('visibility', 'visible');
  say(`${best.line.dataset.label}: ${value} at ${axis} ${at}`, event.clientX, event.clientY);
}
for (const legend of document.querySelectorAll('.legend')) {
  for (const item of legend.querySelectorAll('.key')) {
    item.onpointerenter = () => heat(legend.previousElementSibling, item.dataset.label);
    item.onpointerleave = cool;
  }
}

/* ---- contents: closed on small screens; the section in view is marked; folded targets open ---- */
const contents = document.getElementById('contents');
if (contents) {
  const small = matchMedia('(max-width: 64rem)');
  small.onchange = () => { contents.open = !small.matches; };
  contents.open = !small.matches;
  const links = new Map([...contents.querySelectorAll('a')].map(a => [a.hash.slice(1), a]));
  const heads = [...links.keys()].map(id => document.getElementById(id)).filter(Boolean);
  const mark = () => {
    const passed = heads.filter(head => head.getBoundingClientRect().top < 140);
    const now = links.get((passed.pop() || heads[0]).id);
    for (const link of links.values()) link.classList.toggle('here', link === now);
  };
  addEventListener('scroll', mark, { passive: true });
  mark();
}
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target?.closest('details');
  if (folded && !folded.open) { folded.open = true; target.scrollIntoView({ block: 'center' }); }
}
addEventListener('hashchange', unfold);
unfold();
let closed = [];
addEventListener('beforeprint', () => {
  closed = [...document.querySelectorAll('main details:not([open])')];
  for (const item of closed) item.open = true;
});
addEventListener('afterprint', () => { for (const item of closed) item.open = false; });
