// Making elements and words. Everything that comes from data becomes text, never markup.

const SVG = new Set(["svg", "g", "path", "rect", "text", "line", "title", "circle", "use"]);

/** An element with attributes (`on…` are listeners) and children: elements, texts, lists, or nothing. */
export function h(tag, attributes = {}, ...children) {
  const element = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "width%") element.style.width = `${value}%`;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** Replaces what a region shows; keeps the focus and what was opened. */
export function show(region, ...children) {
  const focused = document.activeElement?.closest?.("[data-key]")?.dataset.key;
  const open = new Set([...region.querySelectorAll("details[open][data-key]")].map((details) => details.dataset.key));
  region.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  for (const details of region.querySelectorAll("details[data-key]")) if (open.has(details.dataset.key)) details.open = true;
  if (focused && !document.activeElement?.closest?.("[data-key]")) {
    region.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
}

/** A card with a heading. */
export const card = (title, ...children) => h("section", { class: "card" }, title && h("h2", {}, title), ...children);

/** A table. A column is `{name, cell(row), number, heading}`; the cell of a `heading` column names its row. */
export function table(caption, columns, rows, none = "Nothing.") {
  if (rows.length === 0) return h("p", { class: "soft" }, none);
  const head = columns.map((column) => h("th", { scope: "col", class: column.number && "number" }, column.name));
  const cell = (column, row) => {
    const content = column.cell(row);
    const filled = content === null || content === undefined || content === "" ? [] : [h("span", {}, content)];
    const attributes = { class: [column.number && "number", column.class].filter(Boolean).join(" ") || null, "data-label": column.name };
    return column.heading ? h("th", { scope: "row", ...attributes }, filled) : h("td", attributes, filled);
  };
  const body = rows.map((row) => h("tr", {}, columns.map((column) => cell(column, row))));
  return h("div", { class: "wide", role: "region", "aria-label": caption, tabindex: "0", "data-key": `table ${caption}` },
    h("table", { class: "stack" }, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

/** A bar that shows a share of a whole. */
export function meter(label, share, text) {
  const percent = Math.round(Math.min(1, Math.max(0, share)) * 100);
  const weight = percent >= 95 ? " bad" : percent >= 75 ? " warn" : "";
  return h("div", { class: `meter${weight}`, role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent, "aria-valuetext": text },
    h("i", { "width%": percent }));
}

const GOOD = { completed: "good", reading: "good", running: "good", ended: "", failed: "bad", stuck: "bad", stopped: "bad", quarantined: "warn", abandoned: "warn", failing: "warn", processing: "warn", waiting: "", elsewhere: "" };

/** How good a state is: a class that colours it. */
export const weight = (state) => GOOD[state] ?? "";

/** A word for a state, coloured. */
export const badge = (state) => h("span", { class: `badge ${weight(state)}` }, state);

export const number = (value) => (value ?? 0).toLocaleString("en-GB", { maximumFractionDigits: value < 10 ? 1 : 0 });

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function seconds(value) {
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

/** A time, short; the whole of it on hovering. Where there is little room a date stands above its time. */
export function time(text) {
  if (!text) return text;
  const [date, clock] = [text.slice(0, 10), text.slice(11, 19)].map((part) => h("span", { class: "nowrap" }, part));
  const isToday = text.slice(0, 10) === new Date().toISOString().slice(0, 10);
  return h("time", { datetime: text, title: text }, isToday ? clock : [date, " ", clock]);
}

/** Asks the process; the error has its words. */
export async function ask(path, options) {
  const response = await fetch(path, { headers: { accept: "application/json" }, ...options });
  const body = await response.json().catch(() => ({ error: `answer ${response.status} can't be read` }));
  if (!response.ok) throw new Error(body.error ?? `answer ${response.status}`);
  return body;
}
