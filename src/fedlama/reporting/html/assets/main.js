// Draws every plot; one that fails says so in its place and leaves the others alone.

const PLOTS = {
  'front-plot': frontPlot, 'metric-plot': metricPlot, 'synchronised-plot': heatPlot, 'discrepancy-plot': layersPlot, 'curves-plot': curvesPlot,
  'bytes-plot': bytesPlot, 'links-plot': linksPlot,
};

for (const [name, plot] of Object.entries(PLOTS)) {
  const host = document.getElementById(name);
  if (!host) continue;
  try {
    plot(host);
    host.dataset.drawn = 'yes';
  } catch (error) {
    console.error(name, error);
    host.replaceChildren(html('p', {}, 'This plot could not be drawn; the table holds its values.'));
  }
}
addDownloads();
document.documentElement.dataset.ready = 'yes';
