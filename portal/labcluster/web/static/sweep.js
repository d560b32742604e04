// The plot of a sweep. It is drawn into a shadow tree, so that live.js sees only what the server said.
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ink = dark ? "#e6e9ee" : "#1c2430", line = dark ? "#2e343e" : "#c9ced6";
const card = dark ? "#1d2128" : "#fff";
const colours = dark ? ["#4a5160", "#4f74c9", "#8ab0ff"] : ["#c3c9d4", "#7d9be0", "#1d4fc4"];
const short = value => typeof value === "number" ? String(Number(value.toPrecision(4))) : value;

class ParallelPlot extends HTMLElement {
  connectedCallback() {
    const plot = JSON.parse(this.querySelector("script").textContent);
    const box = document.createElement("div");
    box.style.height = "340px";
    (this.shadowRoot ?? this.attachShadow({ mode: "open" })).replaceChildren(box);
    this.chart = echarts.init(box, null, { renderer: "svg" });
    this.chart.setOption(options(plot));
    this.resized = new ResizeObserver(() => this.chart.resize());
    this.resized.observe(this);
  }

  disconnectedCallback() {
    this.resized.disconnect();
    this.chart.dispose();
  }
}

function options({ axes, lines, best, rising }) {
  const metric = axes.length - 1, values = lines.map(({ values }) => values[metric]);
  return {
    animation: false,
    aria: { enabled: true, label: { description: "Parallel coordinates: each line is an arm of the sweep." } },
    tooltip: {
      renderMode: "richText", backgroundColor: dark ? "#14171c" : "#fff", textStyle: { color: ink, fontSize: 12 },
      formatter: ({ name, value }) => [name, ...axes.map((axis, n) => `${axis.name} = ${short(value[n])}`)].join("\n"),
    },
    visualMap: {
      show: false, dimension: metric, min: Math.min(...values), max: Math.max(...values),
      inRange: { color: rising ? colours : colours.toReversed() },
    },
    parallel: { left: 60, right: 70, top: 50, bottom: 30 },
    parallelAxis: axes.map(({ name, log, names }, dim_) => ({
      dim: dim_, name, type: names ? "category" : log ? "log" : "value", data: names ?? undefined, scale: true,
      nameTextStyle: { color: ink, fontSize: 13, fontWeight: dim_ === metric ? 600 : 400 },
      axisLine: { lineStyle: { color: line, width: 1.5 } }, axisTick: { lineStyle: { color: line } },
      axisLabel: { color: ink, textBorderColor: card, textBorderWidth: 3, formatter: names ? undefined : short },
      splitLine: { show: false }, z: 10,
    })),
    series: {
      type: "parallel", smooth: 0, inactiveOpacity: .06, activeOpacity: .9, emphasis: { lineStyle: { width: 4, opacity: 1 } },
      // The best is drawn last, over the others.
      data: [...lines].sort((one, other) => (one.arm === best) - (other.arm === best)).map(({ arm, values }) => ({
        name: arm, value: values, lineStyle: { width: arm === best ? 4 : 1.6, opacity: arm === best ? 1 : .75 },
      })),
    },
  };
}

customElements.define("parallel-plot", ParallelPlot);
