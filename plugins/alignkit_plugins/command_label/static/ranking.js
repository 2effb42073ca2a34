// The ranking control: letters in an order, with a sign between neighbours that says "better" or "tied".
// Everything works by click, by key and by drag; the hidden field holds the ranking as "B=C>A".
"use strict";

class Ranking {
  constructor(box) {
    this.box = box;
    this.letters = box.dataset.letters.split(" ");
    this.order = []; // letters, best first
    this.tied = []; // tied[i]: order[i] is tied with order[i - 1]
    this.field = box.querySelector("input[name=ranking]");
    this.field.disabled = false;
    const places = box.querySelector(".places");
    places.hidden = true;
    places.disabled = true; // not sent
    box.querySelector(".ranker").hidden = false;
    for (const group of box.dataset.ranking.split(">").filter(Boolean)) {
      group.split("=").forEach((letter, n) => this.place(letter, this.order.length, n > 0));
    }
    this.draw();
  }

  get complete() { return this.order.length === this.letters.length; }
  get missing() { return this.letters.filter((letter) => !this.order.includes(letter)); }

  place(letter, index, tied = false) {
    this.order.splice(index, 0, letter);
    this.tied.splice(index, 0, tied && index > 0);
    this.tied[0] = false;
  }

  remove(letter) {
    const index = this.order.indexOf(letter);
    this.order.splice(index, 1);
    this.tied.splice(index, 1);
    if (this.tied.length) this.tied[0] = false;
  }

  // A number key or a click on a letter: next in the ranking, or out of it.
  toggle(letter) {
    if (this.order.includes(letter)) this.remove(letter);
    else this.place(letter, this.order.length);
    this.changed();
  }

  removeLast() {
    if (this.order.length) this.remove(this.order[this.order.length - 1]);
    this.changed();
  }

  toggleTie(index = this.order.length - 1) {
    if (index > 0) this.tied[index] = !this.tied[index];
    this.changed();
  }

  // The signs stay where they are; the letters change places.
  move(letter, step) {
    const from = this.order.indexOf(letter), to = from + step;
    if (to < 0 || to >= this.order.length) return;
    [this.order[from], this.order[to]] = [this.order[to], this.order[from]];
    this.changed();
  }

  drop(letter, index) {
    const from = this.order.indexOf(letter);
    if (from < 0) this.place(letter, index);
    else {
      this.order.splice(from, 1);
      this.order.splice(index > from ? index - 1 : index, 0, letter);
    }
    this.changed();
  }

  changed() {
    this.draw();
    this.box.dispatchEvent(new CustomEvent("ranked", { bubbles: true, detail: this.words() }));
  }

  words() {
    if (!this.order.length) return "Nothing ranked.";
    const said = this.order.map((letter, n) => (n === 0 ? letter : `${this.tied[n] ? " tied with " : ", then "}${letter}`));
    return said.join("") + (this.complete ? ". All ranked." : `. Not ranked yet: ${this.missing.join(", ")}.`);
  }

  draw() {
    this.field.value = this.order.map((letter, n) => (n === 0 ? "" : this.tied[n] ? "=" : ">") + letter).join("");
    const focused = document.activeElement && document.activeElement.id;
    const ranked = this.box.querySelector(".ranked"), tray = this.box.querySelector(".tray");
    ranked.replaceChildren(...this.order.map((letter, n) => this.item(letter, n)));
    if (!this.order.length) {
      const hint = document.createElement("li");
      hint.className = "empty";
      hint.textContent = "best first";
      ranked.append(hint);
    }
    tray.replaceChildren(...this.missing.map((letter) => this.chip(letter)));
    tray.hidden = this.complete;
    // Drawing anew must not take the focus from who works with Tab and Space.
    if (focused && !document.activeElement.closest("#ranking")) document.getElementById(focused)?.focus();
  }

