// Charts over time. What was not measured is a marked band, never a line drawn across it.

import { h, s } from "./dom.js";
import { instant, number } from "./format.js";

const PAD = { left: 52, right: 12, top: 10, bottom: 22 };
const HEIGHT = { chart: 190, strip: 62 };
const MINUTE = 60e3;
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880].map((minutes) => minutes * MINUTE);

/** Where charts over the same time point to together. */
export class Cursor {
  charts = new Set();
  set(time, from) {
    for (const chart of this.charts) chart.point(time, from === chart);
  }
}

/**
 * One chart. What it shows comes with `update`:
 *   from, to, step     in milliseconds
 *   points             [{ t, … }], t the middle of a bucket, oldest first
 *   series             [{ name, mark, read(point) → number|null, show(point) → text }]
 *   bands              [{ from, to, kind: "outage" | "gap", label }]
 *   band               (point) → [low, high], drawn behind a single line
 *   rule               { value, label }: a limit
 * `kind`: "line", "stack" or "strip" (with `level(point)` → status).
 */
export class Chart {
  constructor({ title, about, kind, unit = "", format = number, cursor }) {
    Object.assign(this, { title, about, kind, unit, format, cursor });
    this.readout = h("output", { class: "readout" });
    this.legend = h("ul", { class: "legend" });
    this.stage = h("div", { class: `stage ${kind}`, tabindex: "0", role: "img", "aria-label": `${title}. ${about} Arrow keys read single values.` });
    this.table = h("details", { class: "as-table", ontoggle: () => this.fillTable() }, h("summary", {}, "As a table"));
    this.element = h("figure", { class: "chart" },
      h("figcaption", {}, h("h3", {}, title), this.legend, this.readout), this.stage, this.table);
    this.listen();
    cursor.charts.add(this);
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.stage);
  }

  release() {
    this.sizes.disconnect();
    this.cursor.charts.delete(this);
  }

  update(data) {
    this.data = data;
    this.legend.replaceChildren(...legend(data));
    this.draw();
    this.fillTable();
  }

  listen() {
    this.stage.onpointermove = (event) => {
      if (!this.scale) return;
      const x = event.clientX - this.stage.getBoundingClientRect().left;
      this.cursor.set(this.scale.time(x), this);
    };
    this.stage.onpointerleave = () => this.cursor.set(null, this);
    this.stage.onblur = () => this.cursor.set(null, this);
    this.stage.onfocus = () => this.stage.matches(":focus-visible") && this.move(Infinity);
    this.stage.onkeydown = (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") this.cursor.set(null, this);
      if (by === undefined) return;
      event.preventDefault();
      this.move(by);
    };
  }

  move(by) {
    const points = this.data?.points ?? [];
    if (points.length === 0) return;
    const here = this.at == null ? points.length : nearest(points, this.at);
    const next = Math.min(points.length - 1, Math.max(0, here + by));
    this.cursor.set(points[next].t, this);
  }

  draw() {
    const width = this.stage.clientWidth;
    if (!this.data || width < 60) return;
    const height = this.kind === "strip" ? HEIGHT.strip : HEIGHT.chart;
    const { from, to } = this.data;
    const top = this.kind === "strip" ? 1 : ceiling(this.data, this.kind);
    const left = this.kind === "strip" ? 12 : PAD.left;
    const inner = { left, right: width - PAD.right, top: PAD.top, bottom: height - PAD.bottom };
    const scale = {
      inner,
      x: (t) => inner.left + ((t - from) / (to - from)) * (inner.right - inner.left),
      y: (v) => inner.bottom - (v / top.max) * (inner.bottom - inner.top),
      time: (x) => from + ((x - inner.left) / (inner.right - inner.left)) * (to - from),
    };
    this.scale = scale;
    this.hair = s("g", { class: "hair" });
    const parts = [timeAxis(this.data, scale), this.kind !== "strip" && valueAxis(top, scale, this.format)];
    parts.push(bands(this.data, scale));
    if (this.kind === "strip") parts.push(strip(this.data, scale));
    if (this.kind === "stack") parts.push(stack(this.data, scale));
    if (this.kind === "line") parts.push(lines(this.data, scale));
    if (this.data.rule && this.data.rule.value <= top.max) parts.push(rule(this.data.rule, scale));
    if (this.data.points.length === 0) parts.push(s("text", { class: "empty", x: (inner.left + inner.right) / 2, y: (inner.top + inner.bottom) / 2 }, "nothing measured in this time"));
    this.stage.replaceChildren(s("svg", { width, height, "aria-hidden": "true" }, parts, this.hair));
    if (this.at != null) this.point(this.at, false);
  }

  /** Shows what was measured at a time; null for nothing. */
  point(time, own) {
    this.at = time;
    this.readout.setAttribute("aria-live", own && document.activeElement === this.stage ? "polite" : "off");
    this.hair?.replaceChildren();
    if (time == null || !this.data || !this.scale) {
      this.readout.textContent = "";
      return;
    }
    const { points, step } = this.data;
    const found = points[nearest(points, time)];
    const point = found && Math.abs(found.t - time) <= step * 0.75 ? found : null;
    const band = this.data.bands.find((b) => b.from <= time && time < b.to);
    const t = point ? point.t : Math.min(Math.max(time, this.data.from), this.data.to);
    this.readout.textContent = `${this.data.to - this.data.from > 24 * 3600e3 ? `${instant(t, "day")} ` : ""}${instant(t, "minute")}: ${this.say(point, band)}`;
    const { inner, x, y } = this.scale;
    this.hair?.append(s("line", { x1: x(t), x2: x(t), y1: inner.top, y2: inner.bottom }));
    if (point && this.kind === "line" && this.data.series[0].read(point) != null) {
      this.hair?.append(s("circle", { cx: x(t), cy: y(this.data.series[0].read(point)), r: 3.5 }));
    }
  }

  say(point, band) {
    const values = point ? this.data.series.map((one) => one.show(point)).filter(Boolean).join(" · ") : "";
    return [values, band && band.label].filter(Boolean).join(" · ") || "not measured";
  }

  // Made only when it is opened: a screen reader's way to the numbers, and a person's.
  fillTable() {
    if (!this.table.open || !this.data) return;
    const { points, series, bands: marked } = this.data;
    const rows = points.map((point) => {
      const band = marked.find((b) => b.from <= point.t && point.t < b.to);
      return h("tr", {}, h("th", { scope: "row" }, `${instant(point.t, "day")} ${instant(point.t, "minute")}`),
        series.map((one) => h("td", { class: "number" }, one.show(point, true) || "–")), h("td", {}, band?.label ?? ""));
    }).reverse();
    const head = h("tr", {}, ["time", ...series.map((one) => one.name), "note"].map((name) => h("th", { scope: "col" }, name)));
    const gaps = marked.filter((b) => b.kind === "gap").map((b) => h("li", {}, `${instant(b.from)} to ${instant(b.to)}: ${b.label}`));
    const table = h("table", { class: "small" }, h("caption", {}, this.title), h("thead", {}, head), h("tbody", {}, rows));
    this.table.replaceChildren(this.table.firstChild, h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": `${this.title}, as a table` }, table, gaps.length > 0 && h("ul", {}, gaps)));
  }
}

