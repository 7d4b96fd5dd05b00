// The pages. Each asks the process every few seconds and shows what it says; nothing is kept but the theme and, for this
// tab alone, the token of actions.

import { ask, badge, bytes, card, h, meter, number, seconds, show, table, time } from "./dom.js";
import { chart, graph, timeline } from "./drawing.js";

const main = document.getElementById("main");
const byId = (id) => document.getElementById(id);
const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
const manifestLink = (date, id) => h("a", { href: `/manifests/${encodeURIComponent(date)}/${encodeURIComponent(id)}`, "data-key": `manifest ${id}` }, id);
const fileAddress = (date, key) => `/files/${encodeURIComponent(date)}/${key.split("/").map(encodeURIComponent).join("/")}`;
const fileLink = (date, key) => h("a", { href: fileAddress(date, key), "data-key": `file ${date}/${key}` }, key);
const failedBadge = (files) => h("span", { class: "badge bad" }, `${plural(files, "file")} failed`);
/** How long ago something was, by the clock of the process: that of the person may be off. */
const age = (at) => seconds(Math.max(0, (processNow() - new Date(at)) / 1000));
const cutNote = (cut) => cut && h("p", { class: "soft" }, "There is more than is shown here. Choose a date, or write more of a key.");

/** What the table has and nobody can read. */
const unreadableNote = (reasons) => reasons.length > 0 && h("div", { class: "note" }, h("strong", {}, `${plural(reasons.length, "item")} can't be read`), reasons.map((reason) => h("div", { class: "break" }, reason)));

/** Whether this process may act. */
let mayAct = false;

/** How far the clock of the process is ahead of the one here. */
let clockAheadMs = 0;
const processNow = () => Date.now() + clockAheadMs;

/** Shows the state of the process above every page. */
function showProcess(view) {
  mayAct = view.actions_allowed;
  clockAheadMs = view.now_ms - Date.now();
  const { readiness, about } = view;
  const [word, weight] = !readiness.ready ? ["not ready", "bad"] : readiness.degraded ? ["degraded", "warn"] : ["ready", "good"];
  byId("ready").textContent = word;
  byId("ready").className = `badge ${weight}`;
  byId("where").textContent = `${about.pipeline} · ${about.env} · ${about.service}`;
  byId("about").textContent = `penstock ${about.version}, file ${about.digest.slice(0, 12)}, since ${about.started_at.slice(0, 19).replace("T", " ")} UTC`;
  byId("fresh").textContent = `as of ${view.now.slice(11, 19)} UTC`;
}

/** Asks for one thing again and again, and shows it; a failure is said, and asked again. Where ages stand it is drawn again after
 * a while though nothing has changed. */
function live(path, region, draw, everyMs = 3000, redrawMs = Infinity) {
  let [before, drawnAt] = ["", 0];
  const look = async () => {
    if (!document.hidden) {
      try {
        const address = typeof path === "function" ? path() : path;
        const view = await ask(address);
        const text = address + JSON.stringify(view);
        if (text !== before || Date.now() - drawnAt > redrawMs) {
          [before, drawnAt] = [text, Date.now()];
          show(region, draw(view));
        }
        main.removeAttribute("aria-busy");
      } catch (error) {
        before = "";
        show(region, h("div", { class: "note unready", role: "alert" }, h("p", {}, `No answer: ${error.message}. Trying again.`)));
      }
    }
  };
  const loop = async () => {
    await look();
    setTimeout(loop, everyMs);
  };
  loop();
  return look;
}

// ---- overview

const views = [];

/** What each operator takes and gives in a second, and how busy it is, over the last ten seconds. */
function rates(view) {
  views.push(view);
  while (views.length > 2 && view.now_ms - views[0].now_ms > 10_000) views.shift();
  const [first, found] = [views[0], new Map()];
  const passed = (view.now_ms - first.now_ms) / 1000;
  if (passed <= 0) return found;
  const before = new Map(first.operators.map((operator) => [operator.id, operator.measured]));
  for (const { id, measured } of view.operators) {
    const then = before.get(id);
    if (!measured || !then) continue;
    const whole = passed * measured.instances;
    found.set(id, {
      received: Math.max(0, (measured.received - then.received) / passed),
      sent: Math.max(0, (measured.sent - then.sent) / passed),
      busy: Math.min(1, Math.max(0, (measured.busy_seconds - then.busy_seconds) / whole)),
      blocked: Math.min(1, Math.max(0, (measured.blocked_seconds - then.blocked_seconds) / whole)),
    });
  }
  return found;
}

const sum = (counts, names) => names.reduce((total, name) => total + (counts[name] ?? 0), 0);
const tile = (label, value, more, id, href) => h("div", { class: "card tile" }, h("div", { class: "label" }, href ? h("a", { href, "data-key": `tile ${label}` }, label) : label), h("div", { class: "value", id }, value), h("div", { class: "more" }, more ?? ""));

