// What all parts use: the data, the state, words, elements, numbers.
const DATA = JSON.parse(document.getElementById('data').textContent);
const REPORT = DATA.report;
const COLOURS = ['#2f86d6', '#e8772e', '#3aa35a', '#c04fa6', '#c9a114', '#6c6fe0', '#d9483f', '#1f9e98', '#a9764a', '#7d8b99'];
const state = { lang: 'en', theme: 'auto', threshold: Math.round(REPORT.gallery.threshold * 100), only: -1, sort: 'worst', page: 0,
  showFound: true, showTruth: true, isLog: false, ranked: 12 };

const colourOf = (id) => COLOURS[id % COLOURS.length];
const className = (id) => REPORT.classes[id];

function t(key, ...values) {
  return WORDS[state.lang][key].replace(/\{(\d)\}/g, (_, n) => String(values[Number(n)]));
}

// Text is only ever set as text: names come from datasets and may hold anything.
function put(node, properties, children) {
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key === 'style') for (const [name, one] of Object.entries(value)) node.style.setProperty(name, one);
    else node.setAttribute(key, value === true ? '' : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (name, properties, ...children) => put(document.createElement(name), properties, children);
const svg = (name, properties, ...children) => put(document.createElementNS('http://www.w3.org/2000/svg', name), properties, children);

function kept(key, value) {    // a page opened from disk may have no storage
  try {
    if (value === undefined) return localStorage.getItem(`ymir-exc-report-${key}`);
    localStorage.setItem(`ymir-exc-report-${key}`, value);
  } catch (e) { /* nothing is remembered */ }
  return null;
}

function figure(value, digits = 4) {
  if (value === null || value === undefined) return t('dash');
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString(state.lang);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace('e+', 'e');
  return String(Number(value.toPrecision(digits)));
}
const share = (value) => (value === null ? t('dash') : value.toFixed(3));
const joined = (...sentences) => sentences.filter(Boolean).join(state.lang === 'zh' ? '' : ' ');
const swatch = (colour, kind = '') => el('i', { class: `swatch ${kind}`, style: { background: colour } });

function when(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleString(state.lang, { dateStyle: 'medium', timeStyle: 'short' }) : t('dash');
}

function duration(seconds) {
  if (seconds === null) return t('dash');
  const whole = Math.round(seconds);
  if (whole < 60) return t('seconds', seconds < 10 ? seconds.toFixed(1) : whole);
  if (whole < 3600) return t('minutes', Math.floor(whole / 60), whole % 60);
  return t('hours', Math.floor(whole / 3600), Math.floor((whole % 3600) / 60));
}

function table(heads, rows, properties) {
  return el('div', { class: 'scroll' }, el('table', properties, el('thead', {}, el('tr', {}, heads.map((head) =>
    el('th', { scope: 'col', class: head.num ? 'num' : null }, head.text)))), el('tbody', {}, rows)));
}

const tip = document.getElementById('tip');
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, y - height - 12)}px`;
}
const hideTip = () => { tip.hidden = true; };

// What listens for the score threshold; filled anew each time the page is drawn.
let listeners = [];
const onThreshold = (listener) => { listeners.push(listener); };
function setThreshold(value) {
  state.threshold = Math.max(0, Math.min(100, value));
  for (const listener of listeners) listener();
}

function scoreField(id) {
  const input = el('input', { type: 'range', id, min: 0, max: 100, step: 1, value: state.threshold,
    oninput: () => setThreshold(Number(input.value)) });
  const output = el('output', { for: id });
  const update = () => {
    input.value = String(state.threshold);
    output.textContent = (state.threshold / 100).toFixed(2);
    input.setAttribute('aria-valuetext', output.textContent);
  };
  onThreshold(update);
  update();
  return el('div', { class: 'field' }, el('label', { for: id }, t('score')), el('span', { class: 'row' }, input, output));
}

// Scores are whole ten-thousandths, so that the page and report.json agree on what is below a threshold.
const isSeen = (row) => Math.round(row[1] * 10000) >= state.threshold * 100;
