// Charts over time. A time without measurements is a marked band; no line is drawn across it.

import { h, s } from "./dom.js";
import { clock, instant, number } from "./format.js";

const PAD = { left: 52, right: 12, top: 10, bottom: 22 };
const DAY = 86400e3;
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880].map(
  (minutes) => minutes * 60e3,
);

/**
 * A chart. The charts in `peers` point to the same time together. `kind` is "line", "stack", or
 * "strip" with `level(point)` → status. `update` takes the data:
 *   from, to, step     in milliseconds
 *   points             [{ t, begin, … }], oldest first; t is the middle of a bucket
 *   most               points further apart than this have a gap between them
 *   series             [{ name, mark, read(point) → number|null, show(point, bare) → text }];
 *                      a series without a mark is read out but not drawn
 *   bands              [{ from, to, kind: "outage" | "gap", label }]
 *   spread             (point) → [low, high], drawn behind a single line
 *   rule               { value, label }: a limit
 *   idle               the text below the chart while nothing is pointed to
 *   summary            the text for a screen reader
 */
export class Chart {
  constructor({ title, kind, format = number, peers }) {
    Object.assign(this, { title, kind, format, peers, at: null });
    // Over the plot, not beside it: the readout must not move the page.
    this.readout = h("output", { class: "readout", "aria-live": "off" });
    this.idle = h("p", { class: "muted" });
    this.legend = h("ul", { class: "legend" });
    // A slider over time: the only role whose arrow keys a screen reader passes on, and whose
    // value it reads.
    this.stage = h("div", {
      class: `stage ${kind}`,
      tabindex: "0",
      role: "slider",
      "aria-label": title,
      "aria-valuemin": "0",
      "aria-valuemax": "0",
      "aria-valuenow": "0",
      "aria-valuetext": "",
    });
    this.table = h("details", { ontoggle: () => this.fillTable() }, h("summary", {}, "As a table"));
    this.element = h(
      "figure",
      {},
      h("figcaption", {}, h("h3", {}, title), this.legend),
      h("div", { class: "plot" }, this.stage, this.readout),
      h("div", { class: "under" }, this.table, this.idle),
    );
    peers.add(this);
    this.listen();
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.stage);
  }

  release() {
    this.sizes.disconnect();
  }

  update(data) {
    this.data = data;
    this.legend.replaceChildren(...legend(data));
    this.idle.textContent = data.idle ?? "";
    this.stage.setAttribute(
      "aria-label",
      `${this.title}: ${data.summary ?? "nothing measured"}. Arrow keys read single values.`,
    );
    this.draw();
    this.fillTable();
  }

  listen() {
    const show = (time) => this.peers.forEach((chart) => chart.point(time));
    this.stage.onpointermove = (event) =>
      this.scale && show(this.scale.time(event.clientX - this.stage.getBoundingClientRect().left));
    this.stage.onpointerleave = this.stage.onblur = () => show(null);
    this.stage.onkeydown = (event) => {
      const by = {
        ArrowLeft: -1,
        ArrowRight: 1,
        PageUp: -10,
        PageDown: 10,
        Home: -Infinity,
        End: Infinity,
      }[event.key];
      const points = this.data?.points ?? [];
      if (event.key === "Escape") show(null);
      if (by === undefined || points.length === 0) return;
      event.preventDefault();
      const here = this.at == null ? points.length : nearest(points, this.at);
      show(points[Math.min(points.length - 1, Math.max(0, here + by))].t);
    };
  }

  draw() {
    const [width, height] = [this.stage.clientWidth, this.stage.clientHeight];
    if (!this.data || width < 60) return;
    const { from, to, points, rule } = this.data;
    const flat = this.kind === "strip";
    const top = flat ? { max: 1 } : ceiling(this.data, this.kind);
    const inner = {
      left: PAD.left,
      right: width - PAD.right,
      top: PAD.top,
      bottom: height - PAD.bottom,
    };
    const across = inner.right - inner.left;
    this.scale = {
      inner,
      x: (t) => inner.left + ((t - from) / (to - from)) * across,
      y: (v) => inner.bottom - (v / top.max) * (inner.bottom - inner.top),
      time: (x) => from + ((x - inner.left) / across) * (to - from),
    };
    this.hair = s("g", { class: "hair" });
    const drawn = { strip, stack, line }[this.kind](this.data, this.scale);
    this.stage.replaceChildren(
      s(
        "svg",
        { width, height, "aria-hidden": "true" },
        hatches(),
        timeAxis(this.data, this.scale),
        !flat && valueAxis(top, this.scale, this.format),
        bands(this.data, this.scale),
        s("g", { class: "data" }, drawn),
        rule && rule.value <= top.max && limit(rule, this.scale),
        points.length === 0 &&
          s(
            "text",
            { class: "empty", x: (inner.left + inner.right) / 2, y: height / 2 },
            "no measurements in this time",
          ),
        this.hair,
      ),
    );
    this.point(this.at);
  }

  /** Shows the values at a time; null hides them. */
  point(time) {
    this.at = time;
    this.hair?.replaceChildren();
    this.readout.replaceChildren();
    if (!this.data || !this.scale) return;
    const { points, step, from, to, series, bands: marked } = this.data;
    const here = time == null ? points.length - 1 : nearest(points, time);
    this.stage.setAttribute("aria-valuemax", Math.max(0, points.length - 1));
    this.stage.setAttribute("aria-valuenow", Math.max(0, here));
    if (time == null) {
      this.stage.setAttribute("aria-valuetext", this.data.summary ?? "");
      return;
    }
    const near = points[here];
    const point = near && Math.abs(near.t - time) <= step * 0.75 ? near : null;
    const t = point ? point.t : Math.min(Math.max(time, from), to);
    const values = [
      ...(point ? series.map((one) => one.show(point)) : []),
      marked.find((b) => b.from <= t && t < b.to)?.label,
    ].filter(Boolean);
    const lines = [moment(t, to - from > DAY), ...(values.length > 0 ? values : ["not measured"])];
    this.stage.setAttribute("aria-valuetext", lines.join(", "));
    const { inner, x, y } = this.scale;
    this.readout.className = `readout ${x(t) > (inner.left + inner.right) / 2 ? "left" : "right"}`;
    this.readout.append(...lines.map((line) => h("span", {}, line)));
    this.hair.append(s("line", { x1: x(t), x2: x(t), y1: inner.top, y2: inner.bottom }));
    const value = point && this.kind === "line" ? series[0].read(point) : null;
    if (value != null) this.hair.append(s("circle", { cx: x(t), cy: y(value), r: 3.5 }));
  }

  // Filled only while it is open.
  fillTable() {
    if (!this.table.open || !this.data) return;
    const { points, series, step, bands: marked } = this.data;
    const rows = points.map((point) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, moment(point.t, true, step < 60e3)),
        series.map((one) => h("td", { class: "number" }, one.show(point, true) || "–")),
      ),
    );
    const notes = marked.map((b) =>
      h("li", {}, `${moment(b.from, true)} to ${moment(b.to, true)}: ${b.label}`),
    );
    this.table.replaceChildren(
      this.table.firstChild,
      h(
        "div",
        {
          class: "scroll tall",
          tabindex: "0",
          role: "region",
          "aria-label": `${this.title}, as a table`,
        },
        h("ul", {}, notes),
        h(
          "table",
          { class: "small" },
          h("caption", {}, this.title),
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "time"),
              series.map((one) => h("th", { scope: "col", class: "number" }, one.name)),
            ),
          ),
          h("tbody", {}, rows.reverse()),
        ),
      ),
    );
  }
}