  chip(letter) {
    const number = this.letters.indexOf(letter) + 1;
    const chip = this.button("chip", letter, () => this.toggle(letter), `chip-${letter}`);
    if (number <= 9) chip.append(" ", Object.assign(document.createElement("kbd"), { textContent: number, ariaHidden: "true" }));
    const ranked = this.order.includes(letter);
    const does = ranked ? "take out of the ranking" : "put next in the ranking";
    chip.append(Object.assign(document.createElement("span"), { textContent: `: ${does}`, className: "unseen" }));
    this.draggable(chip, letter);
    return chip;
  }

  item(letter, n) {
    const item = document.createElement("li");
    item.dataset.letter = letter;
    if (n > 0) {
      const sign = this.button("sign", this.tied[n] ? "=" : ">", () => this.toggleTie(n), `sign-${n}`);
      sign.setAttribute("aria-label", `${this.order[n - 1]} and ${letter} are tied`);
      sign.setAttribute("aria-pressed", String(this.tied[n]));
      sign.title = this.tied[n] ? "tied; click for better" : "better; click for tied";
      item.append(sign);
    }
    const group = document.createElement("span");
    group.className = "placed";
    const up = this.button("step", "‹", () => this.move(letter, -1), `up-${letter}`);
    const down = this.button("step", "›", () => this.move(letter, 1), `down-${letter}`);
    up.setAttribute("aria-label", `${letter}: one place better`);
    down.setAttribute("aria-label", `${letter}: one place worse`);
    up.disabled = n === 0;
    down.disabled = n === this.order.length - 1;
    group.append(up, this.chip(letter), down);
    item.append(group);
    return item;
  }

  button(kind, text, act, id) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: kind, textContent: text, id });
    button.dataset.testid = id;
    button.addEventListener("click", (event) => {
      if (this.dragged) return;
      if (event.detail > 0) button.blur(); // by mouse: Enter goes on meaning "submit"
      act();
    });
    return button;
  }

  draggable(chip, letter) {
    chip.addEventListener("pointerdown", (down) => {
      if (down.button !== 0) return;
      this.dragged = false;
      chip.setPointerCapture(down.pointerId); // a quick hand is out of the chip before the first move is told
      const move = (event) => {
        const dx = event.clientX - down.clientX, dy = event.clientY - down.clientY;
        if (!this.dragged && Math.hypot(dx, dy) < 6) return;
        this.dragged = true;
        chip.classList.add("dragging");
        chip.style.transform = `translate(${dx}px, ${dy}px)`;
        this.mark(this.target(event));
      };
      const end = (event) => {
        for (const [name, listener] of Object.entries(listeners)) chip.removeEventListener(name, listener);
        if (!this.dragged) return;
        const index = event.type === "pointerup" ? this.target(event) : null;
        this.mark(null);
        chip.classList.remove("dragging");
        chip.style.transform = "";
        if (index !== null) this.drop(letter, index);
        else if (event.type === "pointerup" && this.order.includes(letter) && this.over("#tray", event)) this.toggle(letter);
        setTimeout(() => { this.dragged = false; }); // the click that follows is part of the drag
      };
      const listeners = { pointermove: move, pointerup: end, pointercancel: end };
      for (const [name, listener] of Object.entries(listeners)) chip.addEventListener(name, listener);
    });
  }

  over(selector, event) {
    return document.elementsFromPoint(event.clientX, event.clientY).some((found) => found.closest(selector));
  }

  // Before which place the pointer is; null outside of the ranking.
  target(event) {
    if (!this.over(".ranked", event)) return null;
    const items = [...this.box.querySelectorAll(".ranked li[data-letter]")];
    for (const [n, item] of items.entries()) {
      const box = item.querySelector(".placed").getBoundingClientRect();
      if (event.clientY < box.top - 4) return n;
      if (event.clientY <= box.bottom + 4 && event.clientX < box.left + box.width / 2) return n;
    }
    return items.length;
  }

  mark(index) {
    const items = [...this.box.querySelectorAll(".ranked li[data-letter]")];
    items.forEach((item, n) => {
      item.classList.toggle("before", n === index);
      item.classList.toggle("after", index === items.length && n === items.length - 1);
    });
    this.box.querySelector(".ranked").classList.toggle("target", index !== null);
  }
}
