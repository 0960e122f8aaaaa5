// The two curves of Algorithm 2 at any adjustment: what relaxing one more layer costs and saves, and where they cross.

function curvesPlot(host) {
  const runs = DATA.runs.filter((run) => run.adjustments.length);
  if (!runs.length) { host.replaceChildren(html('p', {}, 'No run adjusts its intervals by FedLAMA’s rule.')); return; }
  const pick = runChoice(runs, () => { fit(); redraw(); });
  const slider = html('input', { type: 'range', min: 0, step: 1, oninput: () => redraw(true) });
  const reading = html('output', {}), area = html('div', { class: 'canvas' }), list = html('p', { class: 'readout' });
  host.replaceChildren(html('div', { class: 'choices' }, pick.element, html('label', { class: 'choice' }, 'Adjustment ', slider), reading), area, list);

  function fit() {
    slider.max = DATA.runs[Number(pick.read())].adjustments.length - 1;
    slider.value = slider.max;
  }

  function draw(width, aloud) {
    const run = DATA.runs[Number(pick.read())], one = run.adjustments[Number(slider.value)], count = one.order.length;
    const height = Math.min(380, Math.max(250, width * 0.45)), left = 46, bottom = height - 42, top = 26;
    const px = scale(0, Math.max(count, 1), left, width - 12), py = scale(0, 1, bottom, top), cut = one.chosen.length;
    reading.textContent = `${Number(slider.value) + 1} of ${run.adjustments.length}, after round ${one.round + 1}`;
    slider.setAttribute('aria-valuetext', reading.textContent);
    const text = `${run.name} after round ${one.round + 1}: the curves cross at layer ${cut} of ${count}; selected: ${one.chosen.join(', ') || 'none'}.`;
    const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', class: 'chart', 'aria-label': text },
      svg('rect', { x: px(0), y: top, width: px(cut) - px(0), height: bottom - top, fill: '#dfe9f5' }));
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
      picture.append(svg('line', { class: 'grid', x1: left, x2: width - 12, y1: py(tick), y2: py(tick) }),
        svg('text', { x: left - 6, y: py(tick) + 4, 'text-anchor': 'end' }, show(tick)));
    }
    const inner = ticks(0, count, Math.min(count, width / 70)).filter((tick) => Number.isInteger(tick) && tick > 0 && tick < count);
    for (const tick of spaced([0, ...inner, count], px, 24)) {
      picture.append(svg('text', { x: px(tick), y: bottom + 16, 'text-anchor': 'middle' }, show(tick)));
    }
    [['rising', PARTS[0], '', 0], ['falling', PARTS[1], '7 3', 1]].forEach(([name, colour, dash, start], index) => {
      const values = [start, ...one[name]];
      picture.append(svg('polyline', { class: 'line', fill: 'none', stroke: colour, 'stroke-width': 2, 'stroke-dasharray': dash,
        points: values.map((value, k) => `${px(k)},${py(value)}`).join(' ') }));
      values.forEach((value, k) => picture.append(svg('circle', { cx: px(k), cy: py(value), r: count > 40 ? 1.6 : 3, fill: colour },
        svg('title', {}, `${one.labels[index]} ${show(value)} with the first ${k} layers${k ? ', up to ' + one.order[k - 1] : ''}`))));
    });
    picture.append(svg('line', { class: 'cursor', x1: px(cut), x2: px(cut), y1: top, y2: bottom }),
      svg('text', { x: Math.min(Math.max(px(cut), left + 20), width - 34), y: 15, class: 'label', 'text-anchor': 'middle' }, `cut: ${cut}`),
      svg('text', { x: (left + width) / 2, y: height - 8, 'text-anchor': 'middle', class: 'label' }, 'layers relaxed, by discrepancy'));
    const key = html('div', { class: 'legend' }, one.labels.map((label, index) => html('span', { class: 'key' },
      svg('svg', { width: 26, height: 10, 'aria-hidden': 'true' }, svg('line', { x1: 1, x2: 25, y1: 5, y2: 5, stroke: PARTS[index], 'stroke-width': 3, 'stroke-dasharray': index ? '7 3' : '' })), label)),
    html('span', { class: 'key' }, html('i', { style: 'background:#dfe9f5' }), 'selected layers'));
    area.replaceChildren(picture, key);
    list.textContent = text;
    if (aloud) say(text);
  }

  fit();
  let last = 0;
  const again = whenever(area, (width) => { last = width; draw(width); });
  function redraw(aloud) { if (aloud) draw(last, true); else again(); }
}
