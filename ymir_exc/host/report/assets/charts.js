// Charts: a line chart with a cross-hair for pointer and arrow keys, and a histogram.
const HEIGHT = 250, LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 30;
const isNarrow = matchMedia('(max-width: 44rem)');

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const found = [];
  for (let n = Math.ceil(low / unit - 1e-9); n * unit <= high + unit * 1e-9; n += 1) found.push(Number((n * unit).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const one of [1, 2, 5]) if (one * 10 ** power >= low * 0.999 && one * 10 ** power <= high * 1.001) found.push(one * 10 ** power);
  }
  const rarer = found.length > 7 ? found.filter((value) => Math.abs(Math.log10(value) % 1) < 1e-9) : found;
  return rarer.length > 1 ? rarer : ticks(low, high, 4).filter((value) => value > 0);
}

const exponent = (value) => value.toExponential(2).replace('e+', 'e').replace('.00', '');    // there is room for eight signs

function axes(chart, width, xs, ys, x, y) {
  for (const value of ys) {
    chart.append(svg('line', { class: 'rule', x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg('text', { x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }, Math.abs(value) < 1e6 ? figure(value, 3) : exponent(value)));
  }
  for (const value of xs) {
    chart.append(svg('text', { x: x(value), y: HEIGHT - BOTTOM + 18, 'text-anchor': 'middle' }, figure(value)));
  }
  chart.append(svg('line', { class: 'axis', x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
}

const extent = (values) => values.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);

// series: [{name, colour, points: [[x, y], ...]}]; xRange and yRange are taken from them where they are not given.
function lineChart({ series, width = 440, label, isLog, xRange, yRange, say }) {
  const all = series.flatMap((one) => one.points);
  const [x0, x1] = xRange || extent(all.map((point) => point[0]));
  let [y0, y1] = yRange || extent(all.map((point) => point[1]));
  const isUsed = isLog && y0 > 0;
  if (!yRange && !isUsed) {
    const room = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 1;
    y0 = y0 >= 0 && y0 < (y1 - y0) * 0.5 ? 0 : y0 - room;
    y1 = y1 <= 1 && y0 >= 0 ? Math.min(1, y1 + room) : y1 + room;    // most figures of this kind are fractions
  }
  if (isUsed && y0 === y1) { y0 /= 2; y1 *= 2; }
  const x = (value) => LEFT + (x1 > x0 ? (value - x0) / (x1 - x0) : 0.5) * (width - LEFT - RIGHT);
  const place = isUsed ? (value) => Math.log(value / y0) / Math.log(y1 / y0) : (value) => (value - y0) / (y1 - y0);
  const y = (value) => HEIGHT - BOTTOM - place(value) * (HEIGHT - TOP - BOTTOM);
  const chart = svg('svg', { viewBox: `0 0 ${width} ${HEIGHT}`, tabindex: 0, role: 'img', 'aria-label': label });
  axes(chart, width, x1 > x0 ? ticks(x0, x1, 5) : [x0], isUsed ? logTicks(y0, y1) : ticks(y0, y1, 5), x, y);
  for (const one of series) {
    const path = one.points.map((point, n) => `${n ? 'L' : 'M'}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join('');
    if (one.points.length === 1) chart.append(svg('circle', { cx: x(one.points[0][0]), cy: y(one.points[0][1]), r: 3, fill: one.colour }));
    else chart.append(svg('path', { class: 'series', d: path, stroke: one.colour }));
  }
  addCross(chart, width, series, x, y, [x0, x1], say);
  return { chart, x, y };
}

function addCross(chart, width, series, x, y, [x0, x1], say) {
  const cross = svg('line', { class: 'cross', y1: TOP, y2: HEIGHT - BOTTOM, visibility: 'hidden' });
  const dots = series.map((one) => svg('circle', { r: 4, fill: one.colour, visibility: 'hidden' }));
  chart.append(cross, ...dots);
  const stops = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
  let at = -1;
  const away = (point, value) => Math.abs(point[0] - value);
  const nearest = (points, value) => points.reduce((best, point) => (away(point, value) < away(best, value) ? point : best));
  const show = (index, clientX, clientY) => {
    at = Math.max(0, Math.min(stops.length - 1, index));
    const found = series.map((one) => nearest(one.points, stops[at]));
    put(cross, { x1: x(stops[at]), x2: x(stops[at]), visibility: 'visible' }, []);
    found.forEach((point, n) => put(dots[n], { cx: x(point[0]), cy: y(point[1]), visibility: 'visible' }, []));
    const box = chart.getBoundingClientRect();
    showTip(say(stops[at], found), clientX ?? box.left + (x(stops[at]) / width) * box.width, clientY ?? box.top + box.height / 3);
  };
  const hide = () => { [cross, ...dots].forEach((one) => one.setAttribute('visibility', 'hidden')); hideTip(); };
  put(chart, {
    onpointermove: (event) => {
      const box = chart.getBoundingClientRect();
      const value = x0 + (((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - RIGHT) * (x1 - x0);
      show(stops.indexOf(nearest(stops.map((one) => [one]), value)[0]), event.clientX, event.clientY);
    },
    onpointerleave: hide, onblur: hide,
    onkeydown: (event) => {
      const moves = { ArrowRight: at + 1, ArrowLeft: at < 0 ? stops.length - 1 : at - 1, Home: 0, End: stops.length - 1 };
      if (event.key === 'Escape') hide();
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(moves[event.key]);
    },
  }, []);
}

function histogramChart(mining) {
  const { low, high, histogram } = mining, width = isNarrow.matches ? 440 : 1000;
  const most = Math.max(...histogram);
  const span = high > low ? high - low : 1;
  const x = (value) => LEFT + ((value - low) / span) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - TOP - BOTTOM);
  const chart = svg('svg', { viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img',
    'aria-label': t('histogramLabel', figure(mining.count), figure(low), figure(high)) });
  axes(chart, width, high > low ? ticks(low, high, 5) : [low], ticks(0, most, 4).filter(Number.isInteger), x, y);
  const step = (width - LEFT - RIGHT) / histogram.length;
  histogram.forEach((count, n) => {
    const start = low + (span * n) / histogram.length, end = low + (span * (n + 1)) / histogram.length;
    const say = t('between', figure(start), figure(high > low ? end : high), figure(count));
    if (count) chart.append(svg('rect', { class: 'bar-shape', x: LEFT + n * step + 0.75, y: y(count), width: step - 1.5, rx: 1.5,
      height: HEIGHT - BOTTOM - y(count), onpointermove: (event) => showTip(say, event.clientX, event.clientY), onpointerleave: hideTip }));
  });
  return chart;
}