function overview() {
  const [notes, tiles, drawing, charts, rest] = [h("div"), h("div", { class: "tiles" }), h("div"), h("div", { class: "charts" }), h("div", { class: "two" })];
  notes.id = "reasons";
  show(main, h("h1", {}, "Overview"), notes, tiles, card("What flows", drawing), h("h2", { class: "hidden" }, "The last hour"), charts, rest);
  live("/api/overview.json", h("div"), (view) => {
    showProcess(view);
    const { totals } = view;
    const atLeast = (value) => (totals.complete ? number(value) : `≥ ${number(value)}`);
    show(notes, view.readiness.reasons.map((reason) => h("div", { class: `note ${reason.weight}` }, h("strong", {}, reason.about), `: ${reason.reason}`)),
      totals.unreadable > 0 && h("div", { class: "note" }, h("strong", {}, `${plural(totals.unreadable, "item")} of the table can't be read`), view.unreadable.map((item) => h("div", { class: "break" }, item.reason))));
    const queued = view.queues.filter((queue) => !queue.is_dead_letter).reduce((total, queue) => total + queue.visible + queue.in_flight + queue.delayed, 0);
    const dead = view.queues.filter((queue) => queue.is_dead_letter).reduce((total, queue) => total + queue.visible + queue.in_flight + queue.delayed, 0);
    show(tiles,
      tile("Files completed", atLeast(totals.files.completed ?? 0), `${atLeast(sum(totals.files, ["pending", "manifested"]))} under way`, "files-completed", "/files"),
      tile("Files failed", atLeast(totals.files.failed ?? 0), `${atLeast(totals.files.quarantined ?? 0)} in quarantine`, "files-failed", "/rejects"),
      tile("Manifests", atLeast(totals.manifests.completed ?? 0), `${atLeast(sum(totals.manifests, ["assembling", "pending", "processing"]))} under way, ${atLeast(totals.manifests.failed ?? 0)} failed`, "manifests-completed", "/manifests"),
      tile("Rows", atLeast(totals.rows), `${plural(totals.rejected_rows, "rejected line")}${totals.corrupt_rows ? `, ${number(totals.corrupt_rows)} corrupt` : ""}`, "rows"),
      tile("Stored bytes", bytes(totals.bytes), "of all files"),
      tile("Queued", number(queued), dead ? plural(dead, "dead letter") : "no dead letters", "queued", "/dead-letters"));
    const measured = rates(view);
    show(drawing, graph(view.operators, measured));
    show(rest, operatorsCard(view, measured), h("div", { class: "column" }, queuesCard(view), datesCard(view)));
    return [];
  }, 2000);
  live("/api/history.json", charts, ({ points, every_seconds: every }) => [
    chart("Rows a second", points, (point) => point.rows_per_second, number, every),
    chart("Files a second", points, (point) => point.files_per_second, number, every),
    chart("Stored bytes a second", points, (point) => point.bytes_per_second, (value) => `${bytes(value)}/s`, every),
    chart("Manifest to done, mean", points, (point) => point.done_seconds, seconds, every),
    chart("Converting, mean", points, (point) => point.convert_seconds, seconds, every),
    chart("Pending files", points, (point) => point.pending_files, number, every),
    chart("Messages in queues", points, (point) => point.queued_messages, number, every),
    chart("Lag of the worst shard", points, (point) => point.lag_seconds, seconds, every),
    chart("Failures a second", points, (point) => point.errors_per_second, number, every),
  ], 5000);
}

function operatorsCard(view, measured) {
  const share = (value) => (value === undefined ? "" : `${Math.round(value * 100)} %`);
  const columns = [
    { name: "Operator", heading: true, cell: (operator) => operator.id },
    { name: "State", cell: (operator) => (operator.state ? [badge(operator.state.state), operator.state.error && h("div", { class: "soft break" }, operator.state.error)] : "elsewhere") },
    { name: "In", number: true, cell: (operator) => operator.measured && operator.inputs.length ? number(operator.measured.received) : "" },
    { name: "Out", number: true, cell: (operator) => operator.measured ? number(operator.measured.sent) : "" },
    { name: "Errors", number: true, cell: (operator) => operator.measured ? number(operator.measured.errors) : "" },
    { name: "Busy", number: true, cell: (operator) => share(measured.get(operator.id)?.busy) },
    { name: "Blocked", number: true, cell: (operator) => share(measured.get(operator.id)?.blocked) },
  ];
  return card("Operators", table("Since the start of this process; busy and blocked of the last ten seconds", columns, view.operators));
}

