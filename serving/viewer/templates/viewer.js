"use strict";
// An X-ray under its outlines: zoom, pan, window and level, side by side. A classic script: its names are global.

const MOST_ZOOM = 16;
const BARS = [200, 100, 50, 20, 10, 5, 2, 1]; // mm
const KEYS = "H hides the outlines, F fills them, U shows where the network is uncertain, S shows the X-ray beside them; " +
  "+ and − zoom, 0 fits, Shift and the arrow keys move, R resets the grey values. Drag moves; drag with the right button " +
  "changes window and level; the wheel zooms once the picture has the focus.";

class Viewer {
  /** Build the viewer in an element. */
  constructor(root) {
    this.root = root;
    this.xray = null;
    this.chosen = { overlay: true, fill: false, band: false, two: false };
    root.classList.add("viewer");
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Viewer");
    this.filter = `grey-${Math.random().toString(36).slice(2)}`;
    this.channels = ["R", "G", "B"].map((name) => svg(`feFunc${name}`, { type: "linear", slope: 1, intercept: 0 }));
    const filter = svg("filter", { id: this.filter, "color-interpolation-filters": "sRGB" }, svg("feComponentTransfer", {}, ...this.channels));
    const holder = svg("svg", { width: 0, height: 0, "aria-hidden": "true", class: "hidden" }, filter);
    this.panes = element("div", "", { className: "panes" });
    root.append(holder, this.panes, this.#tools(), this.#sliders(), this.#legend(), this.#keys());
    this.#panes();
    this.pointers = new Map();
    this.panes.addEventListener("contextmenu", (event) => event.preventDefault());
    this.panes.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.panes.addEventListener("pointerdown", (event) => this.#down(event));
    this.panes.addEventListener("pointermove", (event) => this.#move(event));
    for (const kind of ["pointerup", "pointercancel"])
      this.panes.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    new ResizeObserver(() => this.#place()).observe(this.panes);
    this.#greys();
  }

  /**
   * Show an X-ray.
   * xray.image: an <img> that is no other picture's; its shapes; mm: its width in mm or null; label: for screen readers.
   */
  show(xray) {
    this.xray = xray;
    this.#reset();
    this.#panes();
  }

  /** Show no X-ray but a text, with a busy sign or without. */
  clear(text, busy = false) {
    this.xray = null;
    this.#panes();
    const box = element("div", "", { className: "waiting" });
    if (busy) box.append(element("span", "", { className: "busy" }));
    box.append(element("span", text));
    this.panes.firstChild.replaceChildren(box);
  }

  focus() {
    this.panes.firstChild.focus({ preventScroll: true });
  }

  /** Take a key; tell whether it was one of the viewer's. */
  key(event) {
    if (!this.xray || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.shiftKey && event.key.startsWith("Arrow")) {
      const [x, y] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      this.at = { ...this.at, x: this.at.x + 60 * x, y: this.at.y + 60 * y };
      this.#place();
      return true;
    }
    const actions = {
      h: () => this.#toggle("overlay"), f: () => this.#toggle("fill"), u: () => this.#toggle("band"), s: () => this.#toggle("two"),
      0: () => this.#fit(), "+": () => this.#zoom(1.25), "=": () => this.#zoom(1.25), "-": () => this.#zoom(0.8), r: () => this.#reset(),
    };
    const action = actions[event.key.toLowerCase()];
    action?.();
    return action !== undefined;
  }

  #toggle(name) {
    this.chosen[name] = !this.chosen[name];
    this.buttons[name].setAttribute("aria-pressed", this.chosen[name]);
    if (this.xray) this.#panes();
  }

  #tools() {
    const tool = (text, key, title, action) => {
      const made = element("button", "", { type: "button", className: "tool", title });
      made.append(text);
      if (key) made.append(" ", element("kbd", key, { ariaHidden: "true" }));
      made.addEventListener("click", action);
      return made;
    };
    const toggle = (name, text, key, title) => {
      const made = tool(text, key, title, () => this.#toggle(name));
      made.setAttribute("aria-pressed", this.chosen[name]);
      made.dataset.tool = name;
      return made;
    };
    this.buttons = {
      overlay: toggle("overlay", "Outlines", "H", "Show or hide the outlines"),
      fill: toggle("fill", "Fill", "F", "Fill the outlines"),
      band: toggle("band", "Uncertain", "U", "Show where the probability of lung lies between 25 and 75 %"),
      two: toggle("two", "Side by side", "S", "Show the X-ray without and with outlines"),
    };
    this.scale = element("output", "100 %", { className: "zoom" });
    const bar = element("div", "", { className: "tools screen" });
    const less = tool("−", "", "Zoom out (−)", () => this.#zoom(0.8));
    const more = tool("+", "", "Zoom in (+)", () => this.#zoom(1.25));
    less.setAttribute("aria-label", "Zoom out");
    more.setAttribute("aria-label", "Zoom in");
    bar.append(...Object.values(this.buttons), element("span", "", { className: "gap" }), less, this.scale, more,
      tool("Fit", "0", "Fit the picture into its frame", () => this.#fit()));
    return bar;
  }

  #sliders() {
    const box = element("div", "", { className: "sliders screen" });
    const slider = (name, text, min, max, value) => {
      const label = document.createElement("label");
      const input = element("input", "", { type: "range", min, max, value });
      input.dataset.slider = name;
      const output = element("output", value);
      input.addEventListener("input", () => this.#greys());
      label.append(element("span", text), input, output);
      box.append(label);
      return { input, output };
    };
    this.window = slider("window", "Window", 2, 512, 256);
    this.level = slider("level", "Level", 0, 255, 128);
    this.opacity = slider("opacity", "Opacity", 0, 100, 100);
    const reset = element("button", "", { type: "button", className: "tool", title: "Reset window, level and opacity" });
    reset.append("Reset ", element("kbd", "R", { ariaHidden: "true" }));
    reset.addEventListener("click", () => this.#reset());
    box.append(reset);
    return box;
  }

  #legend() {
    this.legend = element("p", "", { className: "legend muted" });
    return this.legend;
  }

  #keys() {
    const box = element("details", "", { className: "keys screen" });
    box.append(element("summary", "Keys and mouse"), element("p", KEYS));
    return box;
  }

  #reset() {
    this.at ??= { zoom: 1, x: 0, y: 0 };
    this.window.input.value = 256;
    this.level.input.value = 128;
    this.opacity.input.value = 100;
    this.#greys();
  }

  /** Apply window, level and opacity; the default window is the picture as it is. */
  #greys() {
    const [width, level] = [Number(this.window.input.value), Number(this.level.input.value)];
    const slope = 256 / width;
    for (const each of this.channels) {
      each.setAttribute("slope", slope);
      each.setAttribute("intercept", -slope * (level - width / 2) / 256);
    }
    this.window.output.textContent = width;
    this.level.output.textContent = level;
    this.opacity.output.textContent = `${this.opacity.input.value} %`;
    const plain = width === 256 && level === 128;
    for (const image of this.panes.querySelectorAll("img")) image.style.filter = plain ? "" : `url(#${this.filter})`;
    for (const over of this.panes.querySelectorAll(".shapes")) over.style.opacity = this.opacity.input.value / 100;
  }

  #panes() {
    const { two, overlay, band, fill } = this.chosen;
    const count = two && this.xray ? 2 : 1;
    this.panes.classList.toggle("two", count === 2);
    const focused = this.panes.contains(document.activeElement); // before its pane is replaced
    this.sheets = [];
    const panes = Array.from({ length: count }, (_, number) => {
      const pane = element("div", "", { className: "pane", tabIndex: this.xray ? 0 : -1 });
      if (!this.xray) return pane;
      const covered = overlay && number === count - 1;
      pane.setAttribute("role", "img");
      pane.setAttribute("aria-label", covered ? this.xray.label : `${this.xray.label}; the outlines are not shown here`);
      const image = number === 0 ? this.xray.image : this.xray.image.cloneNode();
      image.alt = "";
      image.draggable = false;
      const sheet = element("div", "", { className: "sheet" });
      sheet.append(image, ...(covered ? drawn(this.xray.shapes, { band, fill }) : []));
      this.sheets.push(sheet);
      pane.append(sheet);
      if (count === 2) pane.append(element("span", number ? "Outlines" : "X-ray alone", { className: "caption" }));
      if (this.xray.mm) pane.append(element("span", "", { className: "scale" }));
      return pane;
    });
    this.panes.replaceChildren(...panes);
    if (focused) panes[0].focus({ preventScroll: true });
    for (const each of this.root.querySelectorAll(".tools, .sliders, .legend, .keys")) each.hidden = !this.xray;
    if (!this.xray) return;
    const { sides, doubtful } = this.xray.shapes;
    const doubt = doubtful ? "?" : "";
    const entry = (name, text) => {
      const made = element("span");
      made.append(element("span", "", { className: `swatch ${name}`, ariaHidden: "true" }), text);
      return made;
    };
    this.legend.replaceChildren(
      ...(sides ? [entry("right", `R${doubt}: the patient's right lung`), entry("left", `L${doubt}: the patient's left lung`)] : [entry("part", "Lung; sides unknown")]),
      ...(band ? [entry("band", "probability of lung between 25 and 75 %")] : []),
    );
    this.#greys();
    this.#place();
  }

  #fit() {
    this.at = { zoom: 1, x: 0, y: 0 };
    this.#place();
  }

  /** Zoom by a factor about a point of the pane, its middle unless told. */
  #zoom(factor, x, y) {
    const pane = this.panes.firstChild;
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.at.zoom * factor));
    const grown = zoom / this.at.zoom;
    const [dx, dy] = [(x ?? pane.clientWidth / 2) - pane.clientWidth / 2, (y ?? pane.clientHeight / 2) - pane.clientHeight / 2];
    this.at = { zoom, x: dx - grown * (dx - this.at.x), y: dy - grown * (dy - this.at.y) };
    this.#place();
  }

  /** Put the sheets into their panes: fitted, then zoomed and moved, but never out of sight. */
  #place() {
    if (!this.xray) return;
    const pane = this.panes.firstChild;
    const { width, height } = this.xray.shapes;
    const scale = Math.min(pane.clientWidth / width, pane.clientHeight / height) * this.at.zoom;
    const [wide, high] = [width * scale, height * scale];
    const bound = (value, size, frame) => Math.max(-Math.max(0, size - frame) / 2, Math.min(Math.max(0, size - frame) / 2, value));
    this.at.x = bound(this.at.x, wide, pane.clientWidth);
    this.at.y = bound(this.at.y, high, pane.clientHeight);
    for (const sheet of this.sheets)
      Object.assign(sheet.style, {
        width: `${wide}px`, height: `${high}px`,
        left: `${(pane.clientWidth - wide) / 2 + this.at.x}px`, top: `${(pane.clientHeight - high) / 2 + this.at.y}px`,
      });
    this.scale.textContent = `${Math.round(100 * this.at.zoom)} %`;
    this.#bars(wide / this.xray.mm, pane.clientWidth);
  }

  /** Draw the scale bar: the longest round length within a quarter of the pane; perMm: pixels of the screen in a mm. */
  #bars(perMm, room) {
    if (!this.xray.mm) return;
    const length = BARS.find((mm) => mm * perMm <= room / 4) ?? BARS.at(-1);
    for (const bar of this.panes.querySelectorAll(".scale")) {
      bar.textContent = length >= 10 ? `${length / 10} cm` : `${length} mm`;
      bar.style.width = `${length * perMm}px`;
    }
  }

  #wheel(event) {
    if (!this.xray || !(event.ctrlKey || this.root.contains(document.activeElement))) return; // else the page scrolls
    event.preventDefault();
    const box = event.target.closest(".pane")?.getBoundingClientRect();
    if (box) this.#zoom(Math.exp(-event.deltaY / 500), event.clientX - box.left, event.clientY - box.top);
  }

  #down(event) {
    if (!this.xray) return;
    this.pointers.set(event.pointerId, event);
    event.target.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.xray) return;
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    const other = [...this.pointers.values()].find((each) => each.pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (other) {
      const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const box = this.panes.firstChild.getBoundingClientRect();
      const [x, y] = [(event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top];
      this.#zoom(far(event) / (far(before) || 1), x, y);
    } else if (event.buttons & 2) {
      this.window.input.value = Number(this.window.input.value) + dx;
      this.level.input.value = Number(this.level.input.value) + dy;
      this.#greys();
    } else {
      this.at = { ...this.at, x: this.at.x + dx, y: this.at.y + dy };
      this.#place();
    }
  }
}
