"use strict";

/* The live page. It asks for an API key once, keeps it in sessionStorage (this tab, until it is closed), and
   reads the API every two seconds. Whatever comes from the API becomes text, never markup. */

const EVERY_MS = 2000;
const SLOWEST_MS = 30000;
const STORED = "medic-key";

const GOOD = new Set(["up", "completed", "skipped"]);
const BAD = new Set(["down", "failed", "in_doubt"]);
const CALM = new Set(["new", "paused", "pending", "cancelled"]);

const byId = (id) => document.getElementById(id);
let timer = null;
let round = 0;
let failures = 0;

class Refused extends Error {
  constructor(status, text, wait) {
    super(text);
    this.status = status;
    this.wait = wait;
  }
}

async function read(path, key) {
  const answer = await fetch(path, {
    headers: { Authorization: `Bearer ${key}`, Accept: "application/json" },
    cache: "no-store",
    signal: AbortSignal.timeout(10000),
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const wait = Number(answer.headers.get("Retry-After")) || 0;
    throw new Refused(answer.status, body.detail || `Medic answered ${answer.status}.`, wait);
  }
  return body;
}

function tone(word) {
  if (GOOD.has(word)) return "good";
  if (BAD.has(word)) return "bad";
  return CALM.has(word) ? "" : "warn";
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function ago(time, now) {
  if (!time) return "never";
  const seconds = Math.round((now - Date.parse(time)) / 1000);
  const size = Math.abs(seconds);
  const [count, unit] =
    size < 60 ? [size, "s"] : size < 3600 ? [Math.floor(size / 60), "min"]
      : size < 172800 ? [Math.floor(size / 3600), "h"] : [Math.floor(size / 86400), "days"];
  return seconds < 0 ? `in ${count} ${unit}` : `${count} ${unit} ago`;
}

const words = (text) => String(text).replaceAll("_", " ");

function schedule(service) {
  const plan = service.every ? `every ${service.every}`
    : service.cron ? `cron ${service.cron} (${service.timezone})`
      : service.on_calendar ? `${service.on_calendar} (${service.timezone})`
        : `${service.at_least} within ${service.within}`;
  return `${plan}, grace ${service.grace}`;
}

function serviceCard(service, now) {
  const card = element("li", undefined, tone(service.status));
  card.append(element("h3", service.name), element("span", service.status, "word"));
  card.append(element("p", `Last success ${ago(service.last_success_at, now)}`));
  card.append(element("p", schedule(service)));
  return card;
}

function alertCard(alert, now) {
  const card = element("li", undefined, "bad");
  card.append(element("h3", alert.service), element("span", alert.reasons.map(words).join(", "), "word"));
  card.append(element("p", `${alert.priority}, opened ${ago(alert.opened_at, now)}`));
  if (alert.acknowledged_at) card.append(element("p", `Acknowledged by ${alert.acknowledged_by}`));
  return card;
}

function executionCard(execution, now) {
  const card = element("li", undefined, tone(execution.state));
  const about = execution.service ? `${execution.playbook} on ${execution.service}` : execution.playbook;
  const state = execution.waiting_for
    ? `waiting for ${words(execution.waiting_for)}` : words(execution.state);
  card.append(element("h3", about), element("span", state, "word"));
  card.append(element("p", `Started ${ago(execution.created_at, now)}`));
  if (execution.error && execution.error.message) card.append(element("p", String(execution.error.message)));
  const steps = element("ol", undefined, "steps");
  for (const step of execution.steps) {
    const line = element("li", `${step.name} (${step.type}) `, tone(step.state));
    line.append(element("span", words(step.state), "word own"));
    steps.append(line);
  }
  card.append(steps);
  return card;
}

/* Only what changed is drawn anew, so that a selection stays where it is. */
function fill(id, items, card, now) {
  const cards = items.map((item) => card(item, now));
  const list = byId(id);
  cards.forEach((made, at) => {
    const shown = list.children[at];
    if (!shown) list.append(made);
    else if (!shown.isEqualNode(made)) shown.replaceWith(made);
  });
  while (list.children.length > cards.length) list.lastElementChild.remove();
  byId(`${id}-count`).textContent = items.length ? `(${items.length})` : "";
}

function show(services, alerts, executions, stop, now) {
  fill("services", services.items, serviceCard, now);
  fill("alerts", alerts.items, alertCard, now);
  fill("executions", executions.items, executionCard, now);
  byId("empty").hidden = services.items.length > 0;
  byId("services-more").hidden = services.next === null;
  byId("alerts-none").hidden = alerts.items.length > 0;
  byId("executions-none").hidden = executions.items.length > 0;
  byId("stop").hidden = !stop.stopped;
  setText("stop", stop.stopped ? `The stop switch is on: ${stop.reason} (${stop.stopped_by})` : "");
}

/* A live region speaks at each change of its text: only a real one counts. */
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

async function refresh() {
  const key = sessionStorage.getItem(STORED);
  const mine = ++round;
  if (!key) {
    ask("");
    return;
  }
  let wait = EVERY_MS;
  try {
    const [services, alerts, executions, stop] = await Promise.all([
      read("/v1/services?limit=250", key),
      read("/v1/alerts?active=true&limit=100", key),
      read("/v1/executions?limit=25", key),
      read("/v1/stop", key),
    ]);
    if (mine !== round) return;
    failures = 0;
    byId("key-form").hidden = true;
    byId("live").hidden = false;
    byId("forget").hidden = false;
    show(services, alerts, executions, stop, Date.now());
    setText("state", "Live");
  } catch (error) {
    if (mine !== round) return;
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
      sessionStorage.removeItem(STORED);
      ask(error.message);
      return;
    }
    failures += 1;
    wait = Math.min(SLOWEST_MS, EVERY_MS * 2 ** Math.min(failures, 4));
    if (error instanceof Refused) wait = Math.max(wait, error.wait * 1000);
    const why = error instanceof Refused ? error.message : "Medic does not answer.";
    setText("state", `${why} What you see may be old.`);
  }
  later(wait);
}

function later(wait) {
  clearTimeout(timer);
  timer = setTimeout(refresh, wait);
}

function ask(why) {
  clearTimeout(timer);
  byId("live").hidden = true;
  byId("forget").hidden = true;
  byId("key-form").hidden = false;
  byId("key-error").textContent = why;
  setText("state", "");
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(STORED, byId("key").value.trim());
  byId("key").value = "";
  byId("key-error").textContent = "";
  refresh();
});

byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(STORED);
  round += 1;
  for (const id of ["services", "alerts", "executions"]) byId(id).replaceChildren();
  ask("");
});

byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("first").textContent);
    byId("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("first"));
  }
});

/* A hidden tab asks nothing; it looks at once when it is seen again. */
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    round += 1;
  } else {
    refresh();
  }
});

byId("first").textContent = [
  `curl -X POST '${location.origin}/v1/heartbeats?create=1&every=5m' \\`,
  "  -H \"Authorization: Bearer $MEDIC_API_KEY\" \\",
  "  -H 'Content-Type: application/json' \\",
  "  -d '{\"service\": \"my-first-service\"}'",
].join("\n");

refresh();
