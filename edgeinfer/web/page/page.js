// Asks the node once a second how it is, and shows it. Nothing is asked for, and no picture sent, while the page is hidden.
import { Chart } from "./chart.js";

const EVERY_MS = 1000;
// A browser opens six connections to a node, and a live picture takes one.
const LIVE_MAX = 4;
const STALE_S = 3;
const KEPT_SECONDS = 300;
const SHOWN_EVENTS = 60;
const SHOWN_LINES = 200;

const $ = (id) => document.getElementById(id);
const cards = new Map();
let lastEvent = 0;
let lastLine = 0;
let lastSecond = 0;
let begun = null;
let silentSince = null;

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const say = (value) => number.format(value);

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function bytes(count) {
  if (count < 1e3) return `${count} B`;
  if (count < 1e6) return `${say(count / 1e3)} kB`;
  return count < 1e9 ? `${say(count / 1e6)} MB` : `${say(count / 1e9)} GB`;
}

// ok, warn or bad, by which it is coloured; the word beside it says the same.
function grade(state) {
  const word = state.split(":")[0];
  if (word === "ok" || word === "in use" || word === "online") return "ok";
  if (word === "down" || word === "failed" || word === "unreachable") return "bad";
  return ["degraded", "paused", "starting", "lost"].includes(word) ? "warn" : "";
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// What stands there already stays, so that a reader can mark and copy it.
function rebuild(place, key, children) {
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...children());
}

function facts(list, rows) {
  const shown = rows.filter((row) => row[1] !== null && row[1] !== undefined && row[1] !== "");
  rebuild(list, JSON.stringify(shown.map((row) => row[0])),
    () => shown.flatMap(([name]) => [make("dt", { textContent: name }), make("dd")]));
  shown.forEach(([, value, mood = ""], index) => {
    const place = list.children[2 * index + 1];
    setText(place, String(value));
    place.className = mood;
  });
}

// One pipeline.
class Card {
  constructor(name) {
    this.name = name;
    this.seconds = [];
    this.isInView = false;
    this.wantsLive = null;
    this.picture = make("img", { alt: `Live picture of ${name}`, className: "live" });
    this.badge = make("span", { className: "badge" });
    this.seen = make("div", { className: "seen" });
    this.watch = make("button", { className: "button watch", textContent: "Watch", hidden: true });
    this.watch.addEventListener("click", () => { this.wantsLive = true; showLive(); });
    this.frame = make("div", { className: "frame" }, this.picture, this.badge, this.seen, this.watch);
    this.state = make("span", { className: "pill" });
    this.device = make("span", { className: "quiet device" });
    this.reason = make("p", { className: "reason", hidden: true });
    this.stats = ["Results", "Age", "Model", "Total"].map((title) => {
      const value = make("b");
      const unit = make("small");
      return { value, unit, box: make("div", { className: "stat" }, make("span", { textContent: title }), make("p", {}, value, unit)) };
    });
    this.rate = new Chart({ title: "Results per second", unit: "fps", of: (each) => each[1] });
    this.age = new Chart({
      title: "Age, capture to result", unit: "ms",
      of: (each) => (each[1] ? each[2] : null), extreme: (each) => (each[1] ? each[3] : null),
    });
    this.facts = make("dl", { className: "facts" });
    this.drops = make("dl", { className: "facts" });
    this.ladder = make("ol", { className: "ladder" });
    this.element = make("article", { className: "card pipeline" },
      this.frame,
      make("div", { className: "head" }, make("h2", { textContent: name }), this.state, this.device),
      this.reason,
      make("div", { className: "stats" }, ...this.stats.map((each) => each.box)),
      this.controls(),
      this.rate.element, this.age.element,
      make("details", {},
        make("summary", { textContent: "Source, devices, drops" }),
        this.facts,
        make("h3", { textContent: "Devices, the best first" }), this.ladder,
        make("h3", { textContent: "Inputs and outputs" }), this.drops),
    );
    this.element.dataset.pipeline = name;
    visible.observe(this.frame);
    cardOf.set(this.frame, this);
  }