function queuesCard(view) {
  const columns = [
    { name: "Queue", heading: true, cell: (queue) => (queue.is_dead_letter ? h("a", { href: "/dead-letters", "data-key": `queue ${queue.name}` }, queue.name) : queue.name) },
    { name: "Waiting", number: true, cell: (queue) => number(queue.visible) },
    { name: "In work", number: true, cell: (queue) => number(queue.in_flight) },
    { name: "Delayed", number: true, cell: (queue) => number(queue.delayed) },
  ];
  return card("Queues", table("Messages, about", columns, view.queues));
}

function datesCard(view) {
  const list = (counts) => Object.entries(counts).map(([state, count]) => `${number(count)} ${state}`).join(", ");
  const columns = [
    { name: "Date", heading: true, class: "nowrap", cell: (date) => h("a", { href: `/manifests?date=${date.date}`, "data-key": `date ${date.date}` }, date.date) },
    { name: "Files", cell: (date) => [list(date.files), date.oldest_pending && h("div", { class: "soft", title: date.oldest_pending }, `the oldest pending since ${age(date.oldest_pending)}`)] },
    { name: "Manifests", cell: (date) => list(date.manifests) },
    { name: "Rows", number: true, cell: (date) => number(date.rows) },
    { name: "Rejected", number: true, cell: (date) => number(date.rejected_rows) },
  ];
  return card("Dates", table(view.totals.complete ? "The newest first" : "The newest first; there is more than was counted, so all of this is at least", columns, view.dates, "Nothing has landed yet."));
}

// ---- shards

function shards() {
  const region = h("div");
  show(main, h("h1", {}, "Shards"), h("p", { class: "lead" }, "A shard is read once its parent is done. What only its reader knows stands at the shards that this process reads."), region);
  live("/api/shards.json", region, ({ streams }) => streams.length ? streams.map((stream) => {
    const known = new Map(stream.shards.map((shard) => [shard.id, shard]));
    const children = (id) => stream.shards.filter((shard) => shard.parents.includes(id));
    const seen = new Set();
    const node = (shard) => {
      if (seen.has(shard.id)) return null;
      seen.add(shard.id);
      const below = children(shard.id).map(node).filter(Boolean);
      const state = shard.state ?? (shard.ended ? "ended" : shard.owner ? "elsewhere" : "free");
      return h("li", {}, h("div", { class: "shard" },
        h("div", { class: "line" }, h("code", {}, shard.id), badge(state),
          shard.lag_secs !== null && shard.state === "reading" && h("span", {}, shard.lag_secs ? `${seconds(shard.lag_secs)} behind` : "no lag"),
          shard.in_flight_records ? h("span", {}, `${number(shard.in_flight_records)} in flight`) : null,
          shard.owner && h("span", { class: "soft" }, `read by ${shard.owner}`)),
        shard.reason && h("div", { class: state === "stuck" || state === "stopped" ? "note unready" : "soft" }, shard.reason),
        shard.checkpoint && h("div", { class: "soft" }, "checkpoint ", h("code", {}, shard.checkpoint))),
      below.length ? h("ul", {}, below) : null);
    };
    const roots = stream.shards.filter((shard) => !shard.parents.some((parent) => known.has(parent)));
    return card(`${stream.source}: stream of ${stream.table}`,
      h("p", { class: "soft" }, h("code", {}, stream.arn), stream.read_here ? "" : " – no shard of it is read by this process"),
      stream.shards.length ? h("ul", { class: "tree" }, roots.map(node)) : h("p", {}, "No shard has been listed yet."), cutNote(stream.cut));
  }) : card("", h("p", {}, "This pipeline reads no change stream.")));
}

// ---- pending

function pending() {
  const region = h("div");
  show(main, h("h1", {}, "Pending folds"), h("p", { class: "lead" }, "Files that wait for a manifest, against the thresholds that close one. Whichever is reached first does."), region, flushCard());
  live("/api/pending.json", region, ({ folds }) => folds.length ? folds.map((fold) => card(fold.id, fold.problem ? h("p", { class: "soft" }, fold.problem) :
    table(`At most ${number(fold.max_files)} files, ${bytes(fold.max_bytes)} or ${seconds(fold.max_age_secs)}`, [
      { name: "Date", heading: true, class: "nowrap", cell: (date) => date.date },
      { name: "Files", cell: (date) => [number(date.files), meter(`files of ${date.date}`, date.files_share, `${date.files} of ${fold.max_files}`)] },
      { name: "Bytes", cell: (date) => [bytes(date.bytes), meter(`bytes of ${date.date}`, date.bytes_share, bytes(date.bytes))] },
      { name: "Age of the oldest", cell: (date) => [seconds(date.oldest_secs), meter(`age of ${date.date}`, date.age_share, seconds(date.oldest_secs))] },
    ], fold.dates, "No file is pending."))) : card("", h("p", {}, "This pipeline has no fold.")), 2000);
}

// ---- manifests

