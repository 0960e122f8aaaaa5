// Downloads: each figure as SVG with its title and legend, each table as CSV. Nothing leaves the browser.

const PLAIN_NUMBER = /^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$/;

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type })), link = html('a', { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

const fileName = (text, ending) => `${text.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '')}.${ending}`;
const headingOf = (element) => element.closest('section').querySelector('h2').textContent;

function csvOf(table) {
  const cell = (element) => {
    const text = element.textContent.trim(), plain = PLAIN_NUMBER.test(text) ? text.replaceAll(',', '') : text;
    return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  return [...table.rows].map((row) => [...row.cells].map(cell).join(',')).join('\r\n') + '\r\n';
}

// The rules of the page that charts need, so that the file looks the same by itself.
function chartRules() {
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
  return rules.filter((rule) => rule.selectorText === ':root' || /^\.(chart text|grid|axis|target|diamond|others|beyond|bar)\b/.test(rule.selectorText || '')).map((rule) => rule.cssText).join('\n');
}

function svgOf(host) {
  const chart = host.querySelector('svg.chart'), [, , width, height] = chart.getAttribute('viewBox').split(' ').map(Number);
  const copy = chart.cloneNode(true), chosen = [...host.querySelectorAll('select')].map((one) => one.selectedOptions[0].textContent);
  copy.querySelectorAll('.pointer, .cell').forEach((one) => one.remove());
  for (const name of ['x', 'y', 'class', 'tabindex']) copy.removeAttribute(name);
  const words = chosen.reduce((lines, part) => (6.8 * (lines.at(-1) + part).length < width ? [...lines.slice(0, -1), lines.at(-1) + (lines.at(-1) && ', ') + part] : [...lines, part]), ['']);
  const top = 22 + 17 * words.length;
  Object.entries({ y: top, width, height, overflow: 'visible' }).forEach(([name, value]) => copy.setAttribute(name, value));
  const key = svg('g', {}), items = [...host.querySelectorAll('.legend [aria-pressed="true"], .legend .key')];
  let x = 4, y = top + height + 18;
  for (const item of items) {
    const text = item.textContent, room = 40 + 6.8 * text.length, box = item.querySelector('i');
    if (x > 4 && x + room > width) { x = 4; y += 20; }
    const sample = box ? svg('rect', { x: 0, y: -10, width: 16, height: 12, fill: box.style.backgroundColor, stroke: '#767676' }) : item.querySelector('svg line').cloneNode(true);
    if (!box) sample.setAttribute('transform', 'translate(0 -9)');
    key.append(svg('g', { transform: `translate(${x} ${y})` }, sample, svg('text', { x: 32 }, text)));
    x += room;
  }
  const whole = svg('svg', { class: 'chart', width, height: y + 14, viewBox: `0 0 ${width} ${y + 14}`, role: 'img', 'aria-label': chart.getAttribute('aria-label') },
    svg('style', {}, chartRules()), svg('rect', { width: '100%', height: '100%', fill: '#fff' }),
    svg('text', { x: 2, y: 16, class: 'label' }, headingOf(host)), words.map((line, index) => svg('text', { x: 2, y: 32 + 17 * index }, line)), copy, key);
  return new XMLSerializer().serializeToString(whole);
}

function saveButton(words, what, act) {
  return html('p', { class: 'save' }, html('button', { type: 'button', 'aria-label': `${words}: ${what}`, onclick: act }, words));
}

function addDownloads() {
  for (const host of document.querySelectorAll('.plot')) {
    if (!host.querySelector('svg.chart')) continue;
    host.after(saveButton('Download SVG', headingOf(host), () => host.querySelector('svg.chart') && download(fileName(headingOf(host), 'svg'), 'image/svg+xml', svgOf(host))));
  }
  for (const table of document.querySelectorAll('main table')) {
    const name = table.caption?.textContent || table.closest('[aria-label]')?.getAttribute('aria-label').replace('Table: ', '') || headingOf(table);
    table.after(saveButton('Download CSV', name, () => download(fileName(name, 'csv'), 'text/csv', csvOf(table))));
  }
}
