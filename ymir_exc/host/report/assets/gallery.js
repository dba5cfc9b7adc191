// The images: tiles that are filled when they come near the window, with what was found and what is there drawn over them.
const PAGE = 24;
const IMAGES = REPORT.gallery.images;

function judged(image) {
  const chosen = (id) => state.only < 0 || id === state.only;
  const found = image.found ? image.found.map((row, n) => ({ row, n })).filter(({ row }) => isSeen(row) && chosen(row[0])) : [];
  const taken = new Set((image.found || []).filter(isSeen).map((row) => row[6]));
  const truth = image.truth ? image.truth.map((row, n) => ({ row, n, isMissed: image.found !== null && !taken.has(n) }))
    .filter(({ row }) => chosen(row[0])) : [];
  const isCompared = image.truth !== null && image.found !== null;
  return { found: found.map((one) => ({ ...one, isWrong: isCompared && one.row[6] === -1 })), truth, isCompared,
    missed: truth.filter((one) => one.isMissed).length, wrong: isCompared ? found.filter(({ row }) => row[6] === -1).length : 0 };
}

function runsPath(runs, width) {
  const parts = [];
  let at = 0;
  runs.forEach((length, n) => {
    let left = n % 2 ? length : 0, from = at;
    at += length;
    while (left > 0) {    // a run may go on in the next row
      const x = from % width, span = Math.min(left, width - x);
      parts.push(`M${x} ${Math.floor(from / width)}h${span}v1h-${span}z`);
      from += span;
      left -= span;
    }
  });
  return parts.join('');
}

const angleOf = (angles, n) => (angles ? angles[n] : 0);
const degrees = (angle) => Number(((angle * 180) / Math.PI).toFixed(2));

function drawing(index) {
  const image = IMAGES[index], picture = DATA.pictures[index], seen = judged(image);
  const over = svg('svg', { viewBox: `0 0 ${image.width} ${image.height}`, 'aria-hidden': 'true', preserveAspectRatio: 'xMidYMid meet' });
  const scale = `scale(${image.width / picture.w} ${image.height / picture.h})`;
  const rect = (kind, [x, y, width, height], angle, more) => svg('rect', { class: kind, x, y, width, height,
    transform: angle ? `rotate(${degrees(angle)} ${x + width / 2} ${y + height / 2})` : null, ...more });
  const mask = (kind, runs, more) => svg('path', { class: kind, d: runsPath(runs, picture.w), transform: scale, ...more });
  if (state.showTruth) {
    for (const { row, n, isMissed } of seen.truth) {
      const runs = picture.trueMasks && picture.trueMasks[n];
      if (runs) over.append(mask('truemask', runs));
      const angle = angleOf(image.truth_angles, n);
      if (!runs) over.append(rect('halo', row.slice(1, 5), angle));
      // Where there is nothing to tell it from, a label has its class's colour.
      const alone = image.found === null && { style: { stroke: colourOf(row[0]) } };
      over.append(rect(`true${isMissed ? ' wrong' : ''}`, row.slice(1, 5), angle, alone));
    }
  }
  if (state.showFound) {
    for (const { row, n, isWrong } of [...seen.found].reverse()) {
      const runs = picture.masks && picture.masks[n];
      if (runs) over.append(mask('mask', runs, { fill: colourOf(row[0]) }));
      const angle = angleOf(image.found_angles, n);
      if (!runs) over.append(rect('halo', row.slice(2, 6), angle));
      over.append(rect(`box${isWrong ? ' wrong' : ''}`, row.slice(2, 6), angle, { stroke: colourOf(row[0]), 'data-class': row[0] }));
    }
  }
  return over;
}

function fill(frame, index) {
  const picture = DATA.pictures[index];
  frame.replaceChildren(picture.src ? el('img', { src: picture.src, alt: '', decoding: 'async' })
    : el('span', { class: 'gone', title: IMAGES[index].error }, el('span', {}, t('gone', IMAGES[index].error))), drawing(index));
}

const filling = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      filling.unobserve(target);
      fill(target, Number(target.dataset.index));
    }
  }
}, { rootMargin: '600px' });

// Paper has no window: there all tiles are near, and nothing can be unfolded.
addEventListener('beforeprint', () => {
  document.querySelectorAll('.frame:empty').forEach((frame) => fill(frame, Number(frame.dataset.index)));
  document.querySelectorAll('details').forEach((one) => { one.open = true; });
});

// order: the indices that the viewer steps through.
function tile(index, order, caption) {
  const image = IMAGES[index];
  const frame = el('span', { class: 'frame', 'data-index': index });
  filling.observe(frame);
  const open = () => openViewer(order, order.indexOf(index));
  return el('button', { type: 'button', class: 'tile', 'aria-label': t('openImage', image.name), onclick: open },
    frame, el('span', { class: 'caption' }, el('span', { class: 'name', title: image.name }, image.name), caption));
}

