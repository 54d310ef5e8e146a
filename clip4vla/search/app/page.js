const $ = id => document.getElementById(id);
const ask = $('ask'), words = $('words'), file = $('file'), chip = $('chip'), cards = $('cards');
const more = $('more'), status = $('status'), error = $('error'), drop = $('drop');
const STEP = 12, MOST = 120;
let about = {}, like = null, upload = null, top_ = STEP, running = null, playing = null;

/* ---- requests: every answer that is no result is one sentence ---- */

async function request(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (problem) {
    if (problem.name === 'AbortError') throw problem;
    throw new Error('The server does not answer. Fix: check that `clip4vla app` is still running');
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || `The server answers with ${answer.status}`);
  return content;
}

function complain(problem) {
  error.textContent = problem.message;
  error.hidden = false;
}

/* ---- the query ---- */

const mixes = [['weight', 'sound_weight'], ['token', 'nonverbal_share']].map(([box, key]) => {
  const slider = $(key), output = $(box).querySelector('output');
  const mix = { box: $(box), key, slider, value: null };
  mix.show = () => {
    const share = Math.round(100 * slider.value);
    output.textContent = mix.value === null ? 'as trained' : `${100 - share} : ${share}`;
  };
  slider.oninput = () => { mix.value = +slider.value; mix.show(); };
  slider.onchange = () => { if (asked()) search(); };
  slider.ondblclick = () => { mix.reset(); if (asked()) search(); };
  mix.reset = () => { mix.value = null; slider.value = slider.defaultValue; mix.show(); };
  slider.title = 'Double click: as trained';
  return mix;
});

const asked = () => upload !== null || like !== null || words.value.trim() !== '';
const mixed = () => Object.fromEntries(
  mixes.filter(mix => !mix.box.hidden && mix.value !== null).map(mix => [mix.key, mix.value]));

function showChip(text, picture) {
  const image = chip.querySelector('img');
  if (image.src.startsWith('blob:')) URL.revokeObjectURL(image.src);
  chip.hidden = !text;
  chip.querySelector('span').textContent = text || '';
  chip.title = text || '';
  image.hidden = !picture;
  if (picture) image.src = picture; else image.removeAttribute('src');
  words.placeholder = text ? 'and words, if you like' : 'Describe a sound or a picture';
}

function forget() { upload = like = null; file.value = ''; showChip(); }

function take(given) {
  if (!given) return;
  forget();
  upload = given;
  words.value = '';
  showChip(given.name, given.type.startsWith('image/') ? URL.createObjectURL(given) : null);
  search();
}

function likeThis(hit) {
  forget();
  like = hit.row;
  words.value = '';
  showChip(`like ${hit.name}, ${span(hit)}`, hit.has_picture ? `/windows/${hit.row}/thumbnail.jpg` : null);
  scrollTo({ top: 0 });
  search();
}

async function search({ top = STEP, remember = true } = {}) {
  if (!asked()) { words.focus(); return; }
  running?.abort();
  const mine = running = new AbortController();
  top_ = top;
  stop();
  error.hidden = true;
  cards.ariaBusy = true;
  status.textContent = 'Searching …';
  const json = body => ({
    method: 'POST', body: JSON.stringify(body), signal: mine.signal,
    headers: { 'Content-Type': 'application/json' },
  });
  const text = words.value.trim(), options = { words: text, ...mixed(), top };
  try {
    const answer = await (upload === null
      ? request('/api/search', json({ like, ...options }))
      : request('/api/search/file?' + new URLSearchParams({ name: upload.name, ...options }),
        { method: 'POST', body: upload, signal: mine.signal, headers: { 'Content-Type': 'application/octet-stream' } }));
    if (remember && upload === null) {
      const query = '?' + new URLSearchParams({ ...(text && { q: text }), ...(like !== null && { like }) });
      if (query !== location.search) history.pushState(null, '', query);
    }
    show(answer.hits);
    const seconds = answer.seconds < 0.1 ? 'less than 0.1 s' : `${answer.seconds.toFixed(1)} s`;
    status.textContent = answer.hits.length
      ? `The best ${answer.hits.length} of ${count(about.windows)} windows, in ${seconds}.`
      : 'Nothing in this index can answer that query.';
    more.hidden = answer.hits.length < top || top >= Math.min(MOST, about.windows);
  } catch (problem) {
    if (problem.name === 'AbortError') return;
    show([]);
    status.textContent = '';
    more.hidden = true;
    complain(problem);
  } finally {
    if (running === mine) { running = null; cards.ariaBusy = false; }
  }
}

/* ---- results ---- */

const count = number => number.toLocaleString('en');
const plural = (number, name) => `${count(number)} ${name}${number === 1 ? '' : 's'}`;

