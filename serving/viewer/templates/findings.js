"use strict";
// Findings as text: flags, areas, figures, and what the model is. A classic script: its functions are global.

const figure = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (value) => `${figure(100 * value, 1)} %`;
const known = (value) => value !== null && value !== undefined;

/** An element with a text and properties. */
function element(name, text = "", more = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, more);
}

/** The area of a lung for people: in cm² if the pixels' spacing is known, else as a share of the image. */
function areaText(area) {
  return known(area.cm2) ? `${figure(area.cm2, 0)} cm²` : percent(area.share);
}

const flagged = (findings, name) => (findings.flags ?? []).some((flag) => flag.name === name);
/** Whether left and right are the patient's: not if the flag says that this is no upright frontal view. */
const sidesKnown = (findings) => !flagged(findings, "view");
/** A question mark for a side that is the other one if the X-ray is a mirror image, as it may be. */
const sideDoubt = (findings) => (flagged(findings, "mirrored") ? "?" : "");

/** One box for each flag, or one that says that there is none. */
function flagBoxes(flags) {
  if (!flags.length)
    return [element("p", "No flag raised: X-ray and mask are like those of the training.", { className: "fine" })];
  return flags.map((flag) => {
    const box = element("p", "", { className: "flag" });
    box.append(element("strong", flag.name.replaceAll(/[-_]/g, " ")), flag.reason);
    return box;
  });
}

/** The table of areas: of both lungs, and of the patient's left and right one if the sides are known. */
function areaTable(findings) {
  const sides = sidesKnown(findings);
  const doubt = sideDoubt(findings);
  const table = document.createElement("table");
  const head = element("tr");
  head.append(...["Lung", "cm²", "Share", "Pixels"].map((text) => element("th", text, { scope: "col" })));
  const body = document.createElement("tbody");
  for (const [text, name] of [["Both", "lungs"], ...(sides ? [[`Right${doubt}`, "right"], [`Left${doubt}`, "left"]] : [])]) {
    const area = findings[name];
    const row = element("tr");
    const title = element("th", "", { scope: "row" });
    if (name !== "lungs") title.append(element("span", "", { className: `swatch ${name}`, ariaHidden: "true" }));
    title.append(text);
    row.append(title, element("td", known(area.cm2) ? figure(area.cm2, 1) : "–"), element("td", percent(area.share)),
      element("td", figure(area.pixels)));
    body.append(row);
  }
  const top = document.createElement("thead");
  top.append(head);
  const caption = sides ? `Area of lung; left and right are the patient's${doubt && ", unless the X-ray is a mirror image"}` : "Area of lung; the sides are unknown: this is no upright frontal view";
  table.append(element("caption", caption), top, body);
  return table;
}

/** Terms and values for a definition list; values that are unknown are left out. */
function facts(pairs) {
  return pairs.filter(([, value]) => known(value) && value !== "")
    .flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
}

/** The figures of a picture's findings as terms and values. */
function figures(findings, kind) {
  const { spacing, symmetry, expected_dice: expected } = findings;
  return [
    ["Expected Dice", known(expected) ? `${figure(expected, 2)}, lower bound ${figure(findings.expected_dice_low, 2)}` : null],
    ["Symmetry", known(symmetry) ? figure(symmetry, 2) : null],
    ["Uncertain", percent(findings.uncertain)],
    ["Image", `${kind.toUpperCase()}, ${figure(findings.width)} × ${figure(findings.height)}`],
    ["Pixel spacing", known(spacing) ? `${spacing.map((mm) => figure(mm, 3)).join(" × ")} mm` : "unknown"],
  ];
}

/** Say in a box what the model is: name, version, what it was trained on, how well it did. */
function tellModel(box, about, card) {
  box.classList.toggle("drawings", about?.drawings === true);
  if (!about) {
    box.textContent = "No model is loaded yet.";
    return;
  }
  const parts = [`${about.name}, version ${about.version}`];
  if (about.cohort) parts.push(`trained on ${known(about.trained) ? `${figure(about.trained)} images of ` : ""}the cohort ${about.cohort}`);
  if (known(about.dice)) {
    const range = about.dice_ci95 ? ` (95 %: ${about.dice_ci95.map((end) => figure(end, 3)).join(" to ")})` : "";
    parts.push(`Dice ${figure(about.dice, 3)}${range} on ${figure(about.tested)} test images`);
  }
  if (!about.cohort) parts.push("its package does not say what it was trained on, nor how good it is");
  if (about.licence) parts.push(about.licence);
  box.replaceChildren(element("strong", "Model: "), `${parts.join("; ")}. `);
  if (about.drawings)
    box.prepend(element("strong", "This model was trained on drawings, not on X-rays of patients: its masks of real X-rays mean nothing. "));
  if (card) box.append(element("a", "Model card", { href: card }));
}
