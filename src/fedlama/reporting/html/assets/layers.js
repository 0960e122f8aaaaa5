// Each layer's discrepancy or interval over the rounds.

function layersPlot(host) {
  const runs = DATA.runs.filter((run) => run.layers.some((layer) => layer.intervals.length));
  if (!runs.length) { host.replaceChildren(html('p', {}, 'These run folders have no layers.jsonl.')); return; }
  const pick = runChoice(runs, update);
  const what = choice('Show', [['discrepancy', 'unit discrepancy d (log)'], ['interval', 'interval in rounds']], update);
  const which = choice('Layers', [['largest', 'the 8 with most parameters'], ['highest', 'the 8 with the highest d'], ['lowest', 'the 8 with the lowest d'], ['all', 'all']], update);
  const area = html('div', {});
  host.replaceChildren(html('div', { class: 'choices' }, pick.element, what.element, which.element), area);
  const chart = lineChart(area, spec());

  function spec() {
    const run = DATA.runs[Number(pick.read())], last = (layer) => layer.discrepancy.findLast((value) => value !== null) ?? 0;
    const order = { largest: (a, b) => b.parameters - a.parameters, highest: (a, b) => last(b) - last(a), lowest: (a, b) => last(a) - last(b), all: () => 0 }[which.read()];
    const layers = [...run.layers].sort(order).slice(0, which.read() === 'all' ? undefined : 8), interval = what.read() === 'interval';
    const series = layers.map((layer, index) => {
      const look = { name: layer.name, colour: COLOURS[index % COLOURS.length], dash: DASHES[Math.floor(index / COLOURS.length + index) % DASHES.length] };
      if (!interval) return { ...look, x: layer.synchronised.map((at) => at + 1), y: layer.discrepancy };
      const ends = [...layer.intervals, [run.steps.length - 1, layer.intervals.at(-1)[1]]];
      return { ...look, steps: true, x: ends.map((pair) => pair[0] + 1), y: ends.map((pair) => pair[1]) };
    });
    return { x: 'round', y: interval ? 'interval in rounds' : 'unit discrepancy d', log: !interval, series };
  }

  function update() { chart(spec()); }
}
