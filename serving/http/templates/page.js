import { Viewer } from "/static/viewer.js";

const at = (id) => document.getElementById(id);
const viewer = new Viewer(at("view"));
const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (value) => `${number(100 * value, 1)} %`;
let request = null;
let links = [];

function element(name, text, more = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, more);
}

function row(...cells) {
  const line = document.createElement("tr");
  line.append(...cells.map((cell, i) => element(i ? "td" : "th", cell, i ? {} : { scope: "row" })));
  return line;
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function link(anchor, blob, name) {
  const address = URL.createObjectURL(blob);
  links.push(address);
  Object.assign(at(anchor), { href: address, download: name });
}

function draw() {
  const chosen = (name) => at("controls").elements[name].value;
  at("percent").textContent = `${at("opacity").value} %`;
  viewer.draw(at("opacity").value / 100, chosen("colour"), chosen("shape") === "outline");
}

function tell(model) {
  at("model").textContent = model ? `Model: ${model.name}, version ${model.version}` : "No model is loaded yet";
}

function showFindings(answer) {
  const { findings, picture, model } = answer;
  const area = (name, one) => row(name, one.cm2 === null ? "–" : number(one.cm2, 1), percent(one.share), number(one.pixels));
  at("areas").replaceChildren(
    area("Both", findings.lungs), area("Right", findings.right), area("Left", findings.left));
  at("flags").replaceChildren(...(findings.flags.length
    ? findings.flags.map((flag) => {
        const box = element("p", "", { className: "flag" });
        box.append(element("strong", flag.name.replaceAll(/[-_]/g, " ")), flag.reason);
        return box;
      })
    : [element("p", "No flag raised: picture and mask are like those of the training.", { className: "fine" })]));
  const facts = [
    ["Symmetry", findings.symmetry === null ? "–" : number(findings.symmetry, 2)],
    ["Uncertain", percent(findings.uncertain)],
    ["Picture", `${picture.kind.toUpperCase()}, ${number(picture.width)} × ${number(picture.height)}`],
    ["Pixel spacing", findings.spacing === null ? "unknown" : `${findings.spacing.map((mm) => number(mm, 3)).join(" × ")} mm`],
    ["Model", `${model.name}, version ${model.version} (${model.engine})`],
  ];
  at("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

/** Show an answer, unless another file has been chosen meanwhile; tell whether it is shown. */
async function show(answer, file, signal) {
  const mask = new Blob([bytes(answer.mask)], { type: "image/png" });
  const image = new Blob([bytes(answer.image)], { type: "image/png" });
  const bitmaps = await Promise.all([createImageBitmap(image), createImageBitmap(mask)]);
  if (signal.aborted) return false;
  viewer.show(...bitmaps);
  links.forEach((address) => URL.revokeObjectURL(address));
  links = [];
  const stem = file.name.replace(/\.[^.]*$/, "") || "xray";
  const { mask: _, image: __, overlay: ___, ...rest } = answer;
  link("mask", mask, `${stem}-mask.png`);
  link("json", new Blob([JSON.stringify(rest, null, 2)], { type: "application/json" }), `${stem}-findings.json`);
  showFindings(answer);
  tell(answer.model);
  at("view").setAttribute("aria-label", `The X-ray ${file.name} with the lungs marked: they cover ${percent(answer.findings.lungs.share)} of it`);
  for (const id of ["view", "controls", "result"]) at(id).hidden = false;
  at("stage").classList.add("loaded");
  at("choose").textContent = "Choose another";
  draw();
  return true;
}

function fail(text) {
  at("error").textContent = text;
  at("error").hidden = false;
  at("status").textContent = "";
  // A mask of an earlier picture must not be taken for one of this file.
  for (const id of ["view", "controls", "result"]) at(id).hidden = true;
  at("stage").classList.remove("loaded");
  at("choose").textContent = "Choose a chest X-ray";
}

async function predict(file) {
  request?.abort();
  const mine = (request = new AbortController());
  at("error").hidden = true;
  at("status").textContent = `${file.name}: finding the lungs …`;
  at("stage").classList.add("busy");
  try {
    const response = await fetch("/predict?format=json&include=mask&include=image", {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" }, signal: mine.signal,
    });
    const answer = await response.json();
    if (mine.signal.aborted) return;
    if (!response.ok) return fail(`${file.name}: ${answer.detail.replace(/^the file: /, "")}`);
    if (!(await show(answer, file, mine.signal))) return;
    const count = answer.findings.flags.length;
    at("status").textContent = `${file.name}: the lungs cover ${percent(answer.findings.lungs.share)} of the picture; ` +
      (count ? `${count} flag${count > 1 ? "s" : ""} raised.` : "no flag.");
  } catch (error) {
    if (mine.signal.aborted) return;
    fail(`${file.name}: the service gave no answer (${error.message}); it may be away or starting again.`);
  } finally {
    if (mine === request) at("stage").classList.remove("busy");
  }
}

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) predict(file);
  event.target.value = ""; // so that the same file can be chosen again
});
at("controls").addEventListener("input", draw);
at("controls").addEventListener("submit", (event) => event.preventDefault());
let depth = 0;
addEventListener("dragenter", () => document.body.classList.toggle("over", ++depth > 0));
addEventListener("dragleave", () => document.body.classList.toggle("over", --depth > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("over");
  const { files } = event.dataTransfer;
  if (files.length > 1) {
    request?.abort();
    return fail("One X-ray at a time, please.");
  }
  if (files.length) predict(files[0]);
});
fetch("/ready").then((response) => response.json()).then((told) => tell(told.model)).catch(() => tell(null));