/**
 * The times of `[from, to]` that no point covers. Measurements may be rarer than buckets are wide, so what is
 * a gap depends on how far apart they usually are.
 */
export function gaps(points, from, to, step) {
  const usual = median(points.slice(1).map((point, i) => point.t - points[i].t)) ?? step;
  const most = Math.max(step * 1.5, usual * 2.2);
  const found = [];
  let before = from;
  for (const t of [...points.map((point) => point.t), to]) {
    const [start, end] = [before === from ? from : before + usual / 2, t === to ? to : t - usual / 2];
    if (t - before > most && end > start) found.push({ from: start, to: end, kind: "gap", label: "not measured" });
    before = t;
  }
  return { bands: found, most };
}

function median(values) {
  if (values.length === 0) return null;
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

/** Runs of neighbouring points; a gap, or a value that is missing, ends one. */
function segments(points, most, read) {
  const found = [];
  let last = null;
  for (const point of points) {
    if (read(point) == null) {
      last = null;
      continue;
    }
    if (last === null || point.t - last.t > most) found.push([]);
    found.at(-1).push(point);
    last = point;
  }
  return found;
}

function nearest(points, time) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle].t < time) low = middle;
    else high = middle;
  }
  return high >= 0 && Math.abs(points[high].t - time) < Math.abs(points[low].t - time) ? high : Math.max(low, 0);
}