const moment = (t, day, seconds) =>
  `${day ? `${instant(t, "day")} ` : ""}${instant(t, seconds ? "time" : "minute")}`;

/**
 * The times within `[from, to]` that no point covers. Measurements may be rarer than buckets, so
 * the length of a gap depends on the usual distance between measurements.
 */
export function gaps(points, from, to, step) {
  const apart = points
    .slice(1)
    .map((point, i) => point.t - points[i].t)
    .sort((a, b) => a - b);
  const usual = Math.max(step, apart[Math.floor(apart.length / 2)] ?? 0);
  const most = Math.max(step * 1.5, usual * 2.2);
  const found = [];
  let before = null;
  for (const t of [...points.map((point) => point.t), null]) {
    const [start, end] = [
      before === null ? from : before + usual / 2,
      t === null ? to : t - usual / 2,
    ];
    if ((t ?? to) - (before ?? from) > most) found.push({ from: start, to: end, kind: "gap" });
    before = t;
  }
  return { gaps: found, most };
}

/** Runs of adjacent points; a gap, an outage or a missing value ends a run. */
function segments({ points, most, bands: marked }, read) {
  const outages = marked.filter((band) => band.kind === "outage");
  const apart = (one, other) =>
    other.t - one.t > most || outages.some((out) => out.from < other.t && out.to > one.t);
  const found = [];
  let last = null;
  for (const point of points) {
    const known = read(point) != null;
    if (known && (last === null || apart(last, point))) found.push([]);
    if (known) found.at(-1).push(point);
    last = known ? point : null;
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
  return high >= 0 && Math.abs(points[high].t - time) < Math.abs(points[low].t - time) ? high : low;
}

/** A round maximum for the value axis, and the distance between its lines. */
function ceiling({ points, series, spread, rule }, kind) {
  const drawn = series.filter((one) => one.mark);
  const top = (point) => {
    const values = drawn.map((one) => one.read(point) ?? 0);
    return Math.max(
      kind === "stack" ? values.reduce((sum, v) => sum + v, 0) : Math.max(...values),
      spread?.(point)[1] ?? 0,
    );
  };
  let most = points.reduce((highest, point) => Math.max(highest, top(point)), 0);
  // A near limit is worth showing; a far one would flatten the data.
  if (rule && rule.value <= most * 3) most = Math.max(most, rule.value);
  most = most * 1.04 || 1;
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const lines = [1, 2, 2.5, 5, 10].map((m) => m * power).find((v) => v >= most / 4);
  return { max: Math.ceil(most / lines) * lines, lines };
}

function valueAxis({ max, lines }, { inner, y }, format) {
  return Array.from({ length: Math.round(max / lines) + 1 }, (_, i) => {
    const at = Math.round(y(i * lines)) + 0.5;
    return [
      s("line", { class: "grid", x1: inner.left, x2: inner.right, y1: at, y2: at }),
      s("text", { x: inner.left - 6, y: at + 4, "text-anchor": "end" }, format(i * lines)),
    ];
  });
}

function timeAxis({ from, to }, { inner, x }) {
  const room = Math.max(2, (inner.right - inner.left) / 76);
  const every = TIME_STEPS.find((step) => (to - from) / step <= room) ?? TIME_STEPS.at(-1);
  // Steps of hours begin at midnight in the shown zone.
  const zone = clock.utc ? 0 : new Date(to).getTimezoneOffset() * 60e3;
  const marks = [];
  for (let t = Math.ceil((from - zone) / every) * every + zone; t <= to; t += every) {
    const at = Math.round(x(t)) + 0.5;
    const text = instant(t, "minute");
    marks.push(
      s("line", { class: "grid", x1: at, x2: at, y1: inner.bottom, y2: inner.bottom + 4 }),
    );
    if (at > inner.left + 8 && at < inner.right - 12)
      marks.push(
        s(
          "text",
          { x: at, y: inner.bottom + 17, "text-anchor": "middle" },
          text === "00:00" ? instant(t, "day") : text,
        ),
      );
  }
  return marks;
}

// Equal in each chart, so it does not matter which one an id refers to.
function hatches() {
  const hatch = (kind, size) =>
    s(
      "pattern",
      {
        id: `hatch-${kind}`,
        class: kind,
        width: size,
        height: size,
        patternUnits: "userSpaceOnUse",
        patternTransform: "rotate(45)",
      },
      s("rect", { width: size, height: size }),
      s("line", { y2: size }),
    );
  return s("defs", {}, hatch("outage", 6), hatch("gap", 8));
}

function bands({ bands: marked, from, to }, { inner, x }) {
  return marked.map(({ kind, label, ...band }) => {
    const [left, right] = [x(Math.max(band.from, from)), x(Math.min(band.to, to))];
    const [width, height] = [Math.max(right - left, 2), inner.bottom - inner.top];
    return (
      right > left &&
      s(
        "g",
        { class: `band ${kind}` },
        s("title", {}, label),
        s("rect", { x: left, y: inner.top, width, height, fill: `url(#hatch-${kind})` }),
        width > 84 &&
          height > 60 &&
          s(
            "text",
            { x: left + width / 2, y: inner.top + 14, "text-anchor": "middle" },
            kind === "gap" ? label : kind,
          ),
      )
    );
  });
}

const path = (points) =>
  points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const area = (upper, lower) => `${path([...upper, ...lower.reverse()])}Z`;

function line(data, { x, y }) {
  const {
    series: [{ read }],
    spread,
  } = data;
  return segments(data, read).map((run) => {
    if (run.length === 1)
      return s("circle", { class: "dot", cx: x(run[0].t), cy: y(read(run[0])), r: 2 });
    const edge = (i) => run.map((p) => [x(p.t), y(spread(p)[i])]);
    return [
      spread && s("path", { class: "spread", d: area(edge(1), edge(0)) }),
      s("path", { class: "line", d: path(run.map((p) => [x(p.t), y(read(p))])) }),
    ];
  });
}

function stack(data, { x, y }) {
  const drawn = data.series.filter((one) => one.mark);
  return segments(data, drawn[0].read).map((run) => {
    // A single measurement needs a width, too.
    const across =
      run.length > 1
        ? run.map((p) => [p, x(p.t)])
        : [-2, 2].map((side) => [run[0], x(run[0].t) + side]);
    let floor = across.map(() => 0);
    return drawn.map((one) => {
      const roof = across.map(([p], i) => floor[i] + (one.read(p) ?? 0));
      const edge = (heights) => across.map(([, at], i) => [at, y(heights[i])]);
      const shape = s("path", { class: `fill ${one.mark}`, d: area(edge(roof), edge(floor)) });
      floor = roof;
      return shape;
    });
  });
}

function limit({ value, label }, { inner, y }) {
  const at = Math.round(y(value)) + 0.5;
  return s(
    "g",
    { class: "rule" },
    s("line", { x1: inner.left, x2: inner.right, y1: at, y2: at }),
    s("text", { x: inner.right - 4, y: at + 13, "text-anchor": "end" }, label),
  );
}

// A worse status is taller, so that it can be read without colour.
const SHARE = { healthy: 0.4, unknown: 0.55, degraded: 0.75, unhealthy: 1 };

function strip({ points, level, step }, { inner, x }) {
  return points.map((point) => {
    const status = level(point);
    const left = Math.max(x(point.begin), inner.left);
    const width = Math.min(x(point.begin + step), inner.right) - left;
    const height = (inner.bottom - inner.top) * SHARE[status];
    return s("rect", {
      class: `level ${status}`,
      x: left,
      width: Math.max(width > 4 ? width - 1 : width, 0.8),
      y: inner.bottom - height,
      height,
    });
  });
}

function legend({ series, bands: marked, legend: extra = [] }) {
  const kinds = new Set(marked.map((band) => band.kind));
  const entries = [
    ...series.filter((one) => one.mark).map((one) => [one.mark, one.name]),
    ...extra,
    kinds.has("outage") && ["outage", "outage"],
    kinds.has("gap") && ["gap", marked.find((b) => b.kind === "gap").label],
  ];
  return entries
    .filter(Boolean)
    .map(([mark, name]) => h("li", {}, h("i", { class: `swatch ${mark}` }), name));
}