function clock(seconds) {
  const all = Math.floor(seconds + 1e-6), two = n => String(n).padStart(2, '0');
  const hours = Math.floor(all / 3600), minutes = Math.floor(all / 60) % 60;
  return (hours ? `${hours}:${two(minutes)}` : minutes) + ':' + two(all % 60);
}
const span = hit => `${clock(hit.start)}–${clock(Math.max(Math.round(hit.end), Math.floor(hit.start) + 1))}`;

function show(hits) {
  const most = key => Math.max(...hits.map(hit => Math.abs(hit[key] ?? 0)), 1e-9);
  const best = { picture: most('picture'), sound: most('sound'), pair: most('pair') };
  cards.replaceChildren(...hits.map((hit, i) => card(hit, 'score' in hit ? i + 1 : '', best)));
}

function card(hit, rank, best) {
  const element = $('card').content.firstElementChild.cloneNode(true);
  const part = name => element.querySelector(name);
  element.hit = hit;
  element.ariaLabel = `${rank ? rank + ': ' : ''}${hit.name}, ${span(hit)}`;
  element.classList.toggle('unseen', !hit.has_picture);
  element.classList.toggle('silent', !hit.has_sound);
  if (hit.has_picture) sharpen(element, part('.picture'), part('.small'));
  const heard = part('.heard img');
  if (hit.has_sound) {
    heard.onerror = () => { heard.remove(); explain(element, `/windows/${hit.row}/spectrogram.png`); };
    heard.src = `/windows/${hit.row}/spectrogram.png`;
  } else {
    heard.replaceWith(about.hears ? 'no sound' : 'sound is not indexed');
  }
  part('.rank').textContent = rank;
  part('.times').textContent = span(hit);
  part('.name').textContent = hit.name;
  part('.name').title = hit.path;
  for (const [key, label] of [['pair', 'match'], ['sound', 'sound'], ['picture', 'picture']]) {
    if (hit[key] == null) continue;
    const bar = document.createElement('dd'), fill = document.createElement('i');
    bar.className = `bar ${key}`;
    fill.style.width = `${100 * Math.max(0, hit[key]) / best[key]}%`;
    bar.append(fill);
    part('.scores').append(
      Object.assign(document.createElement('dt'), { textContent: label }), bar,
      Object.assign(document.createElement('dd'), { textContent: hit[key].toFixed(3) }));
  }
  part('.like').onclick = () => likeThis(hit);
  part('.stage').onclick = event => {
    const box = part('.heard').getBoundingClientRect();
    const inHeard = event.target.closest('.heard') && element.classList.contains('started');
    toggle(element, inHeard ? (event.clientX - box.left) / box.width : null);
  };
  return element;
}

/* The thumbnail of the index is there at once, and also when the file is not. */
function sharpen(element, large, small) {
  const { row } = element.hit;
  small.src = `/windows/${row}/thumbnail.jpg`;
  large.onload = () => small.remove();
  large.onerror = () => { large.remove(); explain(element, `/windows/${row}/picture.jpg`); };
  large.src = `/windows/${row}/picture.jpg`;
}

function trouble(element, sentence) {
  const place = element.querySelector('.trouble');
  place.textContent = sentence;
  place.hidden = false;
  element.classList.remove('loading', 'playing', 'started', 'shown');
}

async function explain(element, address) {
  await request(address).catch(problem => trouble(element, problem.message));
}

/* ---- playing: one card at a time, from the window's beginning to its end ---- */

function icon(element, name) {
  element.querySelector('.play use').setAttribute('href', '#icon-' + name);
  element.querySelector('.play').ariaLabel = name === 'play' ? 'Play' : 'Pause';
}

function pause(element) {
  element.querySelector('video').pause();
  element.classList.remove('playing');
  icon(element, 'play');
  if (playing === element) playing = null;
}

function stop() { if (playing) pause(playing); }

/* share: where to go in the window, 0 to 1; null: pause, or continue. */
async function toggle(element, share = null) {
  if (element.classList.contains('loading')) return;
  if (playing === element && share === null) { pause(element); return; }
  if (playing !== element) stop();
  playing = element;
  const video = element.querySelector('video');
  try {
    if (!element.media) await load(element, false);
    const { from, to } = element.media;
    if (share !== null) video.currentTime = from + share * (to - from);
    else if (video.currentTime >= to - 0.05 || video.currentTime < from - 0.5) video.currentTime = from;
    if (playing !== element) return;
    await video.play();
    element.classList.add('playing', 'started', 'shown');
    element.classList.toggle('shown', element.hit.has_picture);
    icon(element, 'stop');
    follow(element);
  } catch (problem) {
    if (problem.name === 'AbortError') return;
    pause(element);
    if (problem.name !== 'NotAllowedError') trouble(element, problem.message);
  }
}