function verdict(image) {
  const seen = judged(image);
  const place = image.rank ? el('span', {}, t('place', image.rank)) : null;
  if (!seen.isCompared) return [el('span', {}, image.found === null ? '' : `${t('found')} ${seen.found.length}`), place];
  const mistakes = [seen.missed ? t('missed', seen.missed) : '', seen.wrong ? t('wrong', seen.wrong) : ''].filter(Boolean).join(' · ');
  return [el('span', { class: mistakes ? 'bad' : null }, mistakes || t('right')), place];
}

function ordered() {
  const entries = IMAGES.map((image, n) => ({ image, n, seen: judged(image) }))
    .filter(({ seen }) => state.only < 0 || seen.found.length || seen.truth.length);
  const compare = {
    worst: (a, b) => b.seen.missed + b.seen.wrong - a.seen.missed - a.seen.wrong,
    rank: (a, b) => (a.image.rank || Infinity) - (b.image.rank || Infinity) || 0,
    name: (a, b) => (a.image.name < b.image.name ? -1 : 1),
    asGiven: () => 0,
  }[state.sort];
  return entries.sort((a, b) => compare(a, b) || a.n - b.n);
}

function chosenText() {
  const { total, shown, chosen } = REPORT.gallery;
  if (shown === total) return t('imagesAll', figure(total));
  const parts = [chosen.by_rank ? t('byRank', chosen.by_rank) : '', chosen.by_mistakes ? t('byMistakes', chosen.by_mistakes) : '',
    chosen.at_random ? t('atRandom', chosen.at_random, chosen.seed) : ''].filter(Boolean);
  return t('imagesSome', figure(shown), figure(total), parts.join(state.lang === 'zh' ? '，' : ', '));
}

function imagesSection() {
  const hasFound = IMAGES.some((image) => image.found), hasTruth = IMAGES.some((image) => image.truth);
  const list = el('ul', { class: 'tiles', id: 'tiles' }), status = el('p', { class: 'note', role: 'status', id: 'status' });
  const where = el('span', { id: 'where' });
  const step = (by) => { state.page += by; draw(); document.getElementById('images').scrollIntoView(); };
  const previous = el('button', { type: 'button', id: 'previous', onclick: () => step(-1) }, t('previous'));
  const next = el('button', { type: 'button', id: 'next', onclick: () => step(1) }, t('next'));
  const draw = () => {
    const entries = ordered();
    state.page = Math.max(0, Math.min(state.page, Math.ceil(entries.length / PAGE) - 1));
    const shown = entries.slice(state.page * PAGE, (state.page + 1) * PAGE), order = entries.map((one) => one.n);
    list.replaceChildren(...shown.map(({ image, n }) => el('li', {}, tile(n, order, verdict(image)))));
    const objects = entries.reduce((sum, one) => sum + one.seen.found.length, 0);
    status.textContent = entries.length ? t(hasFound ? 'status' : 'statusLabels', figure(entries.length), figure(objects)) : t('noImages');
    where.textContent = entries.length ? t('page', state.page * PAGE + 1, state.page * PAGE + shown.length, figure(entries.length)) : '';
    previous.disabled = state.page === 0;
    next.disabled = (state.page + 1) * PAGE >= entries.length;
  };
  onThreshold(draw);
  const how = t('matching', t(REPORT.quality ? REPORT.quality.by : 'boxes'));
  const compared = joined(t('labelledSome', figure(REPORT.gallery.labelled)), how);
  const known = !hasFound ? t('notLooked') : hasTruth ? compared : t('labelledNone');
  const turned = IMAGES.some((image) => image.found_angles || image.truth_angles) && t('rotated');
  const result = [el('p', { class: 'note' }, joined(chosenText(), known, turned)), galleryTools(hasFound, hasTruth, draw),
    galleryLegend(hasFound, hasTruth), status, list, el('div', { class: 'pager' }, previous, where, next)];
  draw();
  return result;
}

