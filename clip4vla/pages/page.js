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
