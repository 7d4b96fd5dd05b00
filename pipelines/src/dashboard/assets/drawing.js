// Drawings: the graph of operators with what flows through it, charts of the last hour, and the timeline of manifests.

import { h, number, seconds, time, weight } from "./dom.js";

const BOX = { width: 208, height: 74, gapX: 56, gapY: 16 };

/** Columns by the longest way from a source; a node stands beside the middle of those behind it. */
function layout(operators) {
  const readers = new Map(operators.map((operator) => [operator.id, []]));
  for (const operator of operators) for (const input of operator.inputs) readers.get(input.from)?.push(operator.id);
  const column = new Map();
  for (const operator of operators) {
    column.set(operator.id, Math.max(0, ...operator.inputs.map((input) => (column.get(input.from) ?? 0) + 1)));
  }
  const row = new Map();
  let free = 0;
  const place = (id) => {
    const behind = readers.get(id).filter((other) => !row.has(other));
    row.set(id, null);
    behind.forEach((other) => row.get(other) === undefined && place(other));
    const rows = behind.map((other) => row.get(other)).filter((value) => value !== null && value !== undefined);
    row.set(id, rows.length ? rows.reduce((sum, value) => sum + value, 0) / rows.length : free++);
  };
  // A source that feeds something placed already comes next, so that its line crosses no others.
  const waiting = operators.filter((operator) => operator.inputs.length === 0).map((operator) => operator.id);
  while (waiting.length) {
    const next = Math.max(0, waiting.findIndex((id) => readers.get(id).some((reader) => row.has(reader))));
    place(waiting.splice(next, 1)[0]);
  }
  for (const operator of operators) if (!row.has(operator.id)) place(operator.id);
  const at = (id) => ({ x: 4 + column.get(id) * (BOX.width + BOX.gapX), y: 4 + row.get(id) * (BOX.height + BOX.gapY) });
  return { at, width: 8 + Math.max(...column.values()) * (BOX.width + BOX.gapX) + BOX.width, height: 8 + free * (BOX.height + BOX.gapY) - BOX.gapY };
}

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** How hard it presses: by what waits before an operator. */
const pressure = (measured) => {
  const share = measured?.buffer_capacity_batches ? measured.buffer_batches / measured.buffer_capacity_batches : 0;
  return share >= 0.95 ? "bad" : share >= 0.5 ? "warn" : "";
};