function galleryTools(hasFound, hasTruth, draw) {
  const select = (id, word, options, value, set) => {
    const node = el('select', { id, onchange: () => { set(node.value); state.page = 0; draw(); } },
      options.map(([key, text]) => el('option', { value: key }, text)));
    node.value = value;
    return el('div', { class: 'field' }, el('label', { for: id }, t(word)), node);
  };
  const tick = (id, word, key) => {
    const node = el('input', { type: 'checkbox', id, onchange: () => { state[key] = node.checked; draw(); } });
    node.checked = state[key];
    return el('label', { class: 'tick', for: id }, node, t(word));
  };
  const used = new Set(IMAGES.flatMap((image) => [...(image.found || []), ...(image.truth || [])].map((row) => row[0])));
  const classes = [...used].sort((a, b) => a - b).map((id) => [id, className(id)]);
  const orders = [hasFound && hasTruth ? 'worst' : '', REPORT.mining ? 'rank' : '', 'name', 'asGiven'].filter(Boolean);
  if (!orders.includes(state.sort)) [state.sort] = orders;
  return el('div', { class: 'toolbar' }, hasFound ? scoreField('score') : null,
    select('class', 'onlyClass', [[-1, t('allClasses')], ...classes], state.only, (value) => { state.only = Number(value); }),
    select('sort', 'sort', orders.map((key) => [key, t(key === 'name' ? 'byName' : key)]), state.sort, (value) => { state.sort = value; }),
    hasFound && hasTruth ? [tick('show-found', 'showFound', 'showFound'), tick('show-truth', 'showTruth', 'showTruth')] : null);
}

function galleryLegend(hasFound, hasTruth) {
  const rows = IMAGES.flatMap((image) => (hasFound ? image.found : image.truth) || []);
  const all = [...new Set(rows.map((row) => row[0]))].sort((a, b) => a - b), used = all.slice(0, 12);
  return el('p', { class: 'legend' }, used.map((id) => el('span', {}, swatch(colourOf(id)), className(id))),
    all.length > used.length ? el('span', {}, t('moreClasses', all.length - used.length)) : null,
    hasTruth ? el('span', {}, el('i', { class: 'swatch true' }), t('legendTruth')) : null,
    hasFound && hasTruth ? el('span', {}, el('i', { class: 'swatch wrong' }), t('legendWrong')) : null);
}

const viewer = document.getElementById('viewer');
let viewed = { order: [], at: 0 };

function openViewer(order, at) {
  viewed = { order, at };
  drawViewer();
  if (!viewer.open) viewer.showModal();
}

function drawViewer() {
  const { order, at } = viewed, image = IMAGES[order[at]], seen = judged(image);
  const frame = el('span', { class: 'frame', style: { 'aspect-ratio': Math.max(0.8, image.width / image.height) } });
  fill(frame, order[at]);
  const coordinates = (row, angle) => row.map((value) => figure(value)).join(', ') + (angle ? ` ∠ ${degrees(angle)}°` : '');
  const words = (one) => (!seen.isCompared ? t('unlabelled') : one.isWrong ? t('falseOne') : t('hit'));
  const line = (id, score, box, angle, word, isBad) => el('tr', {}, el('td', {}, swatch(colourOf(id)), className(id)),
    el('td', { class: 'num' }, score), el('td', {}, coordinates(box, angle)), el('td', { class: isBad ? 'bad' : null }, word));
  const rows = [...seen.found.map((one) => line(one.row[0], one.row[1].toFixed(2), one.row.slice(2, 6), angleOf(image.found_angles, one.n),
    words(one), one.isWrong)),
    ...seen.truth.filter((one) => one.isMissed || image.found === null).map((one) =>
      line(one.row[0], t('dash'), one.row.slice(1, 5), angleOf(image.truth_angles, one.n), t(one.isMissed ? 'missedOne' : 'label'), one.isMissed))];
  const button = (id, word, action, isOff) => {
    const made = el('button', { type: 'button', id, onclick: action }, t(word));
    made.disabled = Boolean(isOff);
    return made;
  };
  const move = (by) => () => { viewed.at += by; drawViewer(); };
  const focused = document.activeElement && document.activeElement.id;
  viewer.setAttribute('aria-label', image.name);
  const heads = [t('object'), t('scoreColumn'), t('box'), t('verdict')].map((text, n) => ({ text, num: n === 1 }));
  viewer.replaceChildren(el('div', { class: 'viewer-head' }, el('h3', {}, image.name),
    button('viewer-previous', 'previous', move(-1), at === 0),
    button('viewer-next', 'next', move(1), at === order.length - 1), button('viewer-close', 'close', () => viewer.close())),
  el('div', { class: 'viewer-body' }, frame, table(heads, rows)));
  const back = focused && viewer.querySelector(`#${CSS.escape(focused)}:not(:disabled)`);
  (back || viewer.querySelector('#viewer-close')).focus();
}

viewer.addEventListener('keydown', (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by || viewed.at + by < 0 || viewed.at + by >= viewed.order.length) return;
  event.preventDefault();
  viewed.at += by;
  drawViewer();
});
viewer.addEventListener('click', (event) => { if (event.target === viewer) viewer.close(); });
