// Answers that the server has not confirmed are kept and sent again: the judgement's id is made with the page, so it
// is stored once, however often it arrives.
"use strict";

const sending = { form: null, button: null, tries: 0, faults: 0, timer: 0 };
// What a proxy says while the server behind it is away.
const AWAY = [0, 502, 503, 504];
// The server is there and cannot write: its disk is full, say. Nobody but who runs it can help.
const CANNOT_STORE = 507;
// A server that is there and fails will hardly do better the fourth time: then somebody has to look at it.
const MOST_FAULTS = 3;

function notice(text, label, act) {
  const box = document.getElementById("notice"), button = document.getElementById("notice-action");
  box.hidden = !text;
  document.getElementById("notice-text").textContent = text || "";
  button.hidden = !label;
  button.textContent = label || "";
  button.onclick = act || null;
}

function sendAgain() {
  clearTimeout(sending.timer);
  if (!sending.form) return;
  if (!sending.form.isConnected) return sent();
  sending.form.inert = false;
  if (sending.button && sending.button.isConnected) sending.button.click();
  else sending.form.requestSubmit();
}

function sent() {
  clearTimeout(sending.timer);
  if (sending.form) sending.form.inert = false;
  Object.assign(sending, { form: null, button: null, tries: 0, faults: 0, timer: 0 });
  notice("");
}

function failed(form, text, retry) {
  sending.form = form;
  document.querySelector("dialog[open]")?.close(); // it would cover the notice
  if (!retry) {
    form.inert = false;
    return notice(text, "Send again", sendAgain);
  }
  form.inert = true; // what was sent is what will be stored
  sending.tries += 1;
  const seconds = Math.min(15, 2 ** (sending.tries - 1));
  notice(`${text} It is sent again in ${seconds} s.`, "Send now", sendAgain);
  sending.timer = setTimeout(sendAgain, seconds * 1000);
}

function faulty(form) {
  sending.faults += 1;
  if (sending.faults < MOST_FAULTS) return failed(form, "The server has a fault. Your answer is kept here.", true);
  failed(form, "The server fails each time, so your answer is not sent by itself any more. It is kept here: leave this page open, tell who invited you, and send it again later.", false);
}

document.addEventListener("submit", (event) => { sending.button = event.submitter; }, true);

document.addEventListener("htmx:afterRequest", (event) => {
  // not detail.elt: once the answer's page is in, that is whatever stands where the form was
  const { requestConfig, xhr } = event.detail, status = xhr ? xhr.status : 0;
  const form = requestConfig.elt.closest("form[method=post]");
  if (!form) {
    if (status === 0) notice("The server cannot be reached at the moment.", "Load again", () => location.reload());
    else if (status === 403 || status >= 500) notice("This page could not be loaded.", "Load again", () => location.reload());
    else notice("");
    return;
  }
  clearTimeout(sending.timer);
  if (AWAY.includes(status)) failed(form, "The server cannot be reached. Your answer is kept here.", true);
  else if (status === CANNOT_STORE) failed(form, "The server cannot store answers at the moment. Yours is kept here: leave this page open, and tell who invited you.", true);
  else if (status >= 500) faulty(form);
  else if (status === 403) failed(form, "You are logged out. Open your invite link in another tab, then send again.", false);
  else if (status === 413 || status === 400) failed(form, "The server did not take this: it is too long or damaged. It is kept here.", false);
  else sent();
});

window.addEventListener("beforeunload", (event) => { if (sending.form) event.preventDefault(); });
