// Each layer's discrepancy or interval over the rounds: one small panel per layer, all with the same axes.
// Behind a layer's line are those of the other layers, in grey.

function layersPlot(host) {
  const runs = DATA.runs.filter((run) => run.layers.some((layer) => layer.intervals.length));
  if (!runs.length) { host.replaceChildren(html('p', {}, 'These run folders have no layers.jsonl.')); return; }
  const pick = runChoice(runs, () => redraw());
  const what = choice('Show', [['discrepancy', 'unit discrepancy d'], ['interval', 'interval in rounds']], () => redraw());
  const which = choice('Layers', [['largest', 'the 12 with most parameters'], ['highest', 'the 12 with the highest d'], ['lowest', 'the 12 with the lowest d'], ['all', 'all']], () => redraw());
  const area = html('div', { class: 'canvas' }), readout = html('p', { class: 'readout' });
  const key = html('div', { class: 'legend' });
  host.replaceChildren(html('div', { class: 'choices' }, pick.element, what.element, which.element), area, key, readout);

  // The layers to show, each with its points [round, value].
  function chosen() {
    const run = DATA.runs[Number(pick.read())], last = (layer) => layer.discrepancy.findLast((value) => value !== null) ?? 0;
    const order = { largest: (a, b) => b.parameters - a.parameters, highest: (a, b) => last(b) - last(a), lowest: (a, b) => last(a) - last(b), all: () => 0 }[which.read()];
    const layers = [...run.layers].sort(order).slice(0, which.read() === 'all' ? undefined : 12);
    return layers.map((layer) => {
      if (what.read() === 'discrepancy') return { name: layer.name, points: layer.synchronised.map((at, k) => [at + 1, layer.discrepancy[k]]).filter((one) => one[1] > 0) };
      const ends = layer.intervals.map(([from, interval], k) => [[from + 1, interval], [k + 1 < layer.intervals.length ? layer.intervals[k + 1][0] + 1 : run.steps.length, interval]]);
      return { name: layer.name, points: ends.flat() };
    });
  }

  function draw(width) {
    const run = DATA.runs[Number(pick.read())], rounds = run.steps.length, layers = chosen(), log = what.read() === 'discrepancy';
    const values = layers.flatMap((layer) => layer.points.map((one) => one[1]));
    if (!values.length) { area.replaceChildren(html('p', {}, 'Nothing was synchronised.')); key.replaceChildren(); readout.textContent = ''; return; }
    const label = log ? 'unit discrepancy d (log)' : 'interval in rounds', sorted = [...values].sort((a, b) => a - b);
    // Before the first steps have their effect, clients hardly differ: these values are left out where they take up more than a decade.
    const usual = sorted[Math.floor(0.05 * sorted.length)], low = log && usual > 10 * sorted[0] ? usual / 2 : sorted[0];
    const found = wholeTicks(low, sorted.at(-1), 3, log), below = found[0] > sorted[0];
    const left = 14 + 6.9 * Math.max(...found.map((tick) => show(tick).length)), columns = Math.max(2, Math.min(5, Math.floor((width - left) / 170)));
    const wide = (width - left - 8 - 12 * (columns - 1)) / columns, tall = 78, row = tall + 26, lines = Math.ceil(layers.length / columns);
    const px = scale(1, Math.max(rounds, 2), 0, wide), py = scale(found[0], found.at(-1), tall, 0, log);

    const colour = look(run.title).colour, name = `layers-${log}`;
    const text = `${run.name}: ${label} over ${rounds} rounds. ` + layers.slice(0, 12).map((layer) => `${layer.name} ends at ${show(layer.points.at(-1)?.[1], 3)}`).join('; ') +
      (layers.length > 12 ? '; the arrow keys read the rest' : '');
    const picture = svg('svg', { viewBox: `0 0 ${width} ${24 + row * lines + 20}`, role: 'img', tabindex: 0, class: 'chart', 'aria-label': text });
    const path = (layer) => layer.points.map(([at, value], k) => `${k ? 'L' : 'M'}${px(at).toFixed(1)} ${py(value).toFixed(1)}`).join('');
    const inside = { x: -2, y: -4, width: wide + 4, height: tall + 6, viewBox: `-2 -4 ${wide + 4} ${tall + 6}` };
    picture.append(svg('defs', {}, svg('path', { id: name, class: 'others', d: layers.map(path).join('') })),
      svg('text', { x: 2, y: 14, class: 'label' }, label));
    const corners = layers.map((_, index) => [left + (index % columns) * (wide + 12), 24 + row * Math.floor(index / columns) + 20]);
    layers.forEach((layer, index) => {
      const [x, y] = corners[index], lowest = index + columns >= layers.length;
      const panel = svg('g', { transform: `translate(${x} ${y})` }, svg('text', { x: 0, y: -5, class: layer.name.length * 6.3 > wide ? 'small' : '' },
        fitted(layer.name, wide, layer.name.length * 6.3 > wide ? 5.1 : 6.3), svg('title', {}, layer.name)));
      for (const tick of found) panel.append(svg('line', { class: 'grid', x1: 0, x2: wide, y1: py(tick), y2: py(tick) }));
      panel.append(svg('svg', inside, svg('use', { href: `#${name}` }), svg('path', { class: 'line', d: path(layer), fill: 'none', stroke: colour, 'stroke-width': 2 })),
        svg('line', { class: 'axis', x1: 0, x2: wide, y1: tall, y2: tall }));
      if (index % columns === 0) for (const tick of spaced(found, py, 15)) panel.append(svg('text', { x: -6, y: py(tick) + 4, 'text-anchor': 'end' }, show(tick)));
      if (lowest) panel.append(svg('text', { x: 0, y: tall + 16 }, '1'), svg('text', { x: wide, y: tall + 16, 'text-anchor': 'end' }, show(rounds)), svg('text', { x: wide / 2, y: tall + 16, 'text-anchor': 'middle', class: 'label' }, 'round'));
      picture.append(panel);
    });
    key.replaceChildren(...[[colour, 'the layer'], ['#c4c4c4', 'the other layers that are shown']].map(([shade, words]) => html('span', { class: 'key' },
      svg('svg', { width: 26, height: 10, 'aria-hidden': 'true' }, svg('line', { x1: 1, x2: 25, y1: 5, y2: 5, stroke: shade, 'stroke-width': 3 })), words)));
    readOut(picture, layers, { px, py, corners, width, wide, row, columns, colour, label });
    area.replaceChildren(picture);
    readout.textContent = 'Point at a panel, or use the arrow keys, to read values.' + (below ? ` Lines that begin at the lower edge have values below ${show(found[0])} there.` : '');
  }

  // Reads values by pointer and by keyboard: left and right along a layer, up and down from layer to layer.
  function readOut(picture, layers, { px, py, corners, width, wide, row, colour, label }) {
    const ring = svg('circle', { class: 'ring pointer', r: 5, stroke: colour, visibility: 'hidden' });
    picture.append(ring);
    let at = { layer: 0, point: -1 };
    const nearest = (layer, round) => layer.points.reduce((best, one, k) => (Math.abs(one[0] - round) < Math.abs(layer.points[best][0] - round) ? k : best), 0);
    function place(index, point, aloud) {
      const layer = layers[index], one = layer.points[point];
      if (!one) return;
      at = { layer: index, point };
      ring.setAttribute('visibility', 'visible'); ring.setAttribute('cx', corners[index][0] + px(one[0])); ring.setAttribute('cy', corners[index][1] + Math.min(py(one[1]), 78));
      readout.textContent = `${layer.name}, round ${one[0]}: ${label.replace(' (log)', '')} ${show(one[1], 3)}`;
      if (aloud) say(readout.textContent);
    }
    picture.addEventListener('pointermove', (event) => {
      const bounds = picture.getBoundingClientRect(), ratio = width / bounds.width;
      const x = (event.clientX - bounds.left) * ratio, y = (event.clientY - bounds.top) * ratio;
      const index = corners.findIndex(([cx, cy]) => x >= cx - 6 && x <= cx + wide + 6 && y >= cy - 20 && y < cy + row - 20);
      if (index >= 0 && layers[index].points.length) {
        const rounds = layers[index].points.at(-1)[0];
        place(index, nearest(layers[index], 1 + (x - corners[index][0]) / (px(rounds) || 1) * (rounds - 1)));
      }
    });
    picture.addEventListener('keydown', (event) => {
      const sideways = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key], updown = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (sideways === undefined && updown === undefined) return;
      event.preventDefault();
      const index = (at.layer + (updown || 0) + layers.length) % layers.length, layer = layers[index];
      if (!layer.points.length) { at = { layer: index, point: -1 }; return; }
      const round = at.point < 0 ? 1 : layers[at.layer].points[at.point][0];
      const point = at.point < 0 ? 0 : nearest(layer, round) + (sideways || 0);
      place(index, Math.min(layer.points.length - 1, Math.max(0, point)), true);
    });
  }

  const redraw = whenever(area, draw);
}
