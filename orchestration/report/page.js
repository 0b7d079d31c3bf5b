"use strict";
(() => {
  const embedded = JSON.parse(document.getElementById("embedded").textContent);
  // Width of a figure on paper: A4 without its margins, in CSS pixels.
  const PAPER = 700;
  const plots = [...document.querySelectorAll(".plot")];

  const save = (name, blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  for (const button of document.querySelectorAll("[data-csv]")) {
    const key = button.dataset.csv;
    button.addEventListener("click", () => save(key + ".csv", new Blob([embedded[key].csv], { type: "text/csv" })));
  }
  for (const button of document.querySelectorAll("[data-svg]")) {
    const key = button.dataset.svg;
    button.addEventListener("click", async () => {
      const plot = plots.find((one) => one.dataset.key === key);
      const size = { width: plot.clientWidth, height: plot.clientHeight };
      const url = await Plotly.toImage(plot, { format: "svg", ...size });
      const text = decodeURIComponent(url.slice(url.indexOf(",") + 1));
      save(key + ".svg", new Blob([text], { type: "image/svg+xml" }));
    });
  }

  const draw = (plot) => {
    const { data, layout } = embedded[plot.dataset.key];
    return Plotly.newPlot(plot, data, layout, {
      responsive: true,
      displaylogo: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: plot.dataset.key },
    });
  };
  const fit = (width) => plots.forEach((plot) => Plotly.relayout(plot, width ? { width } : { width: null, autosize: true }));
  (async () => {
    for (const plot of plots) await draw(plot);
    addEventListener("beforeprint", () => fit(PAPER));
    addEventListener("afterprint", () => fit(null));
    document.documentElement.dataset.drawn = plots.length;
  })();
})();
