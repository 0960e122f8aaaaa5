// Helpers: elements, scales, ticks, numbers, and the line that is read aloud.

const DATA = JSON.parse(document.getElementById('data').textContent);
const PARTS = DATA.parts; // colours where no method is meant
const MEGABYTE = 1e6;

function make(space, name, attributes, children) {
  const element = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

const html = (name, attributes, ...children) => make(null, name, attributes, children);
const svg = (name, attributes, ...children) => make('http://www.w3.org/2000/svg', name, attributes, children);

function show(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return 'none';
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace(/\.?0+e/, 'e').replace('e+', 'e');
  return String(Number(value.toPrecision(Math.max(digits, size >= 1 ? Math.floor(Math.log10(size)) + 1 : 0))));
}

function showSeconds(value) {
  for (const [unit, length] of [['d', 86400], ['h', 3600], ['min', 60]]) {
    if (value >= length) return (value / length).toFixed(1) + ' ' + unit;
  }
  return value < 1 ? show(1000 * value, 3) + ' ms' : value.toFixed(value < 10 ? 2 : 1) + ' s';
}

function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

// Ticks of an axis; the first and the last are its ends, at or beyond the values.
function wholeTicks(low, high, count, log) {
  if (high - low <= 1e-9 * Math.abs(high)) [low, high] = log ? [low / 1.2, high * 1.2] : [low - Math.abs(low || 1) / 20, high + Math.abs(high || 1) / 20];
  if (!log || high < 3 * low) { // on a short logarithmic axis, those of a linear one are closer
    const inner = ticks(low, high, log ? Math.max(count, 5) : count), step = inner.length > 1 ? inner[1] - inner[0] : high - low;
    const first = Math.floor(low / step + 1e-9) * step, last = Math.ceil(high / step - 1e-9) * step;
    return ticks(first, last, (last - first) / step).filter((tick) => tick > 0 || !log);
  }
  const decade = (value, round) => round(Math.log10(value) + (round === Math.ceil ? -1e-9 : 1e-9));
  const fine = 3 * Math.log10(high / low) <= 2 * count + 1 ? [1, 2, 5] : [1], from = decade(low, Math.floor), every = Math.max(1, Math.ceil((decade(high, Math.ceil) - from) / 8));
  const found = [];
  for (let power = from; found.length === 0 || found.at(-1) < high * (1 - 1e-9); power += every) {
    for (const factor of fine) if (!(found.at(-1) >= high * (1 - 1e-9))) found.push(Number(`${factor}e${power}`));
  }
  return found.slice(found.findLastIndex((tick) => tick <= low * (1 + 1e-9)));
}

// The ticks whose labels have room: both ends, and those between them that are far enough from each other.
function spaced(found, at, gap) {
  const last = found.at(-1), kept = [found[0]];
  for (const tick of found.slice(1, -1)) {
    if (Math.abs(at(tick) - at(kept.at(-1))) >= gap && Math.abs(at(last) - at(tick)) >= gap) kept.push(tick);
  }
  return last === found[0] ? kept : [...kept, last];
}

// Text that fits a width; the end of a layer's name says more than its beginning.
const fitted = (text, width, letter = 6.3) => (text.length * letter <= width ? text : '…' + text.slice(1 - Math.floor(width / letter)).replace(/^\./, ''));

function scale(low, high, from, to, log) {
  const place = log ? Math.log : (value) => value;
  const start = place(low), length = place(high) - start || 1;
  return (value) => from + ((place(value) - start) / length) * (to - from);
}

let speaking = 0;
function say(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { document.getElementById('live').textContent = text; }, 150);
}

// A labelled drop-down; returns its element and a function that reads the chosen value.
function choice(label, options, changed) {
  const select = html('select', { onchange: () => changed(select.value) },
    options.map(([value, text]) => html('option', { value }, text)));
  return { element: html('label', { class: 'choice' }, label + ' ', select), read: () => select.value };
}

// Draws at once and whenever the width has changed.
function whenever(host, draw) {
  let width = 0;
  const again = () => {
    const now = Math.max(280, Math.floor(host.clientWidth));
    if (now !== width) { width = now; draw(now); }
  };
  again();
  new ResizeObserver(again).observe(host);
  return () => draw(width);
}

// The runs to choose from; the first that adjusts its intervals is the most telling and stands chosen.
function runChoice(runs, changed) {
  const pick = choice('Run', runs.map((run) => [String(DATA.runs.indexOf(run)), run.name]), changed);
  preset(pick, String(DATA.runs.indexOf(runs.find((run) => run.adjustments.length) || runs[0])));
  return pick;
}

function preset(pick, value) {
  const select = pick.element.querySelector('select');
  if ([...select.options].some((option) => option.value === value)) select.value = value;
}