async function load(element, converted) {
  element.classList.add('loading');
  element.querySelector('.trouble').hidden = true;
  try {
    const media = await request(`/api/windows/${element.hit.row}/play?converted=${converted}`);
    try {
      await opened(element.querySelector('video'), media);
    } catch (problem) {
      if (media.converted) throw problem;
      await load(element, true);  // this browser does not play the file as it is
      return;
    }
    element.media = media;
  } finally {
    element.classList.remove('loading');
  }
}

function opened(video, media) {
  return new Promise((resolve, reject) => {
    video.onloadedmetadata = () => { video.currentTime = media.from; };
    video.onseeked = video.oncanplay = () => resolve();
    video.onerror = () => reject(new Error('This browser cannot play the file. Fix: try another browser'));
    video.src = media.url;
    video.preload = 'auto';
    video.load();
  });
}

function follow(element) {
  const video = element.querySelector('video'), cursor = element.querySelector('.cursor');
  const { from, to } = element.media;
  const step = () => {
    const share = (video.currentTime - from) / (to - from);
    cursor.style.left = `${100 * Math.min(Math.max(share, 0), 1)}%`;
    if (share >= 1 || video.ended) {
      pause(element);
      element.classList.remove('started', 'shown');
      video.currentTime = from;
    } else if (!video.paused) {
      requestAnimationFrame(step);
    }
  };
  step();
}

/* ---- keys, files, addresses ---- */

document.onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches('input:not([type=range]):not([type=file])');
  const at = event.target.closest?.('article');
  const all = [...cards.children], here = all.indexOf(at);
  const columns = getComputedStyle(cards).gridTemplateColumns.split(' ').length;
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  if (event.key === 'Escape') {
    stop();
    if (typing && chip.hidden === false) forget();
    return;
  }
  if (event.key === '/' && !typing) words.select(), words.focus();
  else if (event.key === 'ArrowDown' && event.target === words && all.length) all[0].focus();
  else if (typing || event.target.matches('input')) return;
  else if (at && event.key in moves) {
    const next = all[here + moves[event.key]];
    if (next) next.focus(); else if (event.key === 'ArrowUp') words.focus();
  } else if (event.target === at && (event.key === ' ' || event.key === 'Enter')) toggle(at);
  else if (at && event.key === 'm') likeThis(at.hit);
  else return;
  event.preventDefault();
};

ask.onsubmit = event => { event.preventDefault(); search(); };
more.onclick = () => search({ top: Math.min(top_ + STEP, MOST), remember: false });
chip.querySelector('button').onclick = () => { forget(); words.focus(); };
file.onchange = () => take(file.files[0]);
document.onpaste = event => { if (event.clipboardData.files.length) take(event.clipboardData.files[0]); };

let over = 0;  // dragenter and dragleave come for every element below the pointer
const carries = event => event.dataTransfer?.types.includes('Files');
document.ondragenter = event => { if (carries(event)) { over += 1; drop.hidden = false; } };
document.ondragleave = event => { if (carries(event) && --over <= 0) { over = 0; drop.hidden = true; } };
document.ondragover = event => { if (carries(event)) event.preventDefault(); };
document.ondrop = event => {
  if (!carries(event)) return;
  event.preventDefault();
  over = 0;
  drop.hidden = true;
  take(event.dataTransfer.files[0]);
};

async function fromAddress() {
  const given = new URLSearchParams(location.search);
  forget();
  words.value = given.get('q') || '';
  if (given.has('like')) {
    try {
      const hit = await request(`/api/windows/${encodeURIComponent(given.get('like'))}`);
      like = hit.row;
      showChip(`like ${hit.name}, ${span(hit)}`, hit.has_picture ? `/windows/${hit.row}/thumbnail.jpg` : null);
    } catch (problem) { complain(problem); }
  }
  if (asked()) await search({ remember: false }); else begin();
}

function begin() {
  stop();
  error.hidden = true;
  more.hidden = true;
  show(about.samples);
  status.textContent = about.windows
    ? 'Type words, or drop a sound, a picture or a video anywhere. Some of what is in this index:'
    : 'This index is empty. Fix: run `clip4vla index` with a folder of sounds or videos';
}

window.onpopstate = fromAddress;

try {
  about = await request('/api/about');
  $('facts').textContent = `${about.model} · ${plural(about.windows, 'window')} of ${plural(about.files, 'file')}`;
  $('facts').title = about.folder;
  $('notice').textContent = about.notice;
  $('notice').hidden = !about.notice;
  for (const mix of mixes) {
    const initial = about.mixes[mix.key];
    mix.box.hidden = initial === null;
    if (initial !== null) { mix.slider.value = mix.slider.defaultValue = initial; mix.show(); }
  }
  await fromAddress();
} catch (problem) {
  complain(problem);
}
document.body.dataset.ready = '';