function manifests() {
  const wanted = new URLSearchParams(location.search);
  const region = h("div");
  const date = h("select", { id: "date" }, h("option", { value: "" }, "newest"));
  const status = h("select", { id: "status" }, h("option", { value: "" }, "any"), ["assembling", "pending", "processing", "completed", "failed", "abandoned"].map((state) => h("option", { value: state }, state)));
  status.value = wanted.get("status") ?? "";
  let chosen = wanted.get("date") ?? "";
  const form = h("div", { class: "row card" }, h("label", {}, "Date", date), h("label", {}, "Status", status));
  show(main, h("h1", {}, "Manifests"), form, region);
  const look = live(() => `/api/manifests.json?date=${encodeURIComponent(chosen)}&status=${status.value}`, region, (view) => {
    const dates = [...new Set([...(chosen ? [chosen] : []), ...view.dates])];
    if (date.options.length !== dates.length + 1) {
      show(date, h("option", { value: "" }, "newest"), dates.map((each) => h("option", { value: each }, each)));
      date.value = chosen;
    }
    return card("", timeline(view.manifests, processNow()), table("The newest first", [
      { name: "Manifest", heading: true, class: "break", cell: (row) => manifestLink(row.date, row.id) },
      { name: "Date", class: "nowrap", cell: (row) => row.date },
      { name: "State", class: "roomy", cell: (row) => [badge(row.state), row.failed_files > 0 && row.state === "completed" && [" ", failedBadge(row.failed_files)], row.error && h("div", { class: "soft break clamp", title: row.error }, row.error)] },
      { name: "Attempt", number: true, cell: (row) => (row.attempt ? `${row.attempt}` : "") },
      { name: "Files", number: true, cell: (row) => number(row.files) },
      { name: "Bytes", number: true, cell: (row) => bytes(row.bytes) },
      { name: "Closed by", cell: (row) => row.flush_reason ?? "" },
      { name: "Rows", number: true, cell: (row) => (row.rows === null ? "" : number(row.rows)) },
      { name: "Rejects", number: true, cell: (row) => (row.rejected_rows ? number(row.rejected_rows) : "") },
      { name: "Outputs", number: true, cell: (row) => (row.state === "completed" ? number(row.outputs) : "") },
      { name: "Took", number: true, cell: (row) => (row.settled_at ? seconds((new Date(row.settled_at) - new Date(row.created_at)) / 1000) : ["abandoned"].includes(row.state) ? "" : `${age(row.created_at)} so far`) },
      { name: "Made", cell: (row) => time(row.created_at) },
    ], view.manifests, "No manifest is like that."), unreadableNote(view.unreadable), cutNote(view.cut));
  }, 3000, 15_000);
  const changed = () => {
    chosen = date.value;
    history.replaceState(null, "", `/manifests?${new URLSearchParams({ date: chosen, status: status.value })}`);
    look();
  };
  date.addEventListener("change", changed);
  status.addEventListener("change", changed);
}

