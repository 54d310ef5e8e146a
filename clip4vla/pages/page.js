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

/* ---- playing: one clip at a time; the strip of sound below a picture shows where it is ---- */
const media = JSON.parse(document.querySelector('main').dataset.media);
const STRIP = 80 / 108;  // where the strip of sound begins in a thumbnail
let playing = null;
function stop() {
  if (!playing) return;
  playing.querySelector('video').pause();
  playing.closest('figure').classList.remove('playing');
  playing = null;
}
function trouble(button) {
  stop();
  const text = document.createElement('p');
  text.className = 'trouble';
  text.textContent = 'This clip cannot be played: its file is not where the page was written, or '
    + 'this browser does not know its format. Fix: write the page with --previews';
  button.closest('figure').append(text);
  button.disabled = true;
}
function load(button) {
  const video = document.createElement('video');
  video.playsInline = true;
  video.onerror = () => trouble(button);
  video.onloadeddata = () => { video.hidden = !video.videoWidth; };
  video.onended = stop;
  video.src = media[button.dataset.clip];
  button.prepend(video);
  return video;
}
function follow(button, video) {
  const cursor = button.querySelector('.cursor');
  const step = () => {
    cursor.style.left = `${100 * video.currentTime / (video.duration || Infinity)}%`;
    if (playing === button) requestAnimationFrame(step);
  };
  step();
}
async function play(button, share) {
  const video = button.querySelector('video') || load(button), again = playing === button;
  if (again && share === null) { stop(); return; }
  if (!again) stop();
  playing = button;
  button.closest('figure').classList.add('playing');
  if (share !== null && video.duration) video.currentTime = share * video.duration;
  try { await video.play(); } catch (problem) { if (problem.name === 'NotSupportedError') return; }
  if (playing === button) follow(button, video);
}
document.addEventListener('click', event => {
  const button = event.target.closest('button.plays');
  if (!button) return;
  const box = button.getBoundingClientRect(), low = event.clientY - box.top > STRIP * box.height;
  play(button, playing === button && low ? (event.clientX - box.left) / box.width : null);
});
document.addEventListener('keydown', event => { if (event.key === 'Escape') stop(); });
