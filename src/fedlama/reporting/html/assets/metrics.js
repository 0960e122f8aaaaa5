// The task's metrics and the losses against rounds, steps, MB, seconds of this machine and seconds on each link.

function metricPlot(host) {
  const links = Object.keys(DATA.runs[0].links);
  const several = DATA.groups.some((group) => Object.keys(group.bands).length);
  const values = choice('Show', [...DATA.measures, ['testLoss', 'test loss'], ['trainLoss', 'training loss']], update);
  const against = choice('against', [['rounds', 'rounds'], ['steps', 'local steps'], ['megabytes', 'MB up and down'],
    ['seconds', 'seconds on this machine'], ...links.map((name) => ['link ' + name, 'seconds on ' + name])], update);
  const seeds = choice('Seeds', [['mean', 'mean and 95 % interval'], ['each', 'each seed']], update);
  preset(against, 'megabytes');
  const area = html('div', {});
  host.replaceChildren(html('div', { class: 'choices' }, values.element, against.element, several ? seeds.element : null), area);
  const chart = lineChart(area, spec());

  function along(run, key, rounds) {
    if (key === 'rounds') return rounds.map((at) => at + 1);
    if (key === 'steps') return rounds.map((at) => run.steps[at]);
    if (key === 'megabytes') return rounds.map((at) => (run.up[at] + run.down[at]) / MEGABYTE);
    if (key === 'seconds') return rounds.map((at) => run.seconds[at]);
    return rounds.map((at) => run.links[key.slice(5)].elapsed[at]);
  }

  function valuesOf(run, what) {
    return what in run.metrics ? run.metrics[what] : what in run ? run[what] : run.evaluated.map(() => null);
  }

  function spec() {
    const what = values.read(), key = against.read(), series = [];
    const rounds = (run) => (what === 'trainLoss' ? run.steps.map((_, at) => at) : run.evaluated);
    DATA.groups.forEach((group, index) => {
      const look = { colour: COLOURS[index % COLOURS.length], dash: DASHES[index % DASHES.length] };
      const band = group.bands[what], runs = group.runs.map((at) => DATA.runs[at]);
      if (band && seeds.read() === 'mean') {
        const all = runs.map((run) => along(run, key, rounds(run)));
        const x = all[0].map((_, k) => all.reduce((sum, one) => sum + one[k], 0) / all.length);
        series.push({ name: `${group.title}, ${runs.length} seeds`, x, y: band.mean, low: band.low, high: band.high, ...look });
      } else {
        runs.forEach((run) => series.push({ name: run.name, x: along(run, key, rounds(run)), y: valuesOf(run, what), ...look }));
      }
    });
    const time = key === 'seconds' || key.startsWith('link ');
    const label = { testLoss: 'test loss', trainLoss: 'training loss' }[what] || DATA.measures.find(([name]) => name === what)[1];
    const bottom = { rounds: 'rounds', steps: 'local steps', megabytes: 'MB up and down', seconds: 'seconds on this machine' }[key];
    return { x: bottom || 'seconds on ' + key.slice(5), y: label, series, showX: time ? showSeconds : show };
  }

  function update() { chart(spec()); }
}