function manifest(date, id) {
  const [region, samples] = [h("div"), h("div")];
  document.title = `${id} – Penstock`;
  show(main, h("p", {}, h("a", { href: `/manifests?date=${date}` }, `All manifests of ${date}`)), h("h1", { class: "break" }, id), region, samples);
  const redriveAll = () => redriveButton("Redrive its failed files…", `Redrive the failed files of ${id}`, { manifest: { date, id } });
  let sampled = false;
  live(`/api/manifest.json?date=${encodeURIComponent(date)}&id=${encodeURIComponent(id)}`, region, (view) => {
    const of = view.manifest;
    if (view.rejects_key && !sampled) {
      sampled = true;
      rejectedLines(samples, date, id);
    }
    const fact = (name, value) => (value === null || value === undefined || value === "" ? [] : [h("dt", {}, name), h("dd", {}, value)]);
    return [
      view.error && h("div", { class: "note unready", id: "reason" }, h("strong", {}, of.state === "failed" ? "Why it failed: " : "What failed: "), view.error),
      view.gaps.map((gap) => h("div", { class: "note" }, gap)),
      view.next && h("div", { class: view.next.is_late ? "note" : "card" }, h("strong", {}, `What comes next: ${view.next.step}`), view.next.is_late && " (late)", h("div", { class: "soft" }, view.next.because)),
      mayAct && (of.state === "failed" || of.failed_files > 0) && h("div", { class: "row" }, redriveAll()),
      h("div", { class: "two" },
        card("What it is", h("dl", { class: "facts" },
          fact("State", [badge(of.state), of.failed_files > 0 && of.state === "completed" && [" ", failedBadge(of.failed_files)]]), fact("Attempt", of.attempt || null), fact("Not before", time(view.retry_at)),
          fact("Files", `${number(of.files)}, ${bytes(of.bytes)}${of.failed_files ? `; ${of.failed_files} failed` : ""}`),
          fact("Rows", of.rows === null ? null : `${number(of.rows)}${of.corrupt_rows ? ` (${number(of.corrupt_rows)} of them corrupt)` : ""}, and ${plural(of.rejected_rows, "rejected line")}`),
          fact("Worked on by", view.holder),
          fact("Trace id", h("code", {}, view.trace_id)), fact("Its JSON", h("code", {}, view.manifest_path)),
          fact("Outputs", view.outputs.length ? view.outputs.map(([output, size]) => h("div", {}, h("code", {}, output), size === null ? h("strong", {}, " is not there") : h("span", { class: "soft nowrap" }, ` ${bytes(size)}`))) : null))),
        card("What happened", h("ol", { class: "story" }, view.story.map((event) => h("li", {}, time(event.at), event.what))))),
      card("Its attempts", table("Those that left a report", [
        { name: "Attempt", heading: true, cell: (attempt) => [`${attempt.number} `, attempt.won ? badge("it counts") : null] },
        { name: "Token", class: "nowrap", cell: (attempt) => h("code", { title: attempt.token }, attempt.token.slice(0, 8)) },
        { name: "Began", cell: (attempt) => time(attempt.started_at) },
        { name: "Took", number: true, cell: (attempt) => seconds((new Date(attempt.ended_at) - new Date(attempt.started_at)) / 1000) },
        { name: "Passes", number: true, cell: (attempt) => number(attempt.passes) },
        { name: "Rows", number: true, cell: (attempt) => number(attempt.rows) + (attempt.corrupt_rows ? ` (${number(attempt.corrupt_rows)} corrupt)` : "") },
        { name: "Rejected", number: true, cell: (attempt) => number(attempt.rejected_rows) },
        { name: "Failed files", number: true, cell: (attempt) => number(attempt.failed_files) },
        { name: "Report", class: "break", cell: (attempt) => h("code", {}, attempt.report_key) },
      ], view.attempts, of.attempt ? `${plural(of.attempt, "attempt")} begun; none has left a report.` : "None yet.")),
      card("Its files", table("Those that failed first", [
        { name: "File", heading: true, class: "break", cell: (file) => fileLink(date, file.file_key) },
        { name: "Bytes", number: true, cell: (file) => (file.size_bytes === null ? "" : bytes(file.size_bytes)) },
        { name: "Rows", number: true, cell: (file) => (file.rows === null ? "" : number(file.rows)) },
        { name: "Rejected", number: true, cell: (file) => (file.rejected_rows ? number(file.rejected_rows) : "") },
        { name: "Failure", class: "break", cell: (file) => file.failure ?? "" },
      ], view.files, "Its list of files isn't written yet."), cutNote(view.files_cut)),
    ];
  });
}

const rejectColumns = [
  { name: "File", heading: true, class: "break", cell: (line) => (line.date && line.file_key ? fileLink(line.date, line.file_key) : line.file_key) },
  { name: "Line", number: true, cell: (line) => line.line ?? "" },
  { name: "Reason", cell: (line) => line.reason ?? "" },
  { name: "Text", class: "break", cell: (line) => line.more_rejects ? `and ${number(line.more_rejects)} more of this file` : h("code", {}, (line.raw ?? `base64: ${line.raw_base64}`).slice(0, 300)) },
];

async function rejectedLines(region, date, id) {
  try {
    const { lines, cut } = await ask(`/api/rejected-lines.json?date=${encodeURIComponent(date)}&id=${encodeURIComponent(id)}`);
    show(region, card("Rejected lines", table("The first of them", rejectColumns, lines.map((line) => ({ ...line, date }))), cutNote(cut)));
  } catch (error) {
    show(region, card("Rejected lines", h("p", { class: "soft" }, error.message)));
  }
}

// ---- files

const fileColumns = [
  { name: "File", heading: true, class: "break", cell: (file) => fileLink(file.date, file.file_key) },
  { name: "Date", class: "nowrap", cell: (file) => file.date },
  { name: "State", cell: (file) => [badge(file.state), ["pending", "manifested"].includes(file.state) && h("span", { class: "soft nowrap" }, ` since ${age(file.updated_at ?? file.created_at)}`)] },
  { name: "Bytes", number: true, cell: (file) => bytes(file.size_bytes) },
  { name: "Rows", number: true, cell: (file) => (file.rows === null ? "" : number(file.rows)) },
  { name: "Rejected", number: true, cell: (file) => (file.rejected_rows ? number(file.rejected_rows) : "") },
  { name: "Manifest", class: "break", cell: (file) => file.manifest && manifestLink(file.date, file.manifest) },
  { name: "Reason", class: "break", cell: (file) => file.error ?? "" },
  { name: "Changed", cell: (file) => time(file.updated_at ?? file.created_at) },
];

