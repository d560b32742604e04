"use strict";
// One chart a metric, a line a run: colours go round the wheel by the golden angle, so that neighbours differ.
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ink = dark ? "#97a1b0" : "#667085", line = dark ? "#2e343e" : "#e8eaee";
const first = ["#2f6fed", "#e4572e", "#17a673", "#b054d6", "#d99000", "#008fa8", "#d0457f", "#6b7a00"];
const colour = run => first[run] || `hsl(${(run * 137.508) % 360} 65% ${dark ? 62 : 45}%)`;
for (const key of document.querySelectorAll(".key")) key.style.background = colour(Number(key.dataset.run));

const charts = document.getElementById("charts");
const box = { log: document.getElementById("log"), clock: document.getElementById("clock") };
let drawn = [];

const short = value => value == null ? "–"
  : value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(4).replace(/\.?0+e/, "e") : Number(value.toPrecision(5)).toString();

// A chart wants its points from left to right.
function table(curve) {
  const at = box.clock.checked ? curve.times : curve.steps;
  const order = [...at.keys()].sort((one, other) => at[one] - at[other]).filter((i, n, all) => !n || at[i] !== at[all[n - 1]]);
  return [order.map(i => at[i]), order.map(i => box.log.checked && curve.values[i] <= 0 ? null : curve.values[i])];
}

function draw() {
  for (const plot of drawn) plot.destroy();
  drawn = [];
  charts.replaceChildren();
  for (const metric of data.metrics) {
    const curves = metric.curves.filter(curve => !box.clock.checked || curve.times.length);
    if (!curves.length) continue;
    const card = document.createElement("div"), title = document.createElement("h3");
    card.className = "chart";
    title.textContent = metric.name;
    card.append(title);
    charts.append(card);
    const tables = curves.map(table);
    const options = {
      width: card.clientWidth - 26, height: 230,
      scales: { x: { time: false }, y: { distr: box.log.checked ? 3 : 1 } },
      axes: [
        { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, size: 34 },
        { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, size: 62,
          values: (_, ticks) => ticks.map(tick => tick == null ? "" : short(tick)) },
      ],
      cursor: { focus: { prox: 24 } }, focus: { alpha: 0.25 },
      series: [
        { label: box.clock.checked ? "seconds" : "step", value: (_, value) => short(value) },
        ...curves.map(curve => ({
          label: data.runs[curve.run], stroke: colour(curve.run), width: 1.6, spanGaps: true,
          points: { show: curve.steps.length < 3 }, value: (_, value) => short(value),
        })),
      ],
    };
    drawn.push(new uPlot(options, uPlot.join(tables), card));
  }
}

if (charts) {
  for (const one of Object.values(box)) one.addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  draw();
}
