// Summary, findings, stages, curves, log and environment.
const TASK_WORDS = { training: 'training', mining: 'mining_task', infer: 'infer' };
const ENDED = { done: ['good', '✓'], failed: ['bad', '✕'], unfinished: ['warn', '!'], pending: ['', '…'], unknown: ['', '?'] };
const SEVERITIES = [['error', 'errors', 'bad', 'oneError'], ['warning', 'warnings', 'warn', 'oneWarning'], ['note', 'notes', '', 'oneNote']];
const SPANS = { monitor: 'about', events: 'byEvents' };
const METRICS = ['mAP', 'mIoU', 'maskAP', 'mAP50', 'mAR', 'mAcc', 'boxAP'];

const fact = (name, value, small, isWide) => el('div', { class: isWide ? 'wide' : null }, el('dt', {}, name),
  el('dd', {}, value, small ? el('small', {}, small) : null));

const findingPills = (run) => {
  const { counts } = run.findings;
  const pills = SEVERITIES.filter(([key]) => counts[key])
    .map(([key, word, kind, one]) => el('span', { class: `pill ${kind}` }, t(counts[key] === 1 ? one : word, counts[key])));
  return pills.length ? pills : [el('span', { class: 'pill good' }, t('none'))];
};

function runCard(run) {
  const [kind, sign] = ENDED[run.ended];
  const best = run.stages.find((stage) => stage.best);
  const metric = best && METRICS.find((name) => name in best.metrics);
  const files = Object.entries(run.images).map(([split, count]) => fact(t(split), figure(count)));
  return el('article', { class: 'card' },
    el('div', { class: 'run-head' }, el('h3', {}, run.name), el('span', { class: `pill ${kind}` }, `${sign} ${t(run.ended)}`)),
    el('dl', { class: 'facts' },
      fact(t('task'), run.tasks.map((task) => t(TASK_WORDS[task])).join(' + ') || t('unknown')),
      fact(t('took'), duration(run.seconds), run.finished ? t(SPANS[run.seconds_by] || 'lastReport', when(run.finished)) : null),
      run.ended !== 'done' && run.percent !== null ? fact(t('progress'), `${Math.round(run.percent * 100)} %`) : null,
      run.return_code ? fact(t('code'), String(run.return_code)) : null,
      best ? fact(t('best'), best.name, metric ? `${metric} ${figure(best.metrics[metric])}` : null) : null, files,
      fact(t('findingsFact'), el('span', { class: 'pills' }, findingPills(run))),
      run.class_names.length ? fact(t('classes'), namesText(run.class_names), null, true) : null,
      fact(t('folder'), el('span', { class: 'mono' }, run.out), null, true)),
    run.ended === 'failed' && run.message ? el('p', { class: 'said' }, run.message) : null,
    run.problems.length ? el('div', { class: 'said warn' }, t('problems'),
      el('ul', {}, run.problems.map((one) => el('li', {}, one)))) : null);
}

const namesText = (names) => (names.length > 40 ? `${names.slice(0, 40).join(', ')} … (${names.length})` : names.join(', '));

function summarySection() {
  return el('div', { class: 'grid' }, REPORT.runs.map(runCard));
}

const sentence = (text) => (/[.!?。]$/.test(text) ? text : `${text}.`);

// A path below the task's folders is shown from there on.
function placeOf(finding, run) {
  const root = [run.out, run.in].find((folder) => folder && finding.path.startsWith(`${folder}/`));
  const path = root ? finding.path.slice(root.length + 1) : finding.path;
  return path + (finding.line ? `:${finding.line}` : '') + (finding.key ? `: ${finding.key}` : '');
}

function findingsSection() {
  const one = (run) => (finding) => el('li', { class: `level-${finding.severity}` },
    el('p', { class: 'where' }, el('span', { class: `pill ${SEVERITIES.find(([key]) => key === finding.severity)[2]}` },
      `${finding.code} ${t(finding.severity)}`), ' ', el('span', { class: 'mono' }, placeOf(finding, run))),
    el('p', {}, el('strong', { lang: 'en' }, finding.message)),
    el('p', { class: 'mend' }, el('b', {}, t('rule')), ' ', el('span', { lang: 'en' }, `${sentence(finding.title)} ${sentence(finding.why)}`)),
    el('p', { class: 'mend' }, el('b', {}, t('remedy')), ' ', el('span', { lang: 'en' }, sentence(finding.remedy))));
  return [el('p', { class: 'note' }, t('findingsNote')), REPORT.runs.map((run) => {
    const total = Object.values(run.findings.counts).reduce((a, b) => a + b, 0);
    const { listed } = run.findings;
    return el('article', { class: 'card' }, el('div', { class: 'run-head' }, el('h3', {}, run.name), findingPills(run),
      total ? null : el('span', { class: 'mend' }, t('noFindings'))),
      total ? el('ul', { class: 'findings' }, listed.slice(0, 12).map(one(run))) : null,
      listed.length > 12 ? el('details', {}, el('summary', {}, t('showMore')),
        el('ul', { class: 'findings' }, listed.slice(12).map(one(run)))) : null,
      total > listed.length ? el('p', { class: 'note' }, t('moreFindings', figure(total - listed.length))) : null);
  })];
}

