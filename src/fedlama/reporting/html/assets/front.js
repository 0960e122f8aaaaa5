// The test loss of every method against its MB, on logarithmic axes; a line joins the methods that no other one beats.

function frontPlot(host) {
  const methods = DATA.front.methods;
  if (!methods.length) { host.replaceChildren(html('p', {}, DATA.front.why)); return; }
  const best = methods.filter((one) => one.onFront).sort((one, other) => one.megabytes - other.megabytes);
  const series = methods.map((one, index) => ({
    name: `${index + 1} ${one.title}`, x: [one.megabytes], y: [one.loss], colour: look(one.title).colour, dash: '',
    mark: String(index + 1), around: one.seeds.length > 1 ? one.seeds : [],
  }));
  series.unshift({ name: 'front', x: best.map((one) => one.megabytes), y: best.map((one) => one.loss), colour: '#525252', dash: '7 3' });
  lineChart(host, { x: 'MB up and down', y: 'test loss at the end', log: true, logX: true, series, limits: DATA.front.limits });
}
