// A line chart: a legend that toggles, a crosshair for the pointer and for the arrow keys, bands, linear or log axes.
// spec: {x, y: axis labels, log, logX, limits?: [low, high] to show, target?: {value, text}, note?,
//        series: [{name, x, y, low?, high?, colour, dash, mark?, around?, target?}], showX?, showY?}
// mark: text in a large dot; around: small dots [x, y] that belong to it; series.target: x of a diamond on the target's line.

function lineChart(host, spec) {
  const hidden = new Set(), figure = html('div', { class: 'canvas' });
  const legend = html('div', { class: 'legend', role: 'group', 'aria-label': 'Lines to show' });
  const readout = html('p', { class: 'readout' }), note = html('p', { class: 'note' });
  host.replaceChildren(figure, legend, readout, note);
  let at = { line: 0, point: -1 }, drawn = null, now = spec;
  const shown = () => now.series.filter((line) => !hidden.has(line.name) && line.x.length);
  const good = (value) => Number.isFinite(value) && value !== null && (!now.log || value > 0);

  function drawLegend() {
    legend.replaceChildren(...now.series.map((line) => html('button', {
      type: 'button', 'aria-pressed': String(!hidden.has(line.name)),
      onclick: (event) => {
        if (!hidden.delete(line.name)) hidden.add(line.name);
        event.currentTarget.setAttribute('aria-pressed', String(!hidden.has(line.name)));
        at.point = -1;
        redraw();
      },
    }, svg('svg', { width: 26, height: 10, 'aria-hidden': 'true' },
      svg('line', { x1: 1, x2: 25, y1: 5, y2: 5, stroke: line.colour, 'stroke-width': 3, 'stroke-dasharray': line.dash })),
    line.name)));
  }

  // The ticks of both axes. Bands do not count: the interval of a few seeds may be far wider than the picture.
  function axes(lines, width) {
    const near = (line, axis) => (line.around || []).map((one) => one[axis]);
    const xs = lines.flatMap((line) => [...line.x, ...near(line, 0)]), ys = lines.flatMap((line) => [...line.y, ...near(line, 1)]).filter(good);
    if (!xs.length || !ys.length) return null;
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (now.limits && low < now.limits[1] && high > now.limits[0]) [low, high] = [Math.max(low, now.limits[0]), Math.min(high, now.limits[1])];
    const left = Math.min(...xs);
    return { x: wholeTicks(now.logX ? left : Math.min(0, left), Math.max(...xs), width / 110, now.logX), y: wholeTicks(low, high, 5, now.log) };
  }

  function draw(width) {
    const lines = shown(), found = axes(lines, width);
    if (!found) { figure.replaceChildren(html('p', {}, 'Nothing to draw here.')); readout.textContent = note.textContent = ''; drawn = null; return; }
    const height = Math.min(420, Math.max(270, width * 0.5)), letters = Math.max(...found.y.map((tick) => show(tick).length));
    const box = { left: 14 + 6.9 * letters, right: width - 16, top: 30, bottom: height - 42 };
    const px = scale(found.x[0], found.x.at(-1), box.left, box.right, now.logX), py = scale(found.y[0], found.y.at(-1), box.bottom, box.top, now.log);
    const target = now.target && now.target.value >= found.y[0] && now.target.value <= found.y.at(-1) ? now.target : null;
    const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0, 'aria-label': inWords(lines), class: 'chart' });
    frame(picture, found, { px, py, box, height });
    const inside = svg('svg', { x: box.left - 4, y: box.top - 4, width: box.right - box.left + 8, height: box.bottom - box.top + 8,
      viewBox: `${box.left - 4} ${box.top - 4} ${box.right - box.left + 8} ${box.bottom - box.top + 8}`, class: 'inside' });
    picture.append(inside);
    if (target) inside.append(svg('line', { class: 'target', x1: box.left, x2: box.right, y1: py(target.value), y2: py(target.value) }));
    const points = lines.flatMap((line, index) => drawLine(inside, picture, line, index, { px, py, box }));
    if (target) {
      for (const line of lines.filter((one) => one.target)) {
        const x = px(line.target), y = py(target.value);
        inside.append(svg('path', { class: 'diamond', d: `M${x} ${y - 7}l6 7l-6 7l-6 -7z`, stroke: line.colour }));
      }
    }
    const cursor = svg('g', { class: 'pointer', visibility: 'hidden' }, svg('line', { class: 'cursor', y1: box.top, y2: box.bottom }), svg('circle', { class: 'ring', r: 6 }));
    picture.append(cursor);
    drawn = { lines, points, cursor };
    picture.addEventListener('pointermove', (event) => {
      const bounds = picture.getBoundingClientRect(), ratio = width / bounds.width;
      const x = (event.clientX - bounds.left) * ratio, y = (event.clientY - bounds.top) * ratio;
      const far = (one) => Math.hypot(one.left - x, (one.top - y) * 0.6);
      place(points.reduce((best, one) => (far(one) < far(best) ? one : best)));
    });
    picture.addEventListener('keydown', walk);
    figure.replaceChildren(picture);
    readout.textContent = 'Point at the plot, or use the arrow keys, to read values.';
    note.textContent = [points.some((one) => one.beyond) ? 'Triangles stand for values beyond the picture; reading them gives the values.' : '', target ? targetInWords(lines) : '', now.note].filter(Boolean).join(' ');
  }

  function frame(picture, found, { px, py, box, height }) {
    for (const tick of found.y) picture.append(svg('line', { class: 'grid', x1: box.left, x2: box.right, y1: py(tick), y2: py(tick) }));
    for (const tick of spaced(found.y, py, 15)) picture.append(svg('text', { x: box.left - 6, y: py(tick) + 4, 'text-anchor': 'end' }, show(tick)));
    const letters = Math.max(...found.x.map((tick) => show(tick).length));
    for (const tick of spaced(found.x, px, 14 + 6.5 * letters)) {
      picture.append(svg('line', { class: 'axis', x1: px(tick), x2: px(tick), y1: box.bottom, y2: box.bottom + 4 }),
        svg('text', { x: Math.min(px(tick), box.right + 14 - 3.3 * show(tick).length), y: box.bottom + 18, 'text-anchor': 'middle' }, show(tick)));
    }
    picture.append(svg('line', { class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      svg('text', { x: (box.left + box.right) / 2, y: height - 6, 'text-anchor': 'middle', class: 'label' }, now.x + (now.logX ? ' (log)' : '')),
      svg('text', { x: 2, y: 14, class: 'label' }, now.y + (now.log ? ' (log)' : '')));
  }

  // Draws one line, and returns where its points are.
  function drawLine(inside, picture, line, index, { px, py, box }) {
    if (line.low) {
      const whole = line.x.map((_, k) => k).filter((k) => good(line.low[k]) && good(line.high[k]));
      const edge = (ends) => whole.map((k) => `${px(line.x[k])},${py(ends[k])}`);
      inside.append(svg('polygon', { points: [...edge(line.high), ...edge(line.low).reverse()].join(' '), fill: line.colour, opacity: 0.15 }));
    }
    const points = line.x.map((x, k) => ({ line: index, point: k, left: px(x), y: line.y[k] })).filter((one) => good(one.y)).map((one) => {
      const top = py(one.y), edge = Math.min(box.bottom, Math.max(box.top, top));
      return { ...one, top: edge, beyond: Math.abs(top - edge) > 0.5 ? (top < edge ? 1 : -1) : 0 };
    });
    const path = points.map((one, k) => `${k ? 'L' : 'M'}${one.left} ${py(one.y)}`).join('');
    inside.append(svg('path', { d: path, fill: 'none', stroke: line.colour, 'stroke-width': 2, 'stroke-dasharray': line.dash, class: 'line' }));
    for (const [x, y] of line.around || []) inside.append(svg('circle', { cx: px(x), cy: py(y), r: 2.2, fill: line.colour, opacity: 0.7 }));
    for (const one of points) {
      const { left, top, beyond } = one;
      if (beyond) picture.append(svg('path', { class: 'beyond', d: `M${left - 5} ${top}h10l-5 ${-8 * beyond}z`, fill: line.colour }));
      else if (!line.mark && points.length <= 60) inside.append(svg('circle', { cx: left, cy: top, r: 2.6, fill: line.colour }));
      if (line.mark) {
        if (!beyond) picture.append(svg('circle', { cx: left, cy: top, r: 8, fill: line.colour }));
        picture.append(svg('text', { class: beyond ? 'small' : 'mark', x: left, y: top + (beyond ? 12 : 4) * (beyond || 1), 'text-anchor': 'middle' }, line.mark));
      }
    }
    return points;
  }

  const inWords = (lines) => `${now.y} against ${now.x}. ` + lines.map((line) => `${line.name} ends at ${show(line.y.findLast(good))}`).join('; ') + '. ' + (now.target ? targetInWords(lines) : '');

  function targetInWords(lines) {
    const reached = lines.filter((line) => line.target).map((line) => `${line.name}: ${show(line.target)}`);
    return `Diamonds on the dotted line: MB to ${now.target.text}. ` + (reached.length ? `${reached.join('; ')}.` : 'No method reached it.');
  }

  function place(one, aloud) {
    at = one;
    const line = drawn.lines[one.line], [rule, ring] = drawn.cursor.children;
    drawn.cursor.setAttribute('visibility', 'visible');
    rule.setAttribute('x1', one.left); rule.setAttribute('x2', one.left);
    ring.setAttribute('cx', one.left); ring.setAttribute('cy', one.top); ring.setAttribute('stroke', line.colour);
    const spread = line.low && line.low[one.point] !== null ? ` (95 % interval ${show(line.low[one.point])} to ${show(line.high[one.point])})` : '';
    const text = `${line.name}: ${now.x} ${(now.showX || show)(line.x[one.point])}, ${now.y} ${(now.showY || show)(line.y[one.point])}${spread}`;
    readout.textContent = text;
    if (aloud) say(text);
  }

  function walk(event) {
    if (!drawn) return;
    const sideways = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key], updown = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (sideways === undefined && updown === undefined) return;
    event.preventDefault();
    const line = updown === undefined ? at.line : (at.line + updown + drawn.lines.length) % drawn.lines.length;
    const along = drawn.points.filter((one) => one.line === line);
    if (!along.length) return;
    const before = along.findIndex((one) => one.point >= at.point);
    const index = at.point < 0 ? 0 : (before < 0 ? along.length - 1 : before) + (sideways || 0);
    place(along[Math.min(along.length - 1, Math.max(0, index))], true);
  }

  drawLegend();
  const redraw = whenever(figure, draw);
  return (next) => { now = next; at = { line: 0, point: -1 }; drawLegend(); redraw(); };
}
