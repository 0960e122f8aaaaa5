// Layer by round: the shade is the interval in force, a dark mark is a synchronisation.

function heatPlot(host) {
  const runs = DATA.runs.filter((run) => run.layers.some((layer) => layer.intervals.length));
  if (!runs.length) { host.replaceChildren(html('p', {}, 'These run folders have no layers.jsonl.')); return; }
  const area = html('div', { class: 'canvas' }), readout = html('p', { class: 'readout' }), key = html('div', { class: 'legend' });
  const pick = runChoice(runs, () => redraw());
  host.replaceChildren(html('div', { class: 'choices' }, pick.element), area, key, readout);
  const shade = (share) => `rgb(${Math.round(222 - 165 * share)},${Math.round(235 - 110 * share)},${Math.round(247 - 50 * share)})`;

  function draw(width) {
    const run = DATA.runs[Number(pick.read())], layers = run.layers, rounds = run.steps.length;
    const longest = Math.max(...layers.map((layer) => layer.name.length));
    const small = layers.length > 40 || 12 + 6.4 * longest > width * 0.38; // a smaller letter rather than a name that is cut
    const left = Math.min(width * 0.47, 12 + (small ? 5.4 : 6.4) * longest), row = layers.length > 40 ? 13 : 20, bottom = 6 + row * layers.length;
    const px = scale(0, rounds, left, width - 8), wide = (width - 8 - left) / rounds;
    const intervals = [...new Set(layers.flatMap((layer) => layer.intervals.map((pair) => pair[1])))].sort((a, b) => a - b);
    const colour = (interval) => shade(intervals.length < 2 ? 0 : intervals.indexOf(interval) / (intervals.length - 1));
    const total = layers.reduce((sum, layer) => sum + layer.synchronised.length, 0);
    const picture = svg('svg', { viewBox: `0 0 ${width} ${bottom + 36}`, role: 'img', tabindex: 0, class: 'chart',
      'aria-label': `${run.name}: ${layers.length} layers by ${rounds} rounds; ${show(100 * total / layers.length / rounds, 3)} % of the cells were synchronised. The table below has the counts.` });
    layers.forEach((layer, index) => {
      const top = 6 + row * index;
      picture.append(svg('text', { x: left - 5, y: top + row / 2 + (small ? 3 : 4), 'text-anchor': 'end', class: small ? 'small' : '' },
        fitted(layer.name, left - 6, small ? 5.4 : 6.4), svg('title', {}, layer.name)));
      layer.intervals.forEach(([start, interval], k) => {
        const end = k + 1 < layer.intervals.length ? layer.intervals[k + 1][0] : rounds;
        picture.append(svg('rect', { x: px(start), y: top, width: px(end) - px(start), height: row - 2, fill: colour(interval) }));
      });
      const marks = layer.synchronised.map((at) => `M${px(at) + wide * 0.25} ${top + 2}h${Math.max(wide * 0.5, 0.6)}v${row - 6}h${-Math.max(wide * 0.5, 0.6)}z`);
      picture.append(svg('path', { d: marks.join(''), fill: '#1b2a41', class: 'synchronised' }));
    });
    const inner = ticks(1, rounds, (width - left) / 80).filter((tick) => Number.isInteger(tick) && tick > 1 && tick < rounds);
    for (const tick of spaced([1, ...inner, rounds], (at) => px(at - 0.5), 30)) {
      picture.append(svg('text', { x: px(tick - 0.5), y: bottom + 14, 'text-anchor': 'middle' }, show(tick)));
    }
    picture.append(svg('text', { x: (left + width) / 2, y: bottom + 31, 'text-anchor': 'middle', class: 'label' }, 'round'));
    const cursor = svg('rect', { class: 'cell', width: Math.max(wide, 3), height: row, visibility: 'hidden' });
    picture.append(cursor);
    let at = { layer: 0, round: -1 };

    function place(layer, round, aloud) {
      at = { layer: Math.min(layers.length - 1, Math.max(0, layer)), round: Math.min(rounds - 1, Math.max(0, round)) };
      const one = layers[at.layer], seen = one.synchronised.indexOf(at.round);
      const interval = one.intervals.findLast((pair) => pair[0] <= at.round)[1];
      cursor.setAttribute('x', px(at.round)); cursor.setAttribute('y', 5 + row * at.layer); cursor.setAttribute('visibility', 'visible');
      const text = `${one.name}, round ${at.round + 1}: ${interval === 1 ? 'every round' : `every ${interval} rounds`}, ` +
        (seen < 0 ? 'not synchronised' : `synchronised, discrepancy d ${show(one.discrepancy[seen], 3)}`);
      readout.textContent = text;
      if (aloud) say(text);
    }
    picture.addEventListener('pointermove', (event) => {
      const frame = picture.getBoundingClientRect(), ratio = width / frame.width;
      const x = (event.clientX - frame.left) * ratio, y = (event.clientY - frame.top) * ratio;
      if (x >= left && y < bottom) place(Math.floor((y - 6) / row), Math.floor((x - left) / wide));
    });
    picture.addEventListener('keydown', (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
      if (!move) return;
      event.preventDefault();
      place(at.layer + (at.round < 0 ? 0 : move[0]), at.round < 0 ? 0 : at.round + move[1], true);
    });
    area.replaceChildren(picture);
    key.replaceChildren(...intervals.map((interval) => html('span', { class: 'key' }, html('i', { style: `background:${colour(interval)}` }),
      interval === 1 ? 'every round' : `every ${interval} rounds`)), html('span', { class: 'key' }, html('i', { style: 'background:#1b2a41' }), 'synchronised in this round'));
    readout.textContent = 'Point at a cell or use the arrow keys to read it.';
  }

  const redraw = whenever(area, draw);
}
