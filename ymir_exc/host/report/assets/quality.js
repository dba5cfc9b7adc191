// The mining ranking, precision and recall, and the confusion matrix.
function miningSection() {
  const { mining, gallery } = REPORT;
  const ranked = gallery.images.map((image, n) => [image, n]).filter(([image]) => image.rank).sort((a, b) => a[0].rank - b[0].rank);
  const list = el('ul', { class: 'tiles' });
  const more = el('button', { type: 'button', onclick: () => { state.ranked += 24; draw(); } }, t('showMore'));
  const draw = () => {
    const shown = ranked.slice(0, state.ranked);
    for (const [image, n] of shown.slice(list.childElementCount)) {
      const caption = [el('span', {}, t('place', image.rank)), el('span', {}, figure(image.mining_score))];
      list.append(el('li', {}, tile(n, ranked.map((one) => one[1]), caption)));
    }
    more.hidden = shown.length === ranked.length;
  };
  draw();
  return [el('p', { class: 'note' }, t('miningNote', figure(mining.count))),
    el('figure', { class: 'card chart' }, el('h3', {}, t('histogram')), histogramChart(mining)),
    el('article', { class: 'card' }, el('h3', { style: { 'margin-bottom': '.75rem' } }, t('highest')), list,
      el('div', { class: 'pager' }, more))];
}

const above = (counts) => counts.slice(state.threshold).reduce((a, b) => a + b, 0);

function rates(rows) {
  const sum = (key) => rows.reduce((total, row) => total + row[key], 0);
  const hits = sum('right'), found = sum('seen'), truth = sum('truth');
  return { found, truth, precision: found ? hits / found : null, recall: truth ? hits / truth : null,
    f1: found + truth ? (2 * hits) / (found + truth) : null };
}

function qualitySection() {
  const { quality } = REPORT;
  const by = t(quality.by);
  const note = quality.best_threshold === null ? t('qualityNoBest', figure(quality.images), by)
    : t('qualityNote', figure(quality.images), by, quality.best_threshold.toFixed(2));
  const missing = { masks: '', rotated: t('noRotated'), 'too many': t('tooMany'), 'no pycocotools': t('noCoco') };
  const coco = quality.mAP === null ? missing[quality.mAP_missing]
    : quality.mAP_images < quality.images ? t('cocoSample', share(quality.mAP), share(quality.mAP50), figure(quality.mAP_images))
      : t('cocoNote', share(quality.mAP), share(quality.mAP50));
  return [el('p', { class: 'note' }, joined(note, coco)), el('div', { class: 'toolbar' }, scoreField('score-quality')),
    el('div', { class: 'grid' }, curveCard(quality), ratesCard(quality)), confusionCard(quality.confusion)];
}

const MOST_CURVES = COLOURS.length;

function curveCard(quality) {
  const known = quality.classes.filter((one) => one.curve.length);
  const drawn = [...known].sort((a, b) => b.truth - a.truth).slice(0, MOST_CURVES).sort((a, b) => a.class - b.class);
  const hues = drawn.map((one, n) => colourOf(known.length > drawn.length ? n : one.class));    // of many classes two may share one
  const series = drawn.map((one, n) => ({ name: className(one.class), colour: hues[n],
    points: one.curve.map(([, precision, recall]) => [recall, precision]) }));
  if (!series.length) return null;
  const say = (recall, found) => [`${t('recall')} ${share(recall)}`,
    ...found.map((point, n) => `${series[n].name}  ${share(point[1])}`)].join('\n');
  const { chart, x, y } = lineChart({ series, label: t('curveLabel'), xRange: [0, 1], yRange: [0, 1], say });
  const marks = hues.map((stroke) => svg('circle', { class: 'mark', r: 5, fill: 'none', stroke, 'stroke-width': 2.5 }));
  chart.append(...marks);
  const update = () => drawn.forEach((one, n) => {
    const right = above(one.hits), seen = right + above(one.false);
    put(marks[n], { visibility: seen ? 'visible' : 'hidden', cx: seen ? x(right / one.truth) : 0, cy: seen ? y(right / seen) : 0 }, []);
  });
  onThreshold(update);
  update();
  return el('figure', { class: 'card chart' }, el('h3', {}, t('curveTitle')), chart, legend(series),
    known.length > drawn.length ? el('p', { class: 'note' }, t('someClasses', drawn.length, known.length)) : null);
}

