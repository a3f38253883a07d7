"""The live page's script: asks for run.json every two seconds and draws tables and charts of it."""

SCRIPT = r"""
'use strict';
const PERIOD_MS = 2000;
const id = name => document.getElementById(name);
const known = value => value !== null && value !== undefined;
const percent = value => known(value) ? (100 * value).toFixed(2) + ' %' : '–';
// What a run is judged by: accuracy, or its metric.
let metric = {name: 'accuracy', unit: '%', higher: true};
const valueOf = each => each ? each.accuracy ?? each.value : undefined;
const told = value => !known(value) ? '–' : metric.unit === '%' ? percent(value)
  : `${Number(value.toPrecision(4))} ${metric.unit}`.trim();
const fixed = (value, digits) => known(value) ? value.toFixed(digits) : '–';
const grouped = (value, digits) =>
  value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
const size = bytes => bytes >= 1e7 ? grouped(bytes / 1e6, 1) + ' MB' : grouped(bytes / 1e3, 1) + ' KB';
const mib = bytes => known(bytes) ? grouped(bytes / 2 ** 20, 0) + ' MiB' : '–';
const sum = (list, of) => list.reduce((total, each) => total + of(each), 0);

function node(tag, attributes, ...children) {
  const svg = ['svg', 'g', 'path', 'line', 'rect', 'circle', 'text', 'title'].includes(tag);
  const made = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function table(name, head, lines) {
  const row = (tag, cells) => node('tr', {}, ...cells.map(cell => {
    const [text, look] = Array.isArray(cell) ? cell : [cell, ''];
    const attributes = tag === 'th' ? {scope: 'col'} : {};
    return node(tag, look ? {...attributes, class: look} : attributes, String(text));
  }));
  id(name).replaceChildren(row('th', head), ...lines.map(line => row('td', line)));
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(each => each * power).find(each => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(at + 0);  // no -0
  return {found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9))};
}

// A frame with axes: rounds to the right, in from the edges by inset, values upwards; returns where a point lies.
function frame(name, rounds, low, high, inset) {
  const width = Math.max(260, id(name).clientWidth), height = 220, left = 48, bottom = 22;
  const across = ticks(0, Math.max(1, rounds), Math.min(10, Math.max(1, rounds)));
  const x = round => left + inset + (width - left - 2 * inset) * round / Math.max(1, rounds);
  const y = value => 10 + (height - bottom - 14) * (1 - (value - low) / (high - low || 1));
  const svg = node('svg', {viewBox: `0 0 ${width} ${height}`, width, height, role: 'img'});
  const up = ticks(low, high, 5);
  for (const value of up.found) {
    svg.append(node('line', {class: 'grid', x1: left, x2: width, y1: y(value), y2: y(value)}));
    svg.append(node('text', {x: left - 6, y: y(value) + 4, 'text-anchor': 'end'}, grouped(value, up.digits)));
  }
  for (const round of across.found.filter(Number.isInteger))
    svg.append(node('text', {x: x(round), y: height - 4, 'text-anchor': 'middle'}, String(round)));
  return {svg, x, y, width};
}

function show(name, svg, series, said) {
  svg.setAttribute('aria-label', said);
  const keys = series.map(({label, look}) => {
    const swatch = node('svg', {width: 14, height: 10, 'aria-hidden': 'true'});
    swatch.append(look === 'mark' ? node('line', {class: 'mark', x1: 7, x2: 7, y1: 0, y2: 10})
      : node('rect', {class: look, width: 14, height: 4, y: 3}));
    return node('span', {}, swatch, label);
  });
  id(name).replaceChildren(svg, node('figcaption', {class: 'key'}, ...keys));
}

// series: [{label, look, points: [[round, value]]}]; marks: rounds in which masks changed
function lines(name, all, rounds, marks, digits, unit) {
  const series = all.filter(each => each.points.length), values = series.flatMap(each => each.points.map(p => p[1]));
  if (!values.length) return id(name).replaceChildren(node('p', {class: 'dim'}, 'Nothing yet.'));
  const spread = Math.max(...values) - Math.min(...values) || Math.abs(values[0]) || 1;
  const low = Math.max(0, Math.min(...values) - 0.08 * spread), high = Math.max(...values) + 0.08 * spread;
  const {svg, x, y} = frame(name, rounds, low, high, 12);
  for (const round of marks) svg.append(node('line', {class: 'mark', x1: x(round), x2: x(round), y1: 10, y2: 194}));
  for (const {label, look, points} of series) {
    svg.append(node('path', {class: look, d: 'M' + points.map(p => `${x(p[0])},${y(p[1])}`).join('L')}));
    for (const [round, value] of points) {
      const title = node('title', {}, `${label}, round ${round}: ${value.toFixed(digits)}${unit}`);
      svg.append(node('circle', {class: look, cx: x(round), cy: y(value), r: look === 'pale' ? 2 : 3}, title));
    }
  }
  const said = series.map(({label, points}) => {
    const [round, value] = points.at(-1);
    return `${label}: ${value.toFixed(digits)}${unit} in round ${round}`;
  });
  const keys = marks.length ? [...series, {label: 'masks change', look: 'mark'}] : series;
  show(name, svg, keys, said.join('; '));
}

// series: [{label, look, values}], as many values as rounds there are
function bars(name, series, names, rounds, digits) {
  if (!names.length) return id(name).replaceChildren(node('p', {class: 'dim'}, 'Nothing yet.'));
  const high = 1.05 * Math.max(...series.flatMap(each => each.values)) || 1;
  const {svg, x, y, width} = frame(name, rounds, 0, high, 18);
  const room = Math.min(28, 0.8 * (width - 72) / (rounds + 1)), each = room / series.length;
  series.forEach(({label, look, values}, which) => values.forEach((value, index) => {
    const title = node('title', {}, `${label}, round ${names[index]}: ${grouped(value, digits)}`);
    const at = {x: x(names[index]) - room / 2 + which * each, y: y(value), width: each, height: y(0) - y(value)};
    svg.append(node('rect', {class: look, 'stroke-width': 0, ...at}, title));
  }));
  const said = series.map(({label, values}) => `${label}: ${grouped(values.at(-1), digits)} in round ${names.at(-1)}`);
  show(name, svg, series.length > 1 ? series : [], said.join('; '));
}

function layers(all) {
  const parts = Object.keys(all), names = [...new Set(parts.flatMap(part => Object.keys(all[part])))];
  id('layers-section').hidden = !names.length;
  if (!names.length) return;
  const width = Math.max(260, id('layers').clientWidth), left = Math.min(220, 0.4 * width), row = 8 * parts.length + 12;
  const height = names.length * row;
  const widest = Math.max(...parts.flatMap(part => Object.values(all[part]))) || 1, room = (width - left - 52) / widest;
  const svg = node('svg', {viewBox: `0 0 ${width} ${height}`, width, height, role: 'img'});
  names.forEach((name, index) => {
    const middle = index * row + row / 2, label = name.replace(/\.weight$/, ''), fits = Math.floor(left / 6.6);
    const short = label.length > fits ? '…' + label.slice(1 - fits) : label;
    svg.append(node('text', {x: left - 8, y: middle + 4, 'text-anchor': 'end'}, short, node('title', {}, name)));
    parts.forEach((part, which) => {
      const value = all[part][name];
      if (!known(value)) return;
      const at = {x: left, y: index * row + 6 + 8 * which, width: Math.max(1, room * value), height: 7};
      const title = node('title', {}, `${label}${part && ', ' + part}: ${percent(value)}`);
      svg.append(node('rect', {class: 's' + which % 6, 'stroke-width': 0, ...at}, title));
    });
    const most = Math.max(...parts.map(part => all[part][name] ?? 0));
    svg.append(node('text', {x: left + room * most + 6, y: middle + 4}, (100 * most).toFixed(1)));
  });
  const said = names.map(name => `${name}: ${parts.map(part => percent(all[part][name])).join(', ')}`).join('; ');
  show('layers', svg, parts[0] === '' ? [] : parts.map((label, which) => ({label, look: 's' + which % 6})), said);
}

// What a device is now: why it is not asked, else what it last did.
const wordOf = device => device.away || device.word;

function deviceLine(device, tiered, linked, ended) {
  const last = device.phase ? `${device.word}, ${device.phase} of round ${device.round}` : '–';
  const refused = device.refusals ? `${device.refusals}, needs ${mib(device.needs_bytes)}` : '0';
  const notes = [device.away_why, device.last_fault && 'last fault: ' + device.last_fault,
    device.job && 'trains now: ' + device.job];
  const worst = device.worst ? `${told(device.worst.accuracy)}, round ${device.worst.round}` : '–';
  const accuracy = [worst, ...(ended ? [told(device.accuracy)] : [])], word = wordOf(device);
  const faults = device.late ? `${device.faults}, ${device.late} late` : device.faults;
  return [device.device, ...(tiered ? [[device.tier, 'text']] : []), [word || '–', `text word ${word}`],
    [notes.filter(Boolean).join('; '), 'long'], [last, 'text'],
    known(device.asked) ? `${device.answered} of ${device.asked}` : '–', [faults, device.faults ? 'failed' : ''],
    [refused, device.refusals ? 'refused' : ''], mib(device.memory_bytes),
    ...(linked ? [known(device.lag_s) ? grouped(device.lag_s, 1) + ' s' : '–'] : []), ...accuracy];
}

function devices(run) {
  const all = run.devices, tiered = all.some(each => each.tier), ended = all.some(each => known(each.accuracy));
  const linked = all.some(each => known(each.lag_s));
  table('devices', ['device', ...(tiered ? [['tier', 'text']] : []), ['now', 'text'], ['notes', 'text'],
    ['last asked', 'text'], 'answered', 'faults', 'refusals', 'memory',
    ...(linked ? ['last answer in'] : []), 'last the worst',
    ...(ended ? [metric.name + ' at the end'] : [])],
    all.map(device => deviceLine(device, tiered, linked, ended)));
  const words = ['answered', 'failed', 'late', 'refused', 'aside', 'absent']
    .map(word => [word, all.filter(device => wordOf(device) === word).length]).filter(([, count]) => count);
  id('words').replaceChildren(...words.flatMap(([word, count], at) =>
    [at ? ', ' : '', node('span', {class: 'word ' + word}, `${count} ${word}`)]));
  id('unknown').hidden = all.every(device => known(device.asked));
  const strangers = Object.entries(run.strangers);
  id('strangers-section').hidden = !strangers.length;
  id('strangers').replaceChildren(...strangers.map(([name, why]) => node('li', {}, `node ${name}: ${why}`)));
}

function draw(run) {
  metric = run.metric || metric;
  const title = metric.name[0].toUpperCase() + metric.name.slice(1);
  id('judged').textContent = title + ' by round' + (metric.unit && ', ' + metric.unit);
  const rounds = run.rounds, asked = Math.max(run.rounds_asked, run.round), parts = Object.keys(run.parts);
  const main = run.parts[parts[0]] || {}, done = rounds.filter(each => each.round > 0);
  document.title = run.name ? `${run.round}/${asked} · ${run.name}` : 'fedprune watch';
  id('name').textContent = run.name || 'fedprune';
  id('subtitle').textContent = run.subtitle + (run.devices.length ? ` · ${run.devices.length} devices` : '');
  id('progress').max = asked || 1;
  id('progress').value = run.round;
  id('round').textContent = asked ? `round ${run.round} of ${asked}${run.phase && ', ' + run.phase + ' done'}` : '';
  const faults = sum(run.devices, each => each.faults), up = sum(rounds, each => each.bytes_up);
  const tiles = [['round', `${run.round} of ${asked || '–'}`], ['test ' + metric.name, told(valueOf(main))],
    ['test loss', fixed(main.loss, 4)], ['density', fixed(run.density, 4)], ['from devices', size(up)],
    ['to devices', size(sum(rounds, each => each.bytes_down))],
    ['seconds a round', done.length ? grouped(sum(done, each => each.seconds) / done.length, 1) : '–'],
    ['faults', faults], ['refusals', sum(run.devices, each => each.refusals)]];
  const late = sum(run.devices, each => each.late), retried = sum(rounds, each => each.retried);
  const exploded = rounds.some(each => each.diverged);
  if (late) tiles.push(['late', late]);
  if (retried) tiles.push(['asked again', retried]);
  id('tiles').replaceChildren(...tiles.map(([label, value]) =>
    node('div', {}, node('b', {}, String(value)), label)));
  id('parts-section').hidden = parts.length < 2;
  table('parts', ['part', metric.name, 'loss', 'density', 'round'], parts.map(part => [part || 'whole',
    told(valueOf(run.parts[part])), fixed(run.parts[part].loss, 4), fixed(run.parts[part].density, 4),
    run.parts[part].round]));
  const pointsOf = (of, scale) => rounds.filter(each => known(of(each))).map(each => [each.round, scale * of(each)]);
  const tested = (key, scale) => parts.map((part, index) => ({
    label: part ? 'test, ' + part : 'test', look: 's' + index % 6,
    points: pointsOf(each => each.test[part]?.[key], scale)}));
  const trained = (key, scale) => ({label: 'devices, while training', look: 'pale',
    points: pointsOf(each => each.train?.[key], scale)});
  const marks = rounds.filter(each => each.phases.includes('top_gradients')).map(each => each.round);
  const judged = metric.name === 'accuracy' ? 'accuracy' : 'value', share = metric.unit === '%' ? 100 : 1;
  const digits = share === 100 ? 2 : 4, unit = metric.unit ? ' ' + metric.unit : '';
  lines('accuracy', [trained(judged, share), ...tested(judged, share)], asked, marks, digits, unit);
  lines('loss', [trained('loss', 1), ...tested('loss', 1)], asked, marks, 4, '');
  const names = rounds.map(each => each.round);
  bars('bytes', [{label: 'to devices', look: 'pale', values: rounds.map(each => each.bytes_down / 1e3)},
    {label: 'from devices', look: 's0', values: rounds.map(each => each.bytes_up / 1e3)}], names, asked, 1);
  const computed = rounds.some(each => known(each.device_seconds)) ? [{label: 'of them the slowest device computes',
    look: 's0', values: rounds.map(each => each.device_seconds ?? 0)}] : [];
  bars('seconds', [{label: 'seconds', look: computed.length ? 'pale' : 's0', values: rounds.map(each => each.seconds)},
    ...computed], names, asked, 1);
  layers(run.layers);
  devices(run);
  table('rounds', ['round', ['phases', 'text'], 'test ' + metric.name, 'test loss', 'density', 'up', 'down', 'seconds',
    'faults', ...(retried ? ['asked again'] : []), ...(exploded ? [['notes', 'text']] : [])],
    rounds.map(each => [each.round, [each.phases.filter((p, at, list) => list.indexOf(p) === at).join(', '), 'text'],
      Object.values(each.test).map(test => told(valueOf(test))).join(', ') || '–',
      Object.values(each.test).map(test => fixed(test.loss, 4)).join(', ') || '–', fixed(each.density, 4),
      size(each.bytes_up), size(each.bytes_down), grouped(each.seconds, 1), each.faults + each.refused,
      ...(retried ? [each.retried] : []), ...(exploded ? [[each.diverged, 'long']] : [])]));
}

let last = '', run = null, heard = 0, paused = false;

function ages() {
  const running = run && known(run.quiet_s) && run.state !== 'finished';
  const age = running ? run.quiet_s + (performance.now() - heard) / 1000 : 0;
  const words = age < 120 ? Math.round(age) + ' s' : Math.round(age / 60) + ' min';
  id('age').textContent = running ? `Last line ${words} ago.` : '';
}

async function ask() {
  if (!paused && !document.hidden) {
    try {
      const answer = await fetch('run.json', {cache: 'no-store', signal: AbortSignal.timeout(10000)});
      if (!answer.ok) throw new Error(answer.status);
      run = await answer.json();
      heard = performance.now();
      id('trouble').hidden = true;
      if (id('said').textContent !== run.said) id('said').textContent = run.said;
      const same = JSON.stringify({...run, quiet_s: 0});
      if (same !== last) draw(run);  // otherwise a selection or a tooltip would be lost
      last = same;
      ages();
    } catch (error) {
      id('trouble').textContent = 'fedprune watch does not answer; what is shown is the last that it said.';
      id('trouble').hidden = false;
    }
  }
  setTimeout(ask, PERIOD_MS);
}

id('pause').addEventListener('click', () => {
  paused = !paused;
  id('pause').setAttribute('aria-pressed', String(paused));
});
let drawnAt = innerWidth;
addEventListener('resize', () => {
  if (run && innerWidth !== drawnAt) draw(run);
  drawnAt = innerWidth;
});
ask();
"""
