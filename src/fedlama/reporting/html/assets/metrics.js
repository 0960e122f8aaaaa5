// The task's metrics and the losses against rounds, steps, MB, seconds of this machine and seconds on each link.

const DASHES = ['', '7 3', '2 3', '9 3 2 3', '4 2', '12 4', '1 4', '6 2 1 2 1 2'];

// The colour and the dashes of a method: the same in every plot of the page, and its colour in the pictures of a comparison.
function look(title) {
  const index = Math.max(DATA.methods.indexOf(title), 0);
  return { colour: DATA.colours[index % DATA.colours.length], dash: DASHES[index % DASHES.length] };
}

function metricPlot(host) {
  const links = Object.keys(DATA.runs[0].links);
  const several = DATA.groups.some((group) => Object.keys(group.bands).length);
  const values = choice('Show', [...DATA.measures, ['testLoss', 'test loss'], ['trainLoss', 'training loss']], update);
  const against = choice('against', [['rounds', 'rounds'], ['steps', 'local steps'], ['megabytes', 'MB up and down'],
    ['seconds', 'seconds on this machine'], ...links.map((name) => ['link ' + name, 'seconds on ' + name])], update);
  const seeds = choice('Seeds', [['mean', 'mean and 95 % interval'], ['each', 'each seed']], update);
  const axes = choice('Axes', [['', 'automatic'], ['linear', 'linear'], ['x', 'log below'], ['y', 'log at the side'], ['xy', 'both log']], update);
  const outliers = choice('Outliers', [['edge', 'at the edge'], ['all', 'in the picture']], update);
  preset(against, 'megabytes');
  const area = html('div', {});
  host.replaceChildren(html('div', { class: 'choices' }, values.element, against.element, several ? seeds.element : null, axes.element,
    Object.keys(DATA.limits).length ? outliers.element : null), area);
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

  function lines(what, key) {
    const rounds = (run) => (what === 'trainLoss' ? run.steps.map((_, at) => at) : run.evaluated);
    return DATA.groups.flatMap((group) => {
      const band = group.bands[what], runs = group.runs.map((at) => DATA.runs[at]);
      if (!band || seeds.read() !== 'mean') {
        return runs.map((run) => ({ name: run.name, x: along(run, key, rounds(run)), y: valuesOf(run, what), ...look(group.title), target: DATA.target?.runs[run.name] }));
      }
      const all = runs.map((run) => along(run, key, rounds(run)));
      const x = all[0].map((_, k) => all.reduce((sum, one) => sum + one[k], 0) / all.length);
      return [{ name: `${group.title}, ${runs.length} seeds`, x, y: band.mean, low: band.low, high: band.high, ...look(group.title), target: DATA.target?.methods[group.title] }];
    });
  }

  function spec() {
    const what = values.read(), key = against.read(), scales = axes.read(), series = lines(what, key);
    const time = key === 'seconds' || key.startsWith('link ');
    const label = { testLoss: 'test loss', trainLoss: 'training loss' }[what] || DATA.measures.find(([name]) => name === what)[1];
    const bottom = { rounds: 'rounds', steps: 'local steps', megabytes: 'MB up and down', seconds: 'seconds on this machine' }[key];
    const ends = series.filter((line) => line.x.length).map((line) => line.x.at(-1)), least = Math.min(...series.flatMap((line) => line.x));
    const wide = !scales && key === 'megabytes' && Math.max(...ends) > 10 * Math.min(...ends);
    return { x: bottom || 'seconds on ' + key.slice(5), y: label, series, showX: time ? showSeconds : show,
      logX: least > 0 && (wide || scales.startsWith('x')), log: scales.endsWith('y'), limits: outliers.read() === 'edge' ? DATA.limits[what] : null,
      target: DATA.target && what === DATA.target.measure && key === 'megabytes' ? DATA.target : null };
  }

  function update() { chart(spec()); }
}