function ratesCard(quality) {
  const body = el('tbody');
  const update = () => {
    const rows = quality.classes.map((one) => {
      const right = above(one.hits);
      return { name: className(one.class), colour: colourOf(one.class), truth: one.truth, right, seen: right + above(one.false) };
    });
    const line = (name, colour, { truth, found, precision, recall, f1 }) => el('tr', {},
      el('th', { scope: 'row' }, colour ? swatch(colour) : null, name),
      [figure(truth), figure(found), share(precision), share(recall), share(f1)].map((text) => el('td', { class: 'num' }, text)));
    body.replaceChildren(...rows.map((row) => line(row.name, row.colour, rates([row]))), line(t('all'), null, rates(rows)));
  };
  onThreshold(update);
  update();
  const heads = [t('onlyClass'), t('truthCount'), t('foundCount'), t('precision'), t('recall'), t('f1')];
  return el('article', { class: 'card' }, el('div', { class: 'scroll tall', tabindex: 0, role: 'region', 'aria-label': t('quality') },
    el('table', { id: 'rates' }, el('thead', {}, el('tr', {}, heads.map((text, n) =>
      el('th', { scope: 'col', class: n ? 'num' : null }, text)))), body)));
}

// Rows: each class, the other classes together, nothing. What is labelled and not found stands in the column "nothing".
function confusionCounts(confusion) {
  const size = confusion.classes.length, hasOthers = confusion.others > 0;
  const rest = size + (hasOthers ? 1 : 0);
  const place = (id) => (id === -1 ? rest : confusion.classes.includes(id) ? confusion.classes.indexOf(id) : size);
  const cells = Array.from({ length: rest + 1 }, () => new Array(rest + 1).fill(0));
  for (const [truth, found, steps] of confusion.cells) {
    for (const [step, count] of steps) if (step >= state.threshold) cells[place(truth)][place(found)] += count;
  }
  const truths = [...confusion.truth, ...(hasOthers ? [confusion.others_truth] : [])];
  truths.forEach((count, n) => { cells[n][rest] = count - cells[n].reduce((a, b) => a + b, 0); });
  return { cells, names: [...confusion.classes.map(className), ...(hasOthers ? [t('others')] : []), t('nothing')] };
}

function confusionCard(confusion) {
  const shade = (part) => `rgba(var(--shade), ${0.34 * part})`;
  const title = el('h3'), box = el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-labelledby': 'confusion-title' });
  title.id = 'confusion-title';
  const update = () => {
    const { cells, names } = confusionCounts(confusion);
    title.textContent = t('confusion', (state.threshold / 100).toFixed(2));
    const last = names.length - 1;
    const rows = cells.map((row, n) => {
      const total = row.reduce((a, b) => a + b, 0) || 1;
      return el('tr', {}, el('th', { scope: 'row' }, names[n]), row.map((count, m) => (n === last && m === last ? el('td', {}, t('dash'))
        : el('td', { class: n === m ? 'right' : null, style: { background: shade(count / total) } }, figure(count)))));
    });
    box.replaceChildren(el('table', { class: 'confusion' }, el('thead', {}, el('tr', {}, [t('really'), ...names].map((text) =>
      el('th', { scope: 'col', title: text }, text)))), el('tbody', {}, rows)));
  };
  onThreshold(update);
  update();
  return el('article', { class: 'card' }, title, el('p', { class: 'note' }, t('confusionNote')), box);
}