  controls() {
    this.pause = make("button", { className: "button", textContent: "Pause" });
    this.pause.addEventListener("click", () => act(this.name, this.pause.dataset.action));
    this.threshold = make("input", { type: "range", min: 0, max: 1, step: 0.01 });
    this.threshold.setAttribute("aria-label", `Lowest score of ${this.name}`);
    this.score = make("output");
    this.threshold.addEventListener("input", () => { this.isSliding = true; this.sayScore(); });
    this.threshold.addEventListener("change", async () => {
      await act(this.name, "threshold", { score_min: Number(this.threshold.value) });
      this.isSliding = false;
    });
    this.actions = make("div", { className: "controls", hidden: true },
      this.pause, make("label", {}, "Lowest score", this.threshold, this.score));
    return this.actions;
  }

  sayScore() {
    setText(this.score, Number(this.threshold.value).toFixed(2));
  }

  show(state, mayAct) {
    const whole = state.error ? `failed: ${state.error}` : state.state;
    const [word, ...rest] = whole.split(": ");
    setText(this.state, word);
    this.state.className = `pill ${grade(word)}`;
    setText(this.device, state.device);
    setText(this.reason, rest.join(": "));
    this.reason.hidden = !rest.length;
    this.reason.className = `reason ${grade(word)}`;
    this.showStats(state);
    this.showPicture(state, word);
    this.showFacts(state);
    this.actions.hidden = !mayAct || word === "stopped" || word === "failed";
    setText(this.pause, word === "paused" ? "Resume" : "Pause");
    this.pause.dataset.action = word === "paused" ? "resume" : "pause";
    if (!this.isSliding) { this.threshold.value = state.score_min; this.sayScore(); }
  }

  showStats(state) {
    const counts = state.counts;
    const values = [
      [say(state.fps), "fps"],
      [state.age_ms === null ? "–" : say(state.age_ms), "ms"],
      [state.infer_ms === null ? "–" : say(state.infer_ms), "ms"],
      [new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(counts.published ?? 0), ""],
    ];
    values.forEach(([value, unit], index) => {
      setText(this.stats[index].value, value);
      setText(this.stats[index].unit, unit);
    });
  }

  showPicture(state, word) {
    const isStale = state.since_last_s === null || state.since_last_s > Math.max(STALE_S, state.fps ? 3 / state.fps : 0);
    const isLive = Boolean(this.picture.getAttribute("src"));
    this.frame.classList.toggle("stale", isStale || !isLive);
    let text = "live";
    if (word === "paused" || word === "stopped" || word === "failed" || word === "down") text = word;
    else if (isAway(state.state)) text = "camera away";
    else if (state.since_last_s === null) text = "no result yet";
    else if (isStale) text = `last result ${duration(state.since_last_s)} ago`;
    else if (!isLive) text = "not watched";
    setText(this.badge, text);
    this.badge.className = `badge ${text === "live" ? "on" : ""}`;
    this.watch.hidden = isLive || word === "stopped" || word === "failed";
    rebuild(this.seen, JSON.stringify(state.seen), () => state.seen.map((each) =>
      make("span", {}, make("b", { textContent: each.label }), ` ${each.count ?? each.score.toFixed(2)}`)));
  }

  showFacts(state) {
    facts(this.facts, [["Source", state.source], ["Task", state.task], ["Lowest score", state.score_min]]);
    rebuild(this.ladder, JSON.stringify(state.ladder), () => Object.entries(state.ladder).map(([device, word]) =>
      make("li", { className: grade(word) }, make("code", { textContent: device }), ` ${word}`)));
    const counts = state.counts;
    const named = [["captured", "Captured"], ["inferred", "Inferred"], ["gated", "Reused by the gate"]]
      .map(([key, name]) => [name, counts[key] === undefined ? null : say(counts[key])]);
    const others = Object.entries(counts).filter(([key]) => /^(dropped|failed|source|device)\./.test(key)).sort()
      .map(([key, count]) => [key.replace(/^dropped\./, "dropped: ").replace(/\.sink\./, " by "), say(count),
        key.startsWith("failed") || key.endsWith(".lost") || key.endsWith(".hung") ? "warn" : ""]);
    const written = Object.entries(counts).filter(([key]) => key.startsWith("written.sink.") && key !== "written.sink.web:")
      .map(([key, count]) => [`to ${key.slice(13)}`, say(count)]);
    facts(this.drops, [...named, ...written, ...others]);
  }

