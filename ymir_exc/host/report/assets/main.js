// Puts the sections together, and keeps the theme and the language.
const SECTIONS = [
  ['summary', summarySection, () => true],
  ['findings', findingsSection, () => true],
  ['stages', stagesSection, () => REPORT.runs.some((run) => run.stages.length)],
  ['curves', curvesSection, () => REPORT.runs.some((run) => Object.keys(run.scalars).length)],
  ['images', imagesSection, () => REPORT.gallery.images.length > 0],
  ['mining', miningSection, () => REPORT.mining !== null],
  ['quality', qualitySection, () => REPORT.quality !== null],
  ['log', logSection, () => true],
  ['environment', environmentSection, () => true],
];
const NAMES = { stages: 'navStages', mining: 'navMining', quality: 'navQuality' };    // the bar has little room
const byId = (id) => document.getElementById(id);

function draw() {
  listeners = [];
  const shown = SECTIONS.filter(([, , isThere]) => isThere());
  document.documentElement.lang = state.lang === 'zh' ? 'zh-CN' : 'en';
  const title = REPORT.runs.map((run) => run.name).join(' + ');
  document.title = `${title} · ${t('brand')}`;
  byId('skip').textContent = t('skip');
  byId('brand').textContent = t('brand');
  byId('nav').setAttribute('aria-label', t('sections'));
  byId('nav').replaceChildren(el('ul', {}, shown.map(([id]) => el('li', {}, el('a', { href: `#${id}` }, t(NAMES[id] || id))))));
  const runs = REPORT.runs.length === 1 ? t('oneRun') : t('runs', REPORT.runs.length);
  byId('content').replaceChildren(el('div', { class: 'lead' }, el('h1', {}, title), el('p', {}, t('lead', when(REPORT.generated), runs))),
    ...shown.map(([id, build]) => el('section', { id, 'aria-labelledby': `${id}-title` },
      el('h2', { id: `${id}-title` }, t(id)), build())));
  byId('foot').replaceChildren(el('p', {}, t('foot')));
  const other = state.lang === 'en' ? 'zh' : 'en';
  byId('language').textContent = WORDS[other].name;
  byId('language').lang = other === 'zh' ? 'zh-CN' : 'en';
  nameTheme();
}

function nameTheme() {
  byId('theme').textContent = `◐ ${t(state.theme)}`;
  byId('theme').setAttribute('aria-label', t('theme', t(state.theme)));
}

const prefersDark = matchMedia('(prefers-color-scheme: dark)');
function applyTheme() {
  const isDark = state.theme === 'dark' || (state.theme === 'auto' && prefersDark.matches);
  document.documentElement.dataset.theme = isDark ? 'dark' : 'light';
  nameTheme();
}

byId('theme').addEventListener('click', () => {
  state.theme = { auto: 'dark', dark: 'light', light: 'auto' }[state.theme];
  kept('theme', state.theme);
  applyTheme();
});
byId('language').addEventListener('click', () => {
  state.lang = state.lang === 'en' ? 'zh' : 'en';
  kept('language', state.lang);
  draw();
});
prefersDark.addEventListener('change', applyTheme);
isNarrow.addEventListener('change', draw);    // charts are drawn to fit

state.lang = Object.keys(WORDS).includes(kept('language')) ? kept('language') : navigator.language.startsWith('zh') ? 'zh' : 'en';
state.theme = ['auto', 'light', 'dark'].includes(kept('theme')) ? kept('theme') : 'auto';
draw();
applyTheme();
