// Keys, dialogs, heartbeat, and what is remembered on this machine. Without this file the forms still work.
"use strict";

const HEARTBEAT_SECONDS = 60;
let ranking = null;

const page = () => document.getElementById("page");
const one = (selector) => document.querySelector(selector);
const say = (text) => { document.getElementById("status").textContent = text; };
const remembered = (name) => { try { return localStorage.getItem(`alignkit-${name}`); } catch { return null; } };
const remember = (name, value) => { try { localStorage.setItem(`alignkit-${name}`, value); } catch { /* private window */ } };

// After each page that was put in.
function begin() {
  document.documentElement.classList.add("scripted");
  const box = document.getElementById("ranking");
  ranking = box ? new Ranking(box) : null;
  const plain = document.getElementById("plain-text"), keys = document.getElementById("keys-on");
  if (plain) plain.checked = remembered("plain") === "yes";
  if (keys) keys.checked = remembered("keys") !== "no";
  untouchedRevision();
}

function arrived() {
  const heading = one("#page h1");
  const tell = one("#page .problem:not([hidden])") || one("#page .note") || document.getElementById("progress-text");
  say(tell ? tell.textContent.trim() : heading ? heading.textContent.trim() : "");
  heading?.focus({ preventScroll: true });
}

// The copy of the original is only sent once somebody has opened it to work on it.
function untouchedRevision() {
  const details = document.getElementById("revision-details"), field = document.getElementById("revision");
  if (!details) return;
  field.disabled = !details.open;
  // `toggle` would come too late for who goes on with Tab at once; at the click `open` is still what it was
  details.querySelector("summary").addEventListener("click", () => { field.disabled = details.open; });
}

function problem(text) {
  const box = document.getElementById("problem");
  box.textContent = text;
  box.hidden = !text;
}

function press(id) {
  const button = document.getElementById(id);
  if (button && !button.disabled) button.click();
}

function openDialog(id) { document.getElementById(id)?.showModal(); }

// What is still missing is said here, without asking the server.
document.addEventListener("submit", (event) => {
  if (event.target.id !== "answer") return;
  if (event.submitter?.id === "flag" && !one("#flag-dialog").open) {
    event.preventDefault();
    event.stopImmediatePropagation();
    openDialog("flag-dialog");
    return;
  }
  if (event.submitter && event.submitter.value !== "submit") return;
  const text = missing();
  problem(text);
  if (text) { event.preventDefault(); event.stopImmediatePropagation(); }
}, true);

function missing() {
  const form = page().dataset.form;
  if (form === "ranking") return ranking.complete ? "" : `Not ranked yet: ${ranking.missing.join(", ")}.`;
  if (form === "critique") return ""; // an empty critique with a better version is one
  if (one("#answer .choices input:checked")) return "";
  return { pairwise: "Choose the better answer, or the tie.", rating: "Choose a value.", binary: "Choose good or bad." }[form];
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "help-open") openDialog("help");
  else if (button.id === "flag-cancel") one("#flag-dialog").close();
  else if (button.classList.contains("copy")) copy(button);
});

async function copy(button) {
  const field = button.parentElement.querySelector("input");
  field.select();
  try { await navigator.clipboard.writeText(field.value); } catch { document.execCommand("copy"); }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

document.addEventListener("change", (event) => {
  if (event.target.id === "plain-text") remember("plain", event.target.checked ? "yes" : "no");
  else if (event.target.id === "keys-on") remember("keys", event.target.checked ? "yes" : "no");
  if (event.target.closest(".choices")) problem("");
});

// The focus goes back to the button that opened it, where Enter would open it again instead of submitting.
document.addEventListener("close", () => one("#page h1")?.focus({ preventScroll: true }), true);

document.addEventListener("ranked", (event) => { say(event.detail); problem(""); });

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || event.altKey) return;
  const target = event.target, dialog = one("dialog[open]");
  const writing = target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return press(dialog ? "flag-submit" : "submit");
  }
  if (writing || dialog || event.ctrlKey || event.metaKey) return;
  if (event.key === "Enter") {
    if (target.closest("button, a, summary, label")) return; // does what it says
    event.preventDefault();
    if (!event.repeat) press("submit");
  } else if (remembered("keys") !== "no" && !event.repeat && single(event.key)) event.preventDefault();
});

function single(key) {
  const kind = page().dataset.page, letter = key.toLowerCase();
  if (sending.form) return false;
  if (letter === "u" && document.getElementById("undo")) { press("undo"); return true; }
  if (kind !== "task") return false;
  if (key === "?") openDialog("help");
  else if (letter === "s") press("skip");
  else if (letter === "f") press("flag");
  else if (letter === "p") press("plain-text");
  else if (ranking && letter === "t") ranking.toggleTie();
  else if (ranking && key === "Backspace") ranking.removeLast();
  else if (ranking && /^[1-9]$/.test(key) && ranking.letters[key - 1]) ranking.toggle(ranking.letters[key - 1]);
  else if (/^[0-9t]$/.test(letter) && one(`#answer [data-key="${letter}"]`)) {
    const choice = one(`#answer [data-key="${letter}"]`);
    choice.click();
    choice.focus();
  } else return false;
  return true;
}

let seen = true;
for (const kind of ["pointermove", "keydown", "scroll", "wheel", "touchstart"])
  document.addEventListener(kind, () => { seen = true; }, { passive: true, capture: true });

async function heartbeat() {
  const { page: kind, task, csrf } = page().dataset;
  if (kind !== "task" || "changing" in page().dataset || document.visibilityState !== "visible") return;
  if (!seen) return; // a page that nobody looks at any more must not hold its task for ever
  seen = false;
  try {
    const answer = await fetch("/heartbeat", { method: "POST", body: new URLSearchParams({ csrf, task_id: task }) });
    if (answer.status === 409 && page().dataset.task === task && !sending.form)
      notice("This task went to others while you were away.", "Next task", () => location.assign("/task"));
  } catch { /* the next one may arrive; an answer that does not is told by the form itself */ }
}

setInterval(heartbeat, HEARTBEAT_SECONDS * 1000);
document.addEventListener("visibilitychange", heartbeat);
document.addEventListener("htmx:afterSwap", begin);
document.addEventListener("htmx:afterSettle", arrived);
begin();
