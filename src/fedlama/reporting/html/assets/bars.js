// Bars: bytes by layer, by direction and by client, and time by link.

// rows: [{name, parts: [numbers]}]; kinds: what the parts are; write: a number in words.
function bars(host, rows, kinds, write, what) {
  const area = html('div', { class: 'canvas' });
  const key = html('div', { class: 'legend' }, kinds.map((kind, index) => html('span', { class: 'key' }, html('i', { style: `background:${PARTS[index]}` }), kind)));
  host.replaceChildren(area, key);
  whenever(area, (width) => {
    const longest = 12 + 6.4 * Math.max(...rows.map((one) => one.name.length)), above = longest > width * 0.4; // names above their bars
    const bar = rows.length > 40 && !above ? 10 : 17, row = above ? 36 : bar + 5, left = above ? 2 : longest, small = bar < 17 ? 'small' : '';
    const sum = (one) => one.parts.reduce((total, part) => total + part, 0), most = Math.max(...rows.map(sum)) || 1;
    const px = scale(0, most, left, width - 86);
    const picture = svg('svg', { viewBox: `0 0 ${width} ${row * rows.length + 6}`, role: 'img', class: 'chart',
      'aria-label': `${what}: ` + rows.slice(0, 12).map((one) => `${one.name} ${write(sum(one))}`).join('; ') + (rows.length > 12 ? '; the rest is in the table' : '') });
    rows.forEach((one, index) => {
      const top = 4 + row * index + (above ? 16 : 0);
      picture.append(svg('text', above ? { x: left, y: top - 4 } : { x: left - 5, y: top + bar / 2 + 4, 'text-anchor': 'end', class: small },
        fitted(one.name, above ? width - 4 : left), svg('title', {}, one.name)));
      let from = 0;
      one.parts.forEach((part, kind) => {
        picture.append(svg('rect', { x: px(from), y: top, width: Math.max(px(from + part) - px(from), 0), height: bar, fill: PARTS[kind], class: 'bar' },
          svg('title', {}, `${one.name}, ${kinds[kind]}: ${write(part)}`)));
        from += part;
      });
      picture.append(svg('text', { x: px(from) + 5, y: top + bar / 2 + 4, class: small }, write(from)));
    });
    area.replaceChildren(picture);
  });
}

const megabytes = (bytes) => (bytes >= 1e4 || bytes === 0 ? show(bytes / MEGABYTE, 3) + ' MB' : show(bytes) + ' B');

function bytesPlot(host) {
  const pick = runChoice(DATA.runs, update), area = html('div', {});
  const by = choice('Bytes by', [['layer', 'layer'], ['direction', 'direction'], ['client', 'client']], update);
  host.replaceChildren(html('div', { class: 'choices' }, pick.element, by.element), area);
  update();

  function update() {
    const run = DATA.runs[Number(pick.read())], note = html('p', { class: 'readout' }), chart = html('div', {});
    area.replaceChildren(chart, note);
    if (by.read() === 'layer') {
      bars(chart, run.layers.map((layer) => ({ name: layer.name, parts: [layer.up, layer.down] })), ['up', 'down'], megabytes, 'Payload by layer');
    } else if (by.read() === 'direction') {
      const ways = { up: 'up', down: 'down', evaluation: 'up, only to evaluate', 'evaluation-down': 'down, only to evaluate' };
      bars(chart, Object.entries(run.directions).map(([way, parts]) => ({ name: ways[way], parts: [parts.payload, parts.headers, parts.scalars] })),
        ['payload', 'headers', 'discrepancy scalars'], megabytes, 'Bytes by direction');
    } else {
      const shown = run.clients.slice(0, 100);
      bars(chart, shown.map(([client, up, down]) => ({ name: `client ${client}`, parts: [up, down] })), ['up', 'down'], megabytes, 'Bytes by client');
      if (run.clients.length > 100) note.textContent = `The first 100 of ${run.clients.length} clients that took part.`;
    }
  }
}

function linksPlot(host) {
  const names = Object.keys(DATA.runs[0].links), area = html('div', {});
  const pick = choice('Link', names.map((name) => [name, name]), update);
  preset(pick, '4g');
  host.replaceChildren(html('div', { class: 'choices' }, pick.element), area);
  update();

  function update() {
    const rows = DATA.runs.map((run) => ({ name: run.name, parts: ['down', 'compute', 'up'].map((part) => run.links[pick.read()][part]) }));
    bars(area, rows, ['down', 'computing', 'up'], showSeconds, `Time on ${pick.read()}`);
  }
}