/** A round top for the value axis, and the distance of its lines. */
function ceiling({ points, series, band, rule }, kind) {
  const tops = points.map((point) => {
    const values = series.map((one) => (one.mark ? one.read(point) ?? 0 : 0));
    const drawn = kind === "stack" ? values.reduce((sum, v) => sum + v, 0) : Math.max(...values);
    return Math.max(drawn, band?.(point)?.[1] ?? 0);
  });
  let most = Math.max(0, ...tops);
  // A limit that is near is worth seeing; one far above would press everything to the ground.
  if (rule && rule.value <= most * 3) most = Math.max(most, rule.value);
  const rough = (most * 1.08 || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const lines = [1, 2, 2.5, 5, 10].map((m) => m * power).find((v) => v >= rough);
  return { max: Math.ceil((most * 1.04 || 1) / lines) * lines, lines };
}

function valueAxis({ max, lines }, { inner, y }, format) {
  const marks = [];
  for (let value = 0; value <= max * 1.001; value += lines) {
    const at = Math.round(y(value)) + 0.5;
    marks.push(s("line", { class: "grid", x1: inner.left, x2: inner.right, y1: at, y2: at }));
    marks.push(s("text", { class: "axis", x: inner.left - 6, y: at + 4, "text-anchor": "end" }, format(value)));
  }
  return s("g", {}, marks);
}

function timeAxis({ from, to }, { inner, x }) {
  const room = Math.max(2, (inner.right - inner.left) / 76);
  const every = TIME_STEPS.find((step) => (to - from) / step <= room) ?? TIME_STEPS.at(-1);
  // Steps of hours begin at midnight of the zone that is shown, which need not be UTC's.
  const midnight = new Date(instantParts(to)).getTime();
  const marks = [];
  for (let t = midnight - Math.ceil((midnight - from) / every) * every; t <= to; t += every) {
    if (t < from) continue;
    const at = Math.round(x(t)) + 0.5;
    const text = every >= 720 * MINUTE || (to - from > 24 * 3600e3) ? dayOrTime(t) : instant(t, "minute");
    marks.push(s("line", { class: "grid", x1: at, x2: at, y1: inner.bottom, y2: inner.bottom + 4 }));
    if (at > inner.left + 8 && at < inner.right - 14) marks.push(s("text", { class: "axis", x: at, y: inner.bottom + 17, "text-anchor": "middle" }, text));
  }
  return s("g", {}, marks);
}

/** The last midnight before `t`, found from how the time of day is written. */
function instantParts(t) {
  const [hours, minutes, seconds] = instant(t, "time").split(":").map(Number);
  return t - ((hours * 60 + minutes) * 60 + seconds) * 1000 - (t % 1000);
}

const dayOrTime = (t) => (instant(t, "minute") === "00:00" ? instant(t, "day") : instant(t, "minute"));

function bands({ bands: marked, from, to }, { inner, x }) {
  return s("g", {}, marked.map((band) => {
    const [left, right] = [x(Math.max(band.from, from)), x(Math.min(band.to, to))];
    if (right <= left) return null;
    const [width, height] = [Math.max(right - left, 2), inner.bottom - inner.top];
    const hatch = [];
    const spacing = band.kind === "outage" ? 6 : 9;
    // Lines that lean, clipped by hand: a pattern would need an id, and ids collide between charts.
    for (let at = left - height; at < left + width; at += spacing) {
      const [a, b] = [Math.max(at, left), Math.min(at + height, left + width)];
      if (b > a) hatch.push(`M${a.toFixed(1)} ${(inner.bottom - (a - at)).toFixed(1)}L${b.toFixed(1)} ${(inner.bottom - (b - at)).toFixed(1)}`);
    }
    const name = band.kind === "outage" ? "outage" : "not measured";
    return s("g", { class: `band ${band.kind}` }, s("title", {}, band.label),
      s("rect", { x: left, y: inner.top, width, height }), s("path", { d: hatch.join("") }),
      width > 84 && height > 60 && s("text", { x: left + width / 2, y: inner.top + 14, "text-anchor": "middle" }, name));
  }));
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const area = (upper, lower) => `${path([...upper, ...lower.reverse()])}Z`;

function lines({ points, series, band, most }, { x, y }) {
  const [main] = series;
  const parts = segments(points, most, main.read).map((run) => {
    const spread = band && run.length > 1 && area(run.map((p) => [x(p.t), y(band(p)[1])]), run.map((p) => [x(p.t), y(band(p)[0])]));
    return [spread && s("path", { class: "spread", d: spread }),
      run.length === 1 ? s("circle", { class: "dot", cx: x(run[0].t), cy: y(main.read(run[0])), r: 2 })
        : s("path", { class: "line", d: path(run.map((p) => [x(p.t), y(main.read(p))])) })];
  });
  return s("g", { class: "data" }, parts);
}

function stack({ points, series, most }, { x, y }) {
  const drawn = series.filter((one) => one.mark);
  const parts = segments(points, most, (point) => drawn[0].read(point)).map((run) => {
    // A lone measurement still has a width.
    const across = run.length > 1 ? run.map((p) => [p, x(p.t)]) : [[run[0], x(run[0].t) - 1], [run[0], x(run[0].t) + 1]];
    let floor = across.map(() => 0);
    return drawn.map((one) => {
      const roof = across.map(([p], i) => floor[i] + (one.read(p) ?? 0));
      const shape = area(across.map(([, at], i) => [at, y(roof[i])]), across.map(([, at], i) => [at, y(floor[i])]));
      floor = roof;
      return s("path", { class: `fill ${one.mark}`, d: shape });
    });
  });
  return s("g", { class: "data" }, parts);
}

function rule({ value, label }, { inner, y }) {
  const at = Math.round(y(value)) + 0.5;
  return s("g", { class: "rule" }, s("line", { x1: inner.left, x2: inner.right, y1: at, y2: at }),
    s("text", { x: inner.right - 4, y: at + 13, "text-anchor": "end" }, label));
}

// Worse is taller: read without colour.
const SHARE = { healthy: 0.4, unknown: 0.55, degraded: 0.75, unhealthy: 1 };

function strip({ points, level, step }, { inner, x }) {
  const height = inner.bottom - inner.top;
  return s("g", { class: "data" }, points.map((point) => {
    const status = level(point);
    const [left, right] = [x(point.t - step / 2), x(point.t + step / 2)];
    const gap = right - left > 4 ? 1 : 0;
    const tall = height * (SHARE[status] ?? 0.4);
    const start = Math.max(left, inner.left);
    return s("rect", { class: `level ${status}`, x: start, width: Math.max(Math.min(right, inner.right) - start - gap, 0.8), y: inner.bottom - tall, height: tall });
  }));
}

function legend({ series, bands: marked, legend: extra = [] }) {
  const entry = (mark, name) => h("li", {}, h("i", { class: `swatch ${mark}` }), name);
  const kinds = new Set(marked.map((band) => band.kind));
  return [
    ...series.filter((one) => one.mark).map((one) => entry(one.mark, one.name)), ...extra.map(([mark, name]) => entry(mark, name)),
    kinds.has("outage") && entry("outage", "outage"), kinds.has("gap") && entry("gap", "not measured"),
  ].filter(Boolean);
}
