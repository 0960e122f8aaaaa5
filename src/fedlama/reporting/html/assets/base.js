// Helpers: elements, scales, ticks, numbers, and the line that is read aloud.

const DATA = JSON.parse(document.getElementById('data').textContent);
const COLOURS = ['#0060a8', '#b84500', '#00704f', '#9c3f7c', '#7a5c00', '#4b4b9f', '#1a1a1a', '#a02020'];
const DASHES = ['', '7 3', '2 3', '9 3 2 3', '4 2', '12 4', '1 4', '6 2 1 2 1 2'];
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

function logTicks(low, high) {
  const found = [];
  for (let power = Math.ceil(Math.log10(low) - 1e-9); 10 ** power <= high * 1.000001; power += 1) found.push(10 ** power);
  if (found.length >= 2) return found.length > 7 ? found.filter((_, index) => index % 2 === 0) : found;
  return ticks(low, high, 4).filter((tick) => tick > 0);
}

// Ticks at 1, 2 and 5 of each power of ten; those of a linear axis where that would be too few.
function fineTicks(low, high) {
  if (high < 10 * low) return ticks(low, high, 6);
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
    found.push(...[1, 2, 5].map((factor) => Number((factor * 10 ** power).toPrecision(12))));
  }
  return found.filter((tick) => tick >= low && tick <= high);
}

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