/** The graph. `rates` has for each operator what it takes and gives in a second. */
export function graph(operators, rates) {
  const { at, width, height } = layout(operators);
  const known = new Map(operators.map((operator) => [operator.id, operator]));
  const edges = operators.flatMap((operator) => operator.inputs.filter((input) => known.has(input.from)).map((input) => {
    const [from, to] = [at(input.from), at(operator.id)];
    const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
    // Across other columns it stays in its own row, where no box stands, until it is before the last one.
    const turn = Math.max(x1, x2 - BOX.gapX);
    const middle = (turn + x2) / 2;
    const flows = (rates.get(operator.id)?.received ?? 0) > 0 ? "flow" : "";
    return h("path", { d: `M${x1} ${y1}H${turn}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`, class: pressure(operator.measured) || flows });
  }));
  const nodes = operators.map((operator) => {
    const { x, y } = at(operator.id);
    const rate = rates.get(operator.id);
    const measured = operator.measured;
    const state = operator.state?.state;
    const weight = state === "failing" ? "warn" : state === "stopped" ? "bad" : state ? "" : "away";
    const flow = operator.role === "source" ? `${number(rate?.sent ?? 0)}/s out` : `${number(rate?.received ?? 0)}/s in`;
    const waits = measured?.buffer_capacity_batches ? `${measured.buffer_batches}/${measured.buffer_capacity_batches}` : "";
    const busy = rate ? `${Math.round(rate.busy * 100)}% busy` : "";
    const fill = measured?.buffer_capacity_batches ? measured.buffer_batches / measured.buffer_capacity_batches : 0;
    return h("g", {},
      h("title", {}, `${operator.id}: ${operator.about}`),
      h("rect", { x, y, width: BOX.width, height: BOX.height, rx: 9, class: `box ${weight}` }),
      h("text", { x: x + 12, y: y + 21, class: "name" }, operator.id),
      h("text", { x: x + BOX.width - 12, y: y + 21, class: "small", "text-anchor": "end" }, state === "running" ? "" : state ?? "elsewhere"),
      h("text", { x: x + 12, y: y + 43, class: "rate" }, state ? flow : operator.type_name),
      h("text", { x: x + BOX.width - 12, y: y + 43, class: "small", "text-anchor": "end" }, busy),
      waits && h("rect", { x: x + 12, y: y + 56, width: BOX.width - 62, height: 6, rx: 3, class: "track" }),
      waits && fill > 0 && h("rect", { x: x + 12, y: y + 56, width: Math.max(6, (BOX.width - 62) * fill), height: 6, rx: 3, class: `fill ${pressure(measured)}` }),
      waits && h("text", { x: x + BOX.width - 12, y: y + 63, class: "small", "text-anchor": "end" }, waits),
      !waits && h("text", { x: x + 12, y: y + 63, class: "small" }, short(operator.uses[0] ?? "", 30)));
  });
  return h("div", { class: "graph", role: "region", "aria-label": "Graph of operators", tabindex: "0", "data-key": "graph" },
    h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Operators and what flows between them; the table below has the same." }, edges, nodes));
}

const CHART = { width: 300, height: 104, left: 2, bottom: 16, top: 16 };

/** A chart of one series: `value(point)` may be nothing. */
export function chart(title, points, value, text, everySeconds) {
  const values = points.map((point) => value(point) ?? null);
  const known = values.filter((each) => each !== null);
  const last = known.at(-1);
  const readout = h("span", {}, last === undefined ? "–" : text(last));
  const heading = h("h3", {}, title, readout);
  if (points.length < 2 || known.length === 0) {
    const words = points.length < 2 ? "A few seconds from now." : "Nothing happened in this time.";
    return h("div", { class: "card chart" }, heading, h("p", { class: "soft" }, words));
  }
  const most = Math.max(...known) || 1;
  const { width, height, left, bottom, top } = CHART;
  const x = (index) => left + ((width - left) * index) / (points.length - 1);
  const y = (each) => height - bottom - ((height - bottom - top) * each) / most;
  let line = "";
  values.forEach((each, index) => {
    if (each !== null) line += `${line === "" ? "M" : "L"}${x(index).toFixed(1)} ${y(each).toFixed(1)}`;
  });
  const [first, end] = [values.findIndex((each) => each !== null), values.findLastIndex((each) => each !== null)];
  const area = `${line}L${x(end).toFixed(1)} ${height - bottom}L${x(first).toFixed(1)} ${height - bottom}Z`;
  const span = points.length * everySeconds;
  const mark = h("line", { class: "at", y1: top, y2: height - bottom, visibility: "hidden" });
  const svg = h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: now ${last === undefined ? "nothing" : text(last)}, at most ${text(most)}.` },
    h("line", { class: "grid", x1: left, x2: width, y1: height - bottom, y2: height - bottom }),
    h("line", { class: "grid", x1: left, x2: width, y1: top, y2: top }),
    h("path", { class: "area", d: area }), h("path", { class: "line", d: line }), mark,
    h("text", { x: left + 2, y: top - 4 }, text(most)),
    h("text", { x: left + 2, y: height - 3 }, `${span >= 120 ? `${Math.round(span / 60)} min` : `${span} s`} ago`),
    h("text", { x: width, y: height - 3, "text-anchor": "end" }, "now"));
  svg.addEventListener("pointermove", (event) => {
    const share = (event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width;
    const index = Math.min(points.length - 1, Math.max(0, Math.round(share * (points.length - 1))));
    mark.setAttribute("visibility", "visible");
    mark.setAttribute("x1", x(index));
    mark.setAttribute("x2", x(index));
    const each = values[index];
    readout.textContent = `${new Date(points[index].at_ms).toISOString().slice(11, 19)}  ${each === null ? "–" : text(each)}`;
  });
  return h("div", { class: "card chart" }, heading, svg);
}

const TIMELINE = { width: 1000, row: 10, gap: 3, most: 40, least: 4 };

/** From when to when each of the newest manifests was under way: a bar each, the newest at the top. `now` is the process's. */
export function timeline(manifests, now) {
  const shown = manifests.slice(0, TIMELINE.most).map((manifest) => {
    const from = Date.parse(manifest.created_at);
    const done = manifest.settled_at ?? (manifest.state === "abandoned" ? manifest.updated_at : null);
    return { ...manifest, from, to: done ? Date.parse(done) : Math.max(now, from), isDone: done !== null };
  });
  if (shown.length < 2) return null;
  const first = Math.min(...shown.map((each) => each.from));
  const last = Math.max(first + 1000, ...shown.map((each) => each.to));
  const { width, row, gap, least } = TIMELINE;
  const x = (at) => ((width - least) * (at - first)) / (last - first);
  const bars = shown.map((each, index) => {
    const took = seconds((each.to - each.from) / 1000);
    return h("rect", { x: x(each.from).toFixed(1), y: index * (row + gap), width: Math.max(least, x(each.to) - x(each.from)).toFixed(1), height: row, class: each.failed_files ? "bad" : weight(each.state) },
      h("title", {}, `${each.id}: ${each.state}${each.failed_files ? `, ${each.failed_files} files failed` : ""}, ${took}${each.isDone ? "" : " so far"}`));
  });
  const height = shown.length * (row + gap);
  const text = `The newest ${shown.length} manifests, from their making until their files had followed them; the table has the same.`;
  return h("div", { class: "timeline" },
    h("svg", { viewBox: `0 0 ${width} ${height}`, height, preserveAspectRatio: "none", role: "img", "aria-label": text }, bars),
    h("div", { class: "ends" }, time(shown.find((each) => each.from === first).created_at), h("span", {}, `${seconds((last - first) / 1000)}, the newest ${shown.length}`), time(new Date(last).toISOString())));
}