function files() {
  const wanted = new URLSearchParams(location.search);
  const key = h("input", { type: "search", id: "key", placeholder: "events-0…, or s3://…", autocomplete: "off", value: wanted.get("key") ?? "" });
  const region = h("div");
  const form = h("form", { class: "row card", role: "search" }, h("label", {}, "How its key begins, or its whole key or URI", key), h("button", { class: "main" }, "Search"));
  show(main, h("h1", {}, "Files"), form, region);
  const look = live(() => `/api/files.json?key=${encodeURIComponent(key.value)}`, region, (view) =>
    card("", table("By date, the newest first", fileColumns, view.files, "No file's key begins like that."), unreadableNote(view.unreadable), cutNote(view.cut)), 5000, 15_000);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    history.replaceState(null, "", `/files?${new URLSearchParams({ key: key.value })}`);
    look();
  });
}

/** The story of a file and of each later version of it. */
function file(date, key) {
  const region = h("div");
  document.title = `${key} – Penstock`;
  show(main, h("p", {}, h("a", { href: `/files?key=${encodeURIComponent(key)}` }, "Files that begin like this")), h("h1", { class: "break" }, key), h("p", { class: "lead" }, `of ${date}`), region);
  live(`/api/file.json?date=${encodeURIComponent(date)}&key=${encodeURIComponent(key)}`, region, (story) => story.files.map((version) => fileVersion(version)));
}

const OBJECTS = { there: "it is there, as it was tracked", gone: "it is gone", elsewhere: "it is in another bucket than the pipeline's input" };

/** What an attempt made of a file. */
function attemptOf({ attempt: number, token, won }, results) {
  const result = results.find(([of]) => of === token)?.[1];
  const made = !result ? "ended" : result.failure ? `could not use it: ${result.failure}` : `made ${plural(result.rows, "row")} of it`;
  return `Attempt ${number} ${made}${won ? "" : "; it doesn't count"}.`;
}

