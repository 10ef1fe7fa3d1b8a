// Opacity of overlays, and the viewer of cases; without it the differences just stand over their X-rays.
for (const line of document.querySelectorAll(".opacity")) {
  const [range, output] = [line.querySelector("input"), line.querySelector("output")];
  const apply = () => {
    line.closest("section").style.setProperty("--opacity", range.value / 100);
    output.textContent = `${range.value} %`;
  };
  range.addEventListener("input", apply);
  line.hidden = false;
  apply();   // a browser may have kept the value of an earlier visit
}

const viewer = document.getElementById("viewer");
let openCase;   // shows the X-ray that a dot of a chart leads to
if (viewer) {
  const section = viewer.closest("section");
  const names = new Map(Object.entries(JSON.parse(viewer.dataset.regions)).map(([name, colour]) => [colour.join(), name]));
  const views = JSON.parse(viewer.dataset.views);
  const large = document.createElement("img");
  large.className = "regions";
  viewer.querySelector(".xray").append(large);
  const drawn = new Map();   // what recolour has drawn, by view and picture

  // The regions' picture in the colours of a view; what the view does not show becomes transparent.
  const recolour = async (source, view) => {
    const picture = new Image();
    picture.src = source;
    await picture.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const colour = views[view][names.get(pixels.data.slice(at, at + 3).join())];
      if (pixels.data[at + 3] && colour) pixels.data.set(colour, at);
      else pixels.data[at + 3] = 0;
    }
    context.putImageData(pixels, 0, 0);
    return canvas.toDataURL();
  };
  const show = async (image) => {
    const view = section.dataset.view;
    if (view === "xray") return;   // the style sheet hides the regions
    const source = image.dataset.source;
    const key = view + source;
    if (view !== "difference" && !drawn.has(key)) drawn.set(key, recolour(source, view));
    const address = view === "difference" ? source : await drawn.get(key);
    // Meanwhile another view or case may have been chosen.
    if (view === section.dataset.view && source === image.dataset.source) image.src = address;
  };
  const refresh = () => {
    for (const image of section.querySelectorAll("img[data-source]")) if (image.offsetParent) show(image);
  };

  let current = null;
  const frame = large.parentElement;
  const controls = viewer.querySelectorAll("fieldset, .opacity input");
  const back = viewer.querySelector("[data-back]");
  const choose = (button) => {
    current?.removeAttribute("aria-current");
    current = button;
    back.hidden = true;
    large.hidden = frame.hidden = false;
    frame.style.backgroundPosition = "";
    for (const control of controls) control.disabled = false;
    button.setAttribute("aria-current", "true");
    const image = button.querySelector("img");
    const caption = button.closest("figure").querySelector("figcaption").cloneNode(true);
    const cell = document.createElement("strong");
    cell.textContent = button.closest("details").querySelector("summary").textContent;
    frame.className = button.querySelector(".xray").className;
    [large.dataset.source, large.alt, large.width, large.height] =
      [image.dataset.source, image.alt, image.width, image.height];
    viewer.querySelector("figcaption").replaceChildren(cell, document.createElement("br"), ...caption.childNodes);
    show(large);
  };
  // An X-ray of the contact sheet: without its prediction, which the page has for the worst and best alone.
  const chooseTile = (number, said) => {
    current?.removeAttribute("aria-current");
    const style = getComputedStyle(document.documentElement);
    const [columns, rows] = ["columns", "rows"].map((name) => Number(style.getPropertyValue(`--tile-${name}`)));
    const share = (at, of) => (of > 1 ? `${100 * at / (of - 1)}%` : "0%");
    large.hidden = true;
    frame.hidden = !columns;
    frame.className = "xray sheet";
    if (columns) frame.style.backgroundPosition = `${share(number % columns, columns)} ${share(Math.floor(number / columns), rows)}`;
    for (const control of controls) control.disabled = true;
    const [title, value] = said.split("\n");
    const strong = document.createElement("strong");
    strong.textContent = title;
    const reason = columns
      ? "The X-ray alone: the page has predictions of the worst and best cases."
      : "Its X-ray is not on the page, which would be too large with all of them.";
    viewer.querySelector("figcaption").replaceChildren(
      strong, document.createElement("br"), value, document.createElement("br"), reason,
    );
  };
  openCase = (place, said, mark) => {
    const [kind, number] = place.split("-");
    if (kind === "tile") chooseTile(Number(number), said);
    else {
      const button = document.querySelector(`#${place} .pick`);
      for (let one = button.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
      choose(button);
    }
    back.hidden = false;
    back.onclick = () => { mark.scrollIntoView({ block: "center" }); mark.focus({ preventScroll: true }); };
    section.scrollIntoView();
    viewer.focus({ preventScroll: true });
  };
  for (const xray of section.querySelectorAll(".galleries .xray")) {
    const image = xray.querySelector("img");
    image.dataset.source = image.src;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pick";
    xray.replaceWith(button);
    button.append(xray);
    button.addEventListener("click", () => choose(button));
  }
  for (const step of viewer.querySelectorAll("button[data-step]")) {
    step.addEventListener("click", () => {
      const all = [...current.closest("details").querySelectorAll("button.pick")];
      choose(all[(all.indexOf(current) + Number(step.dataset.step) + all.length) % all.length]);
    });
  }
  viewer.addEventListener("change", (event) => {
    if (event.target.name !== "view") return;
    section.dataset.view = event.target.value;
    refresh();
  });
  section.addEventListener("toggle", refresh, true);
  section.dataset.view = viewer.querySelector("input[name=view]:checked").value;
  viewer.hidden = false;
  section.classList.add("live");
  choose(section.querySelector("button.pick"));
}
