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
  const choose = (button) => {
    current?.removeAttribute("aria-current");
    current = button;
    button.setAttribute("aria-current", "true");
    const image = button.querySelector("img");
    const caption = button.closest("figure").querySelector("figcaption").cloneNode(true);
    const cell = document.createElement("strong");
    cell.textContent = button.closest("details").querySelector("summary").textContent;
    large.parentElement.className = button.querySelector(".xray").className;
    [large.dataset.source, large.alt, large.width, large.height] =
      [image.dataset.source, image.alt, image.width, image.height];
    viewer.querySelector("figcaption").replaceChildren(cell, document.createElement("br"), ...caption.childNodes);
    show(large);
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