function fileVersion({ item, object, manifest, quarantined_as: copy, results, rejects, next }) {
  const state = item.status.split("#")[0];
  const id = manifest?.item.file_key.replace(/^MANIFEST#/, "").replace(/\.json$/, "");
  const fact = (name, value) => (value === null || value === undefined || value === "" ? [] : [h("dt", {}, name), h("dd", {}, value)]);
  const moments = [
    [item.created_at, "It was tracked."],
    item.pending_since !== item.created_at && [item.pending_since, "It became pending again."],
    [item.claimed_at, id && ["It was claimed for ", manifestLink(item.date_prefix, id), "."]],
    [manifest?.item.announced_at, "Its manifest was announced."],
    ...(manifest?.attempts ?? []).map((attempt) => [attempt.ended_at, attemptOf(attempt, results)]),
    ["completed", "failed", "quarantined"].includes(state) && [item.updated_at, `It is ${state}.`],
  ];
  const told = moments.filter((moment) => moment && moment[0] && moment[1]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return [
    item.error_message && h("div", { class: "note unready" }, h("strong", {}, "Why: "), item.error_message),
    h("div", { class: next.is_late ? "note" : "card" }, h("strong", {}, `What comes next: ${next.step}`), next.is_late && " (late)", h("div", { class: "soft" }, next.because)),
    mayAct && ["failed", "quarantined"].includes(state) && h("div", { class: "row" }, redriveFile({ date: item.date_prefix, file_key: item.file_key })),
    h("div", { class: "two" },
      card("What it is", h("dl", { class: "facts" },
        fact("State", badge(state)), fact("Item", `${item.date_prefix}/${item.file_key}`), fact("Size", bytes(item.size_bytes)), fact("Etag", item.etag && h("code", {}, item.etag)),
        fact("Object", [h("code", {}, item.file_path), h("div", {}, object.state === "replaced" ? `it was replaced since, by etag ${object.etag}` : OBJECTS[object.state])]),
        fact("Copy", copy && h("code", {}, copy)),
        fact("Rows", item.rows === undefined ? null : `${number(item.rows)}, and ${plural(item.rejected_rows ?? 0, "rejected line")}`),
        fact("Manifest", id && manifestLink(item.date_prefix, id)),
        results.map(([token, result]) => fact(`Attempt ${token.slice(0, 8)}`, result.failure ? `${result.failure}: ${result.message ?? ""}` : `${plural(result.rows, "row")}, ${number(result.rejected_rows)} rejected`)))),
      card("What happened", h("ol", { class: "story" }, told.map(([at, what]) => h("li", {}, time(at), what))))),
    rejects.length > 0 && card("Rejected lines", table("The first of them", rejectColumns.slice(1).map((column) => ({ ...column, number: false })), rejects)),
  ];
}

// ---- rejects and quarantine

function rejects() {
  const region = h("div");
  show(main, h("h1", {}, "Rejects and quarantine"), h("p", { class: "lead" }, "Lines that were no rows, files that can't be used, and files that failed; each with its reason."), region);
  const columns = (...without) => [
    ...fileColumns.filter((column) => !without.includes(column.name) && column.name !== "State"),
    ...(mayAct ? [{ name: "Action", cell: (file) => redriveFile(file) }] : []),
  ];
  const ofDates = (files, state) => mayAct && h("div", { class: "row" }, [...new Set(files.map((file) => file.date))].sort().reverse().map((date) =>
    redriveButton(`Redrive all of ${date}…`, `Redrive the ${state} files of ${date}`, { date: { date, state } })));
  live("/api/rejects.json", region, (view) => [
    card("Files that failed", table("None of their lines is in an output of a completed manifest", columns("Rows", "Rejected"), view.failed, "None."), ofDates(view.failed, "failed")),
    card("Files in quarantine", table("Copied to the quarantine bucket; the originals stay", columns("Rows", "Rejected", "Manifest"), view.quarantined, "None."), ofDates(view.quarantined, "quarantined")),
    card("Manifests with rejected lines", view.manifests.length ? view.manifests.map((each) => {
      const lines = h("div");
      const details = h("details", { "data-key": `rejects ${each.id}`, ontoggle: () => details.open && !lines.firstChild && rejectedLines(lines, each.date, each.id) },
        h("summary", {}, `${each.date} · ${each.id}: ${plural(each.rejected_rows, "rejected line")} beside ${plural(each.rows, "row")}`), lines);
      return details;
    }) : h("p", { class: "soft" }, "None.")), unreadableNote(view.unreadable), cutNote(view.cut),
  ], 5000);
}

// ---- dead letters, and actions

/** Does something that changes the pipeline. */
const act = (path, body, token) => ask(path, { method: "POST", headers: { "content-type": "application/json", authorization: `Bearer ${token}` }, body: JSON.stringify(body) });

/** Where the token goes: it is kept for this tab alone. */
const tokenField = () => h("input", { type: "password", id: "token", autocomplete: "off", value: sessionStorage.getItem("token") ?? "", oninput: (event) => sessionStorage.setItem("token", event.target.value) });

/** Why there are no buttons, where there are none. */
const onlyShows = () => card("Actions", h("p", { class: "soft" }, "This process only shows. Started with ", h("code", {}, "--allow-actions"), " it can act from here, for whoever has the token."));

const OUTCOMES = { would: "would go", redriven: "redriven", left: "left as it is" };

/** Shows what a redrive would do, and does it when told to: as `penstock redrive` and its `--yes`. */
function redrive(title, selection) {
  const [token, steps, said] = [tokenField(), h("div"), h("p", { role: "status" })];
  const goes = h("button", { type: "button", class: "main", disabled: true, onclick: () => send(true) }, "Redrive");
  const looks = h("button", { type: "button", onclick: () => send(false) }, "Show what it would do");
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() },
    h("h2", { id: "dialog-title" }, title),
    h("div", { class: "row" }, h("label", {}, "Token", token), looks), steps, said,
    h("div", { class: "row" }, goes, h("button", { type: "button", onclick: () => dialog.close() }, "Close")));
  const send = async (isMeant) => {
    goes.disabled = true;
    try {
      const all = await act("/api/redrive", { selection, act: isMeant }, token.value);
      const count = (outcome) => all.filter((step) => step.outcome === outcome).length;
      show(steps, table("What becomes of each", [
        { name: "What", heading: true, class: "break", cell: (step) => step.what },
        { name: "Outcome", cell: (step) => [OUTCOMES[step.outcome], h("div", { class: "soft" }, step.because)] },
        { name: "It was", class: "break soft", cell: (step) => step.reason },
      ], all, "Nothing to redrive."));
      said.textContent = isMeant ? `${number(count("redriven"))} redriven, ${number(count("left"))} left as they are.` : `${number(count("would"))} would be redriven, ${number(count("left"))} left as they are. Nothing was done yet.`;
      goes.disabled = isMeant || count("would") === 0;
    } catch (error) {
      said.textContent = `Not done: ${error.message}.`;
    }
  };
  document.body.append(dialog);
  dialog.showModal();
  if (token.value) send(false);
  else token.focus();
}

const redriveButton = (label, title, selection) => h("button", { type: "button", "data-key": `redrive ${title}`, onclick: () => redrive(title, selection) }, label);
const redriveFile = ({ date, file_key: key }) => redriveButton("Redrive…", `Redrive ${date}/${key}`, { files: [{ date, file_key: key }] });

