"use strict";
// The outlines of a prediction, to lie over its picture. A classic script: its names are global.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The outlines of a prediction and the letters of its sides, to lie over its picture. */
function drawn(shapes, { band = false, fill = false } = {}) {
  const path = (name, d) => svg("path", { class: name, d });
  const [left, right] = shapes.sides ? ["left", "right"] : ["part", "part"];
  const sheet = svg("svg", {
    class: `shapes${fill ? " filled" : ""}`, viewBox: `-0.5 -0.5 ${shapes.width} ${shapes.height}`,
    preserveAspectRatio: "none", "aria-hidden": "true",
  });
  if (band) sheet.append(path("band", shapes.band));
  sheet.append(path(left, shapes.left), path(right, shapes.right));
  const letters = Object.entries(shapes.letters).map(([name, [x, y]]) => {
    const letter = element("span", shapes.doubtful ? `${name}?` : name, { className: `letter ${name === "L" ? "left" : "right"}` });
    letter.ariaHidden = "true";
    letter.style.left = `${100 * x}%`;
    letter.style.top = `${100 * y}%`;
    return letter;
  });
  return [sheet, ...letters];
}

/** What a screen reader is told of a picture. */
function pictureLabel(name, findings) {
  const sides = sidesKnown(findings) ? `the patient's right lung covers ${percent(findings.right.share)} of the image, the left one ${percent(findings.left.share)}${sideDoubt(findings) && ", unless it is a mirror image"}`
    : `lungs cover ${percent(findings.lungs.share)} of the image`;
  return `The X-ray ${name} with the lungs outlined: ${sides}`;
}
