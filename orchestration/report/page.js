"use strict";
(() => {
  const embedded = JSON.parse(document.getElementById("embedded").textContent);
  // On paper, figures are as wide as A4 without its margins, in CSS pixels.
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

  // A trace of many lines, with gaps between them, has one text per line: each of its points gets it.
  const withTexts = (trace) => {
    const texts = trace.meta && trace.meta.line_texts;
    let line = 0;
    return texts ? { ...trace, text: trace.x.map((x) => (x === null ? (line++, "") : texts[line])) } : trace;
  };

  const draw = (plot) => {
    const { data, layout } = embedded[plot.dataset.key];
    return Plotly.newPlot(plot, data.map(withTexts), layout, {
      responsive: true,
      displaylogo: false,
      displayModeBar: true,
      // These alone: by default there is one that sends the figure to a service of Plotly's.
      showSendToCloud: false,
      plotlyServerURL: "",
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
      toImageButtonOptions: { format: "svg", filename: plot.dataset.key },
    });
  };
  const fit = (printing) => {
    for (const plot of plots) {
      const { layout, printed } = embedded[plot.dataset.key];
      const height = printing ? printed : layout.height;
      plot.style.height = height + "px";
      Plotly.relayout(plot, printing ? { width: PAPER, height } : { width: null, height, autosize: true });
    }
  };
  (async () => {
    for (const plot of plots) await draw(plot);
    addEventListener("beforeprint", () => fit(true));
    addEventListener("afterprint", () => fit(false));
    document.documentElement.dataset.drawn = plots.length;
  })();
})();