/** Closes manifests of all that is pending. */
function flushCard() {
  if (!mayAct) return onlyShows();
  const [token, said] = [tokenField(), h("p", { role: "status" })];
  const flush = async () => {
    said.textContent = "Asked; waiting for the fold.";
    try {
      const { manifests, waiting } = await act("/api/flush", {}, token.value);
      const closed = Object.values(manifests).flat().length;
      said.textContent = `${plural(closed, "manifest")} closed.${waiting.length ? ` Not answered yet: ${waiting.join(", ")}.` : ""}`;
    } catch (error) {
      said.textContent = `Not done: ${error.message}.`;
    }
  };
  return card("Actions", h("div", { class: "row" }, h("label", {}, "Token", token), h("button", { type: "button", class: "main", onclick: flush }, "Flush all dates now")), said);
}

function deadLetters() {
  const region = h("div");
  show(main, h("h1", {}, "Dead letters"), h("p", { class: "lead" }, "Messages and changes that were given up after their last try. Mend the cause first; then send them back."), region, mayAct ? null : onlyShows());
  live("/api/dead-letters.json", region, ({ queues, note }) => [
    note && h("div", { class: "note" }, note),
    queues.map((queue) => card(queue.name,
      h("p", { class: "soft" }, queue.messages ? plural(queue.messages, "message") : "It is empty."),
      queue.shown.map((message) => h("details", { "data-key": `message ${message.id}` },
        h("summary", {}, time(message.sent_at), ` from ${message.source ?? "a change stream"}, received ${plural(message.receive_count, "time")}`, message.reason && h("span", { class: "break" }, `: ${message.reason}`)),
        message.about && h("p", {}, h("a", { href: message.about }, "What it tells of")), h("pre", { tabindex: "0" }, message.body))),
      mayAct && queue.messages > 0 && h("div", { class: "row" }, redriveButton(`Send back ${queue.name}…`, `Send the dead letters of ${queue.name} back`, { letters: { queue: queue.name } })))),
  ]);
}

// ---- configuration

function config() {
  const region = h("div");
  show(main, h("h1", {}, "Configuration"), h("p", { class: "lead" }, "As it runs. What the file doesn't say is marked as default."), region);
  live("/api/config.json", region, (view) => [
    card("", h("dl", { class: "facts" }, h("dt", {}, "File"), h("dd", {}, view.file), h("dt", {}, "SHA-256"), h("dd", {}, h("code", {}, view.digest)))),
    view.warnings.map((warning) => h("div", { class: "note" }, warning)),
    h("div", { class: "two" }, view.operators.map((operator) => card(`${operator.id} (${operator.type_name})`, table(`Reads ${operator.inputs.join(", ") || "no other operator"}`, [
      { name: "Option", heading: true, cell: (option) => h("code", {}, option.name) },
      { name: "Value", class: "break", cell: (option) => h("code", {}, typeof option.value === "string" ? option.value : JSON.stringify(option.value)) },
      { name: "", cell: (option) => (option.is_default ? h("span", { class: "badge" }, "default") : null) },
    ], operator.options)))),
    card("Resources", h("details", { "data-key": "resources" }, h("summary", {}, "Buckets, queues, tables and buses"), h("pre", { tabindex: "0" }, JSON.stringify(view.resources, null, 2)))),
  ], 30_000);
}

// ---- the frame

const theme = byId("theme");
const themes = ["auto", "light", "dark"];
const setTheme = (name) => {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.setAttribute("aria-label", `Theme: ${name}. Change it`);
  localStorage.setItem("theme", name);
};
setTheme(themes.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto");
theme.addEventListener("click", () => setTheme(themes[(themes.indexOf(localStorage.getItem("theme")) + 1) % themes.length]));

const parts = location.pathname.split("/").filter(Boolean).map(decodeURIComponent);
const page = `/${parts[0] ?? ""}`;
for (const link of document.querySelectorAll("nav a")) {
  if (link.getAttribute("href") === page) {
    link.setAttribute("aria-current", "page");
    document.title = `${link.textContent} – Penstock`;
    // Not scrollIntoView: that would also move where the keyboard starts.
    link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.clientWidth / 2;
  }
}
if (page !== "/") {
  const look = async () => {
    try {
      showProcess(await ask("/api/process.json"));
    } catch {
      byId("ready").textContent = "no answer";
      byId("ready").className = "badge bad";
    }
  };
  // First, so that pages know whether they may act.
  await look();
  const loop = async () => {
    if (!document.hidden) await look();
    setTimeout(loop, 5000);
  };
  setTimeout(loop, 5000);
}
if (page === "/manifests" && parts.length === 3) manifest(parts[1], parts[2]);
else if (page === "/files" && parts.length >= 3) file(parts[1], parts.slice(2).join("/"));
else ({ "/": overview, "/shards": shards, "/pending": pending, "/manifests": manifests, "/files": files, "/rejects": rejects, "/dead-letters": deadLetters, "/config": config })[page]?.();
