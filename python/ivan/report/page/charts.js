/* Training curves as SVG with a value readout, drawn from the data in the page. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const home = document.getElementById("charts");
  if (!home) return;
  const NS = "http://www.w3.org/2000/svg";
  const COLOURS = 6; // --series-0 to --series-5 of the style sheet, which knows light from dark
  const WIDTH = 560, HEIGHT = 250, LEFT = 62, RIGHT = 12, TOP = 10, BOTTOM = 34;
  const svg = (parent, name, attributes, text) => {
    const node = document.createElementNS(NS, name);
    for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const html = (parent, name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const show = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
    return String(Number(value.toPrecision(4)));
  };
  const linearTicks = (low, high, count) => {
    const raw = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
    return ticks;
  };
  const logTicks = (low, high) => {
    const ticks = [];
    const few = Math.log10(high / low) > 2;
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      for (const k of few ? [1] : [1, 2, 5]) {
        const tick = k * 10 ** p;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    return ticks.length > 1 ? ticks : [low, high];
  };
  const draw = (chart) => {
    const figure = html(home, "figure", "chart");
    html(figure, "figcaption", "", chart.title + (chart.unit ? ` (${chart.unit})` : "") + (chart.log ? ", logarithmic scale" : ""));
    const all = chart.series.flatMap((series) => series.points);
    let lowX = Math.min(...all.map((p) => p[0])), highX = Math.max(...all.map((p) => p[0]));
    if (lowX === highX) { lowX -= 1; highX += 1; }
    let low = Math.min(...all.map((p) => p[1])), high = Math.max(...all.map((p) => p[1]));
    if (chart.log) {
      if (low === high) { low /= 2; high *= 2; }
    } else {
      const margin = (high - low) * 0.06 || 1;
      low -= margin; high += margin;
    }
    const f = chart.log ? Math.log10 : (v) => v;
    const x = (v) => LEFT + ((v - lowX) / (highX - lowX)) * (WIDTH - LEFT - RIGHT);
    const y = (v) => HEIGHT - BOTTOM - ((f(v) - f(low)) / (f(high) - f(low))) * (HEIGHT - TOP - BOTTOM);
    const image = svg(figure, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": chart.title });
    for (const tick of chart.log ? logTicks(low, high) : linearTicks(low, high, 5)) {
      svg(image, "line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick), class: "grid" });
      svg(image, "text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, show(tick));
    }
    for (const tick of linearTicks(lowX, highX, 6)) {
      svg(image, "text", { x: x(tick), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, show(tick));
    }
    svg(image, "text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "step");
    svg(image, "line", { x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, class: "axis" });
    const keys = html(figure, "div", "keys");
    chart.series.forEach((series, index) => {
      const colour = `var(--series-${(series.colour ?? index) % COLOURS})`;
      const dash = series.dashed ? "6 4" : "none";
      const path = series.points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
      svg(image, "path", { d: path, fill: "none", "stroke-width": 2, "stroke-dasharray": dash, "stroke-linejoin": "round" }).style.stroke = colour;
      if (series.points.length < 40) {
        for (const p of series.points) svg(image, "circle", { cx: x(p[0]), cy: y(p[1]), r: 2.6 }).style.fill = colour;
      }
      const label = html(keys, "span", "");
      const swatch = html(label, "i", series.dashed ? "dash" : "");
      swatch.style.borderColor = colour;
      label.append(series.name);
    });
    const cursor = svg(image, "line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "axis", visibility: "hidden" });
    const tip = html(figure, "div", "tip");
    image.addEventListener("pointermove", (event) => {
      const box = image.getBoundingClientRect();
      const at = lowX + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * (highX - lowX);
      const near = all.reduce((best, p) => (Math.abs(p[0] - at) < Math.abs(best - at) ? p[0] : best), all[0][0]);
      const lines = [`step ${near}`];
      for (const series of chart.series) {
        const point = series.points.find((p) => p[0] === near);
        if (point) lines.push(`${series.name}: ${show(point[1])}${chart.unit ? " " + chart.unit : ""}`);
      }
      cursor.setAttribute("x1", x(near)); cursor.setAttribute("x2", x(near)); cursor.setAttribute("visibility", "visible");
      tip.textContent = lines.join("\n");
      tip.style.display = "block";
      const left = (x(near) / WIDTH) * box.width + 24;
      tip.style.left = Math.max(0, left + tip.offsetWidth > figure.clientWidth ? left - tip.offsetWidth - 20 : left) + "px";
      tip.style.top = "44px";
    });
    image.addEventListener("pointerleave", () => { tip.style.display = "none"; cursor.setAttribute("visibility", "hidden"); });
  };
  data.charts.forEach(draw);
})();