function stagesSection() {
  return [el('p', { class: 'note' }, t('stagesNote')), REPORT.runs.filter((run) => run.stages.length).map((run) => {
    const known = new Set(run.stages.flatMap((stage) => Object.keys(stage.metrics)));
    const metrics = [...METRICS.filter((name) => known.has(name)), ...[...known].filter((name) => !METRICS.includes(name)).sort()];
    const rows = run.stages.map((stage) => el('tr', { class: stage.best ? 'best' : null },
      el('th', { scope: 'row' }, stage.name, ' ', stage.best ? el('span', { class: 'pill good' }, `★ ${t('isBest')}`) : null),
      metrics.map((name) => el('td', { class: 'num' }, figure(stage.metrics[name]))),
      el('td', { class: 'long mono' }, stage.files.join(', ')), el('td', { class: 'when' }, when(stage.timestamp))));
    const heads = [{ text: t('stage') }, ...metrics.map((text) => ({ text, num: true })), { text: t('files') }, { text: t('saved') }];
    return el('article', { class: 'card' }, REPORT.runs.length > 1 ? el('h3', {}, run.name) : null, table(heads, rows));
  })];
}

function curvesSection() {
  const tags = [...new Set(REPORT.runs.flatMap((run) => Object.keys(run.scalars)))];
  const box = el('div', { class: 'grid' });
  const draw = () => box.replaceChildren(...tags.map((tag) => {
    const runs = REPORT.runs.filter((run) => run.scalars[tag]);
    const series = runs.map((run) => ({ name: run.name, colour: colourOf(REPORT.runs.indexOf(run)),
      points: run.scalars[tag].map((point) => [point[0], point[2]]) }));
    const last = series[0].points[series[0].points.length - 1];
    const say = (step, found) => [t('step', figure(step)), ...found.map((point, n) =>
      (runs.length > 1 ? `${runs[n].name}  ${figure(point[1], 5)}` : figure(point[1], 5)))].join('\n');
    const { chart } = lineChart({ series, isLog: state.isLog, label: t('chartLabel', tag, series[0].points.length), say });
    return el('figure', { class: 'card chart' }, el('h3', {}, tag, el('span', {}, figure(last[1]))), chart,
      runs.length > 1 ? legend(series) : null);
  }));
  const tick = el('input', { type: 'checkbox', id: 'log-scale', onchange: () => { state.isLog = tick.checked; draw(); } });
  tick.checked = state.isLog;
  draw();
  return [el('p', { class: 'note' }, t('curvesNote')),
    el('div', { class: 'toolbar' }, el('label', { class: 'tick', for: 'log-scale' }, tick, t('logScale'))), box];
}

const legend = (series) => el('p', { class: 'legend' }, series.map((one) =>
  el('span', {}, swatch(one.colour, 'line'), one.name)));

function logSection() {
  return REPORT.runs.map((run) => el('article', { class: 'card' }, el('h3', {}, run.name),
    run.log.length ? [el('p', { class: 'note' }, t('logNote', run.log.length)),
      el('pre', { tabindex: 0, role: 'region', 'aria-label': run.name }, run.log.join('\n'))] : el('p', { class: 'note' }, t('noLog'))));
}

function environmentSection() {
  const logs = REPORT.runs.filter((run) => Object.keys(run.log_versions).length);
  const parts = [...new Set([...Object.keys(REPORT.machine), ...logs.flatMap((run) => Object.keys(run.log_versions))])];
  const rows = parts.map((part) => el('tr', {}, el('th', { scope: 'row' }, part),
    logs.map((run) => el('td', {}, run.log_versions[part] || t('dash'))), el('td', { class: 'long' }, REPORT.machine[part] || t('dash'))));
  const heads = [t('part'), ...logs.map((run) => t('inLog', run.name)), t('here')].map((text) => ({ text }));
  const text = (value) => (typeof value === 'string' ? value || '""' : JSON.stringify(value));
  const line = ([key, value]) => el('tr', {}, el('th', { scope: 'row' }, key), el('td', { class: 'long mono' }, text(value)));
  const configured = REPORT.runs.filter((run) => Object.keys(run.parameters).length);
  return [el('p', { class: 'note' }, t(logs.length ? 'environmentNote' : 'noVersions')),
    el('article', { class: 'card' }, table(heads, rows)),
    configured.map((run) => el('article', { class: 'card' }, el('details', {}, el('summary', {}, t('parameters', run.name)),
      table([{ text: t('key') }, { text: t('value') }], Object.entries(run.parameters).map(line)))))];
}
