"use strict";
// The sheet of a prediction run: thumbnails in the order of the document, filtered by flag, enlarged on a click.
{
  const at = (id) => document.getElementById(id);
  const { about, embedded, xrays } = JSON.parse(at("document").textContent);
  const viewer = new Viewer(at("viewer"));
  let shown = []; // numbers of the X-rays that the filter lets through
  let current = 0; // place among those of the enlarged one
  tellModel(at("model"), about, "");

  const flagNames = (xray) => [...new Set((xray.flags ?? []).map((flag) => flag.name))];
  const failed = (xray) => xray.status !== "ok";

  function chips(xray) {
    const box = element("span", "", { className: "chips" });
    const chip = (text, kind = "") => element("span", text, { className: `chip ${kind}` });
    if (failed(xray)) box.append(chip("failed", "failed"));
    else box.append(...flagNames(xray).map((name) => chip(name)));
    if (!box.children.length) box.append(chip("no flag", "none"));
    return box;
  }

  function thumb(xray) {
    const frame = element("span", "", { className: "thumb" });
    if (!xray.thumbnail) {
      frame.append(element("span", failed(xray) ? "no result" : "no picture", { className: "none" }));
      return frame;
    }
    const { width, height } = xray.shapes;
    const sheet = element("span", "", { className: "sheet" });
    sheet.style.width = `${100 * Math.min(1, width / height)}%`;
    sheet.style.height = `${100 * Math.min(1, height / width)}%`;
    sheet.append(element("img", "", { src: xray.thumbnail, alt: "", decoding: "async" }), ...drawn(xray.shapes));
    frame.append(sheet);
    return frame;
  }

  function areas(xray) {
    if (failed(xray)) return element("span", xray.error ?? "", { className: "areas" });
    const expected = known(xray.expected_dice) ? `expected Dice ${figure(xray.expected_dice, 2)} · ` : "";
    const doubt = sideDoubt(xray);
    const lungs = sidesKnown(xray) ? `R${doubt} ${areaText(xray.right)} · L${doubt} ${areaText(xray.left)}` : `lungs ${areaText(xray.lungs)}`;
    return element("span", `${expected}${lungs} · uncertain ${percent(xray.uncertain ?? 0)}`, { className: "areas" });
  }

  const cards = xrays.map((xray, number) => {
    const card = element("button", "", { type: "button", className: "card" });
    card.append(thumb(xray), element("span", xray.file, { className: "name" }), chips(xray), areas(xray));
    card.addEventListener("click", () => open(shown.indexOf(number)));
    const item = document.createElement("li");
    item.append(card);
    return item;
  });
  at("cards").append(...cards);

  function filters() {
    const counts = new Map();
    for (const xray of xrays) for (const name of flagNames(xray)) counts.set(name, (counts.get(name) ?? 0) + 1);
    const count = (test) => xrays.filter(test).length;
    const choices = [
      ["", `all (${xrays.length})`],
      ["failed", `failed (${count(failed)})`],
      ["flagged", `with a flag (${count((xray) => flagNames(xray).length)})`],
      ["plain", `without a flag (${count((xray) => !failed(xray) && !flagNames(xray).length)})`],
      ...[...counts].sort(([one], [other]) => one.localeCompare(other)).map(([name, found]) => [`flag ${name}`, `flag ${name} (${found})`]),
    ];
    at("filter").append(...choices.map(([value, text]) => element("option", text, { value })));
    at("order").textContent = xrays.some((xray) => known(xray.expected_dice))
      ? "Failed first, then by expected Dice." : "Failed first, then by the number of flags and the uncertain share.";
  }

  function filter() {
    const { value } = at("filter");
    const tests = { "": () => true, failed, flagged: (xray) => flagNames(xray).length, plain: (xray) => !failed(xray) && !flagNames(xray).length };
    const test = tests[value] ?? ((xray) => flagNames(xray).includes(value.replace(/^flag /, "")));
    shown = xrays.map((_, number) => number).filter((number) => test(xrays[number]));
    cards.forEach((card, number) => (card.hidden = !shown.includes(number)));
    at("count").textContent = `${shown.length} of ${xrays.length} X-rays`;
  }

  function link(kind, text, address) {
    return element("a", text, { className: "button", href: address, target: "_blank", rel: "noopener" });
  }

  /** Enlarge the X-ray at a place of the filtered sheet. */
  function open(place) {
    current = place;
    const xray = xrays[shown[place]];
    at("name").textContent = xray.file;
    at("number").textContent = `${place + 1} of ${shown.length}`;
    at("previous").disabled = place === 0;
    at("next").disabled = place === shown.length - 1;
    at("findings").hidden = failed(xray);
    at("flags").replaceChildren(...(failed(xray) ? [element("p", xray.error ?? "", { className: "error" })] : flagBoxes(xray.flags ?? [])));
    if (!failed(xray)) {
      const list = document.createElement("dl");
      list.append(...facts([...figures(xray, xray.kind), ["Day", xray.day], ["Device", xray.device], ["Note", xray.note]]));
      const actions = element("p", "", { className: "actions screen" });
      const texts = { mask: "Mask", overlay: "Overlay", seg: "DICOM SEG" };
      actions.append(...Object.entries(xray.links).map(([kind, address]) => link(kind, texts[kind], address)));
      at("findings").replaceChildren(areaTable(xray), list, actions);
    }
    const first = !at("dialog").open;
    if (first) at("dialog").showModal();
    if (!xray.picture) {
      viewer.clear(failed(xray) ? "There is no result." : "The picture is not in this page.");
      return;
    }
    const image = element("img", "", { src: xray.picture });
    if (!embedded)
      image.addEventListener("error", () => {
        at("flags").prepend(element("p", `The picture ${xray.picture} is not beside this page; this is its thumbnail.`, { className: "error" }));
        image.src = xray.thumbnail;
      }, { once: true });
    const mm = xray.spacing ? xray.width * xray.spacing[1] : null;
    viewer.show({ image, shapes: xray.shapes, mm, label: pictureLabel(xray.file, xray) });
    if (first) viewer.focus();
  }

  at("previous").addEventListener("click", () => open(current - 1));
  at("next").addEventListener("click", () => open(current + 1));
  at("close").addEventListener("click", () => at("dialog").close());
  at("dialog").addEventListener("close", () => cards[shown[current]]?.firstChild.focus());
  addEventListener("keydown", (event) => {
    if (!at("dialog").open) return;
    const typing = event.target.matches("input, select");
    if (viewer.key(event)) event.preventDefault();
    else if (!typing && !event.shiftKey && event.key === "ArrowLeft" && current > 0) open(current - 1);
    else if (!typing && !event.shiftKey && event.key === "ArrowRight" && current < shown.length - 1) open(current + 1);
  });
  at("filter").addEventListener("change", filter);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("print").addEventListener("click", () => print());
  filters();
  filter();
}
