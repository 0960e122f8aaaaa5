// A line chart: a legend that toggles, a crosshair for the pointer and for the arrow keys, bands, linear or log axes.
// spec: {x, y: axis labels, log, logX, series: [{name, x, y, low?, high?, colour, dash, steps?, mark?, around?}], showX?, showY?}
// mark: text beside a large dot; around: small dots [x, y] that belong to it.

function lineChart(host, spec) {
  const hidden = new Set(), figure = html('div', { class: 'canvas' });
  const legend = html('div', { class: 'legend', role: 'group', 'aria-label': 'Lines to show' });
  const readout = html('p', { class: 'readout' });
  host.replaceChildren(figure, legend, readout);
  let at = { line: 0, point: -1 }, drawn = null, now = spec;
  const shown = () => now.series.filter((line) => !hidden.has(line.name) && line.x.length);

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

  function draw(width) {
    const height = Math.min(420, Math.max(250, width * 0.5)), box = { left: 58, right: width - 12, top: 10, bottom: height - 40 };
    const lines = shown(), good = (value) => Number.isFinite(value) && value !== null && (!now.log || value > 0);
    const near = (line, axis) => (line.around || []).map((one) => one[axis]);
    const xs = lines.flatMap((line) => [...line.x, ...near(line, 0)]);
    const ys = lines.flatMap((line) => [line.y, line.low || [], line.high || [], near(line, 1)].flat()).filter(good);
    if (!xs.length || !ys.length) { figure.replaceChildren(html('p', {}, 'Nothing to draw here.')); readout.textContent = ''; drawn = null; return; }
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (!now.log) { const room = (high - low || Math.abs(high) || 1) * 0.06; low -= room; high += room; } else if (low === high) { low /= 2; high *= 2; }
    let right = Math.max(...xs), left = now.logX ? Math.min(...xs) : Math.min(0, ...xs);
    if (now.logX) { left /= 1.1; right *= 1.15; [low, high] = [low / 1.04, high * 1.06]; }
    const px = scale(left, right === left ? left + 1 : right, box.left, box.right, now.logX), py = scale(low, high, box.bottom, box.top, now.log);
    const summary = `${now.y} against ${now.x}. ` + lines.map((line) => `${line.name} ends at ${show(line.y.findLast(good))}`).join('; ');
    const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0, 'aria-label': summary, class: 'chart' });
    for (const tick of now.logX ? fineTicks(low, high) : now.log ? logTicks(low, high) : ticks(low, high, 5)) {
      picture.append(svg('line', { class: 'grid', x1: box.left, x2: box.right, y1: py(tick), y2: py(tick) }),
        svg('text', { x: box.left - 6, y: py(tick) + 4, 'text-anchor': 'end' }, show(tick)));
    }
    for (const tick of now.logX ? fineTicks(left, right) : ticks(left, right, width / 110)) {
      picture.append(svg('text', { x: px(tick), y: box.bottom + 17, 'text-anchor': 'middle' }, show(tick)));
    }
    picture.append(svg('line', { class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      svg('text', { x: (box.left + box.right) / 2, y: height - 6, 'text-anchor': 'middle', class: 'label' }, now.x),
      svg('text', { x: 13, y: (box.top + box.bottom) / 2, 'text-anchor': 'middle', class: 'label', transform: `rotate(-90 13 ${(box.top + box.bottom) / 2})` }, now.y));
    const points = [];
    lines.forEach((line, index) => {
      if (line.low) {
        const whole = line.x.map((_, k) => k).filter((k) => good(line.low[k]) && good(line.high[k]));
        const edge = (ends) => whole.map((k) => `${px(line.x[k])},${py(ends[k])}`);
        picture.append(svg('polygon', { points: [...edge(line.high), ...edge(line.low).reverse()].join(' '), fill: line.colour, opacity: 0.15 }));
      }
      let path = '';
      line.x.forEach((x, k) => {
        if (!good(line.y[k])) return;
        if (path && line.steps) path += `H${px(x)}`;
        path += `${path ? 'L' : 'M'}${px(x)} ${py(line.y[k])}`;
        points.push({ line: index, point: k, left: px(x), top: py(line.y[k]) });
      });
      picture.append(svg('path', { d: path, fill: 'none', stroke: line.colour, 'stroke-width': 2, 'stroke-dasharray': line.dash, class: 'line' }));
      for (const [x, y] of line.around || []) picture.append(svg('circle', { cx: px(x), cy: py(y), r: 2, fill: line.colour, opacity: 0.6 }));
      if (line.mark) {
        const { left: across, top } = points.findLast((one) => one.line === index);
        picture.append(svg('circle', { cx: across, cy: top, r: 5.5, fill: line.colour }),
          svg('text', { x: across + 8, y: top - 6 }, line.mark));
      } else if (line.x.length <= 60 && !line.steps) {
        for (const one of points.filter((point) => point.line === index)) picture.append(svg('circle', { cx: one.left, cy: one.top, r: 2.6, fill: line.colour }));
      }
    });
    const cursor = svg('g', { visibility: 'hidden' }, svg('line', { class: 'cursor', y1: box.top, y2: box.bottom }), svg('circle', { class: 'ring', r: 6 }));
    picture.append(cursor);
    drawn = { lines, points, cursor };
    picture.addEventListener('pointermove', (event) => {
      const frame = picture.getBoundingClientRect(), ratio = width / frame.width;
      const x = (event.clientX - frame.left) * ratio, y = (event.clientY - frame.top) * ratio;
      const far = (one) => Math.hypot(one.left - x, (one.top - y) * 0.6);
      place(points.reduce((best, one) => (far(one) < far(best) ? one : best)));
    });
    picture.addEventListener('keydown', walk);
    figure.replaceChildren(picture);
    readout.textContent = 'Point at the plot, or use the arrow keys, to read values.';
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