  add(seconds) {
    this.seconds = [...this.seconds, ...seconds].slice(-KEPT_SECONDS);
    this.rate.draw(this.seconds);
    this.age.draw(this.seconds);
  }

  setLive(isLive) {
    const has = this.picture.hasAttribute("src");
    if (isLive && !has) this.picture.src = `/live/${encodeURIComponent(this.name)}.mjpg?${Date.now()}`;
    if (!isLive && has) this.picture.removeAttribute("src");
  }
}

const isAway = (state) => /source lost|no source yet/.test(state);
const cardOf = new WeakMap();
const visible = new IntersectionObserver((entries) => {
  for (const entry of entries) cardOf.get(entry.target).isInView = entry.isIntersecting;
  showLive();
}, { rootMargin: "120px" });

// The first four in view are live; what somebody asked for comes before all others.
function showLive() {
  const mayShow = !document.hidden && silentSince === null;
  const wanted = [...cards.values()].filter((each) => each.isInView)
    .sort((one, other) => Number(other.wantsLive ?? 0) - Number(one.wantsLive ?? 0));
  const live = new Set(mayShow ? wanted.slice(0, LIVE_MAX) : []);
  for (const card of cards.values()) card.setLive(live.has(card));
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function act(name, action, body = {}) {
  const path = `/api/pipelines/${encodeURIComponent(name)}/${action}`;
  const answer = await fetch(path, { method: "POST", body: JSON.stringify(body) });
  if (!answer.ok) trouble([(await answer.json()).error], "warn");
  await look();
}

// Of a pipeline that does not run there is nothing to look at but why.
function troubleCard({ name, reason }) {
  const card = make("article", { className: "card pipeline" },
    make("div", { className: "head" }, make("h2", { textContent: name }), make("span", { className: "pill bad", textContent: "failed" })),
    make("p", { className: "reason bad", textContent: reason }),
    make("p", { className: "quiet", textContent: "It does not run, and is tried again." }));
  card.dataset.trouble = name;
  return card;
}

function trouble(reasons, mood) {
  const place = $("troubles");
  place.hidden = !reasons.length;
  place.className = `troubles ${mood}`;
  rebuild(place, reasons.join("\n"), () => [make("ul", {}, ...reasons.map((each) => make("li", { textContent: each })))]);
}

function showPipelines(state) {
  const names = state.pipelines.map((each) => each.name);
  for (const [name, card] of cards) {
    if (names.includes(name)) continue;
    card.setLive(false);
    visible.unobserve(card.frame);
    card.element.remove();
    cards.delete(name);
  }
  for (const each of state.pipelines) {
    if (!cards.has(each.name)) {
      cards.set(each.name, new Card(each.name));
      $("pipelines").append(cards.get(each.name).element);
    }
    cards.get(each.name).show(each, state.may_act);
  }
  rebuild($("waiting"), JSON.stringify(state.troubles), () => state.troubles.map(troubleCard));
  $("pipelines").classList.toggle("one", names.length === 1 && !state.troubles.length);
}

function showBoard({ board, machine, care, uptime_s: uptime }) {
  const degrees = Object.entries(machine.temperatures_c).map(([sensor, celsius]) =>
    [`Temperature ${sensor}`, `${say(celsius)} °C`, celsius >= 80 ? "bad" : celsius >= 70 ? "warn" : ""]);
  facts($("board"), [
    ["Board", board.model === "unknown" ? board.profile : board.model],
    ["Processor", `${board.cpu}, ${board.cores} cores`],
    ["This process", `${say(machine.cpu_percent)} % of a core`],
    ["Its memory", bytes(machine.memory_bytes)],
    ["Memory free", machine.memory_available_bytes === null ? null
      : `${bytes(machine.memory_available_bytes)} of ${bytes(board.memory_bytes ?? 0)}`],
    ["Load of the board", machine.load.toFixed(2)],
    ...degrees,
    ["Slowed down, for", care, "warn"],
    ["Up", duration(uptime)],
  ]);
}

function showUplink(uplink) {
  $("no-uplink").hidden = uplink !== null;
  $("uplink").hidden = uplink === null;
  if (uplink === null) return;
  facts($("uplink"), [
    ["Broker", uplink.is_connected ? "connected" : "away", uplink.is_connected ? "ok" : "warn"],
    ["State", uplink.state, grade(uplink.state)],
    ["Accepted", say(uplink.accepted)],
    ["Delivered", say(uplink.delivered)],
    ["Waiting in the spool", `${say(uplink.depth)} (${bytes(uplink.bytes)})`],
    ["Oldest waits since", uplink.depth ? duration(uplink.oldest_s) : null],
    ["Reconnected", uplink.reconnects ? say(uplink.reconnects) : null],
    ...Object.entries(uplink.dropped).map(([reason, count]) => [`Dropped: ${reason}`, say(count), "warn"]),
  ]);
}

// Where an update of this slot stands.
function slotLine({ slot, state, release, candidate, attempts, reason, shadow }) {
  const parts = [release === undefined ? "no model" : `release ${release}`, state.replace("_", " ")];
  if (candidate !== undefined) parts.push(`candidate ${candidate}, ${attempts} more attempts`);
  if (shadow && shadow.agreement !== null) {
    parts.push(`agrees in ${say(100 * shadow.agreement)} % of ${shadow.frames} answers`);
  }
  const mood = state === "rejected" || state === "rolled_back" ? "bad" : candidate === undefined ? "" : "warn";
  return make("p", { className: `slot ${mood}` }, make("b", { textContent: slot }),
    ` ${parts.join(", ")}${reason ? `: ${reason}` : ""}`);
}

function showModels(pipelines, slots) {
  const models = new Map();
  for (const { name, model, task } of pipelines) {
    const known = models.get(model.sha256) ?? { model, task, users: [] };
    known.users.push(name);
    models.set(model.sha256, known);
  }
  const shown = [...models.values()];
  rebuild($("models"), JSON.stringify([shown, slots]), () => [...shown.map(({ model, task, users }) =>
    make("div", { className: "model" },
      make("p", {}, make("b", { textContent: model.name }), ` version ${model.version || "–"}, ${task}`),
      make("p", { className: "quiet" }, `used by ${users.join(", ")} · sha256 `,
        make("code", { textContent: model.sha256.slice(0, 12), title: model.sha256 })))), ...slots.map(slotLine)]);
}

function wordsOf({ kind, label, count, before, previous, rule, track, direction, end }) {
  if (rule) {
    const who = [label, track === undefined ? "" : `#${track}`, count === undefined ? "" : `× ${count}`].filter(Boolean).join(" ");
    const lasts = ["dwell", "occupancy", "label", "anomaly", "value"].includes(kind);
    return `${rule}: ${[who, lasts ? (end ? "over" : "begins") : kind, direction].filter(Boolean).join(" ")}`;
  }
  const name = label || "nothing";
  if (kind === "appeared") return `${count} × ${name} appeared`;
  if (kind === "gone") return `${name} gone`;
  if (kind === "count") return `${name}: ${before} → ${count}`;
  return `${previous || "nothing"} → ${name}`;
}

function timeOf(rfc3339) {
  return new Date(rfc3339).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

function eventRow({ number: id, event, has_picture: hasPicture }) {
  const words = wordsOf(event);
  const time = make("time", { dateTime: event.occurred_at, textContent: timeOf(event.occurred_at), title: event.occurred_at });
  const thumb = make("div", { className: "thumb" });
  if (hasPicture) {
    const picture = make("img", { src: `/events/${id}.jpg`, alt: words, loading: "lazy" });
    picture.addEventListener("error", () => picture.parentElement?.replaceChildren());
    const open = make("button", { title: "Show the picture" }, picture);
    open.addEventListener("click", () => enlarge(picture.src, `${event.pipeline}: ${words}, ${timeOf(event.occurred_at)}`));
    thumb.append(open);
  }
  return make("li", { className: event.kind }, thumb,
    make("div", {}, make("p", { textContent: words }), make("p", { className: "quiet" }, `${event.pipeline} · `, time)));
}

function enlarge(source, words) {
  const dialog = $("viewer");
  dialog.querySelector("img").src = source;
  dialog.querySelector("img").alt = words;
  dialog.querySelector("p").textContent = words;
  dialog.showModal();
}

async function showEvents(last) {
  if (last === lastEvent) return;
  const events = await ask(`/api/events?after=${lastEvent}`);
  $("events").prepend(...events.map(eventRow).reverse());
  while ($("events").children.length > SHOWN_EVENTS) $("events").lastElementChild.remove();
  $("no-events").hidden = true;
  lastEvent = last;
}

async function showLog(last) {
  if (last === lastLine) return;
  const lines = await ask(`/api/log?after=${lastLine}`);
  const place = $("log");
  const isAtEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 30;
  place.append(...lines.map((line) => make("li", { className: line.level },
    make("time", { dateTime: line.at, textContent: timeOf(line.at) }),
    make("b", { textContent: line.level === "info" ? "" : line.level }), ` ${line.message}`)));
  while (place.children.length > SHOWN_LINES) place.firstElementChild.remove();
  if (isAtEnd) place.scrollTop = place.scrollHeight;
  lastLine = last;
}

async function showHistory() {
  const history = await ask(`/api/history?after=${lastSecond}`);
  for (const [name, seconds] of Object.entries(history)) cards.get(name)?.add(seconds);
  lastSecond = Math.max(lastSecond, ...Object.values(history).flat().map((each) => each[0]));
}

// A node that began anew numbers everything anew.
function forgetAnotherRun(state) {
  const began = Date.parse(state.at) - state.uptime_s * 1000;
  if (begun !== null && Math.abs(began - begun) > 60_000 && state.last_event < lastEvent + 1 && state.uptime_s < 60) location.reload();
  begun = began;
}

function show(state) {
  forgetAnotherRun(state);
  setText($("node"), state.node);
  document.title = `${state.health.condition === "ok" ? "" : "⚠ "}${state.node} · edgeinfer`;
  const board = state.board.model === "unknown" ? state.board.architecture : state.board.model;
  setText($("about"), `${board} · edgeinfer ${state.version} · up ${duration(state.uptime_s)}`);
  const word = { ok: "all is well" }[state.health.condition] ?? state.health.condition;
  setText($("condition"), word);
  $("condition").className = `pill ${grade(state.health.condition)}`;
  $("sign-in").hidden = state.may_act || !state.may_sign_in;
  $("sign-out").hidden = !state.may_act;
  trouble(state.health.reasons, state.health.condition === "down" ? "bad" : "warn");
  showPipelines(state);
  showBoard(state);
  showUplink(state.uplink);
  showModels(state.pipelines, state.models);
}

async function look() {
  try {
    const state = await ask("/api/state");
    const wasSilent = silentSince !== null;
    silentSince = null;
    show(state);
    if (wasSilent) for (const card of cards.values()) card.setLive(false);
    showLive();
    await Promise.all([showHistory(), showEvents(state.last_event), showLog(state.last_line)]);
  } catch {
    silentSince = silentSince ?? Date.now();
    const seconds = (Date.now() - silentSince) / 1000;
    setText($("condition"), "unreachable");
    $("condition").className = "pill bad";
    trouble([`No answer from the node for ${duration(seconds)}; what is shown below is from before.`], "bad");
    showLive();
  }
}

$("sign-out").addEventListener("click", async () => {
  await fetch("/logout", { method: "POST" });
  location.assign("/");
});

document.addEventListener("visibilitychange", showLive);

async function forEver() {
  for (;;) {
    const begin = performance.now();
    if (!document.hidden) await look();
    await new Promise((resolve) => setTimeout(resolve, Math.max(100, EVERY_MS - (performance.now() - begin))));
  }
}
forEver();
