// Draws the charts, and gives their marks a title and a value under the mouse and the keyboard. A chart is one stop of the
// Tab key; arrows move inside it, Enter follows a mark to its X-ray.
const look = {
  background: null,
  font: getComputedStyle(document.body).fontFamily,
  padding: { left: 2, top: 4, right: 8, bottom: 2 },
  autosize: { type: "fit-x", contains: "padding" },
  view: { stroke: null },
  axis: {
    aria: false, gridColor: "var(--rule)", gridWidth: 0.6, domainColor: "var(--rule)", tickColor: "var(--rule)",
    labelColor: "var(--muted)", titleColor: "var(--muted)", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12,
  },
  axisQuantitative: { tickCount: 5, labelOverlap: "greedy", labelSeparation: 8 },
  legend: { aria: false, labelColor: "var(--ink)", labelFontSize: 12, labelLimit: 200, rowPadding: 3, symbolSize: 160 },
};

const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("aria-hidden", "true");   // the marks say the same in their labels
tip.hidden = true;
document.body.append(tip);

let pointed = null;   // the mark whose title and value are shown
const showTip = (mark) => {
  const { datum } = mark.__data__;
  pointed = mark;
  tip.textContent = datum.said + (datum.to ? "\nClick or Enter: its X-ray" : "");
  tip.hidden = false;
  tip.style.left = "0";   // nothing limits its width while it is measured
  const [at, own] = [mark.getBoundingClientRect(), tip.getBoundingClientRect()];
  const left = at.left + at.width / 2 - own.width / 2;
  const above = at.top - own.height - 8;
  tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - own.width - 4))}px`;
  tip.style.top = `${above < 4 ? at.bottom + 8 : above}px`;
};
const hideTip = () => { pointed = null; tip.hidden = true; };
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
document.addEventListener("scroll", () => { if (pointed) showTip(pointed); }, { passive: true });

const marksOf = (plot) => [...plot.querySelectorAll(".marks_marks > path")];
const markOf = (event) => event.target.closest(".marks_marks > path");

// The stop of the Tab key, and what a mark is for a screen reader. Vega keeps the elements when the window changes its size.
const prepare = (plot) => {
  for (const [number, mark] of marksOf(plot).entries()) {
    mark.setAttribute("tabindex", number ? "-1" : "0");
    mark.setAttribute("role", mark.__data__.datum.to ? "link" : "img");
    mark.removeAttribute("aria-roledescription");
  }
};

const follow = (mark) => {
  const { datum } = mark.__data__;
  if (!datum.to || !viewer) return;
  hideTip();
  openCase(datum.to, datum.said, mark);
};

const move = (event) => {
  const marks = marksOf(event.currentTarget);
  const at = marks.indexOf(document.activeElement);
  if (at < 0) return;
  const row = (number) => marks[number].__data__.datum.row;
  const firstOf = (wanted) => marks.findIndex((_, number) => row(number) === wanted);
  const rows = [...new Set(marks.map((_, number) => row(number)))];
  const beside = (step) => firstOf(rows[rows.indexOf(row(at)) + step]);
  const to = {
    ArrowRight: () => at + 1, ArrowLeft: () => at - 1, ArrowDown: () => beside(1), ArrowUp: () => beside(-1),
    Home: () => 0, End: () => marks.length - 1,
  }[event.key];
  if (to) {
    event.preventDefault();
    const next = marks[to()];
    if (!next) return;
    marks[at].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    follow(marks[at]);
  }
};

// Data come by columns, which is shorter; Vega takes rows.
const inRows = (unit) => {
  const columns = unit.data?.values;
  if (columns && !Array.isArray(columns)) {
    const names = Object.keys(columns);
    unit.data.values = columns[names[0]].map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
  }
  unit.layer?.forEach(inRows);
  return unit;
};

const draw = async (figure) => {
  const plot = figure.querySelector(".plot");
  const chart = inRows(JSON.parse(figure.querySelector("script").textContent));
  const { spec } = vegaLite.compile(chart, { config: look });
  const view = new vega.View(vega.parse(spec, null, { ast: true }), {
    container: plot, renderer: "svg", expr: expressionInterpreter, logLevel: vega.Warn, tooltip: () => {},
  });
  plot.addEventListener("keydown", move);
  plot.addEventListener("focusin", (event) => { const mark = markOf(event); if (mark) showTip(mark); });
  plot.addEventListener("focusout", hideTip);
  plot.addEventListener("mouseover", (event) => { const mark = markOf(event); if (mark) showTip(mark); });
  plot.addEventListener("mouseout", hideTip);
  plot.addEventListener("click", (event) => { const mark = markOf(event); if (mark) follow(mark); });
  await view.runAsync();
  prepare(plot);
};

// One after the other, so that the page answers meanwhile; all at once for the printer.
const waiting = [...document.querySelectorAll("figure.chart")];
const drawNext = async () => {
  while (waiting.length) {
    await draw(waiting.shift());
    await new Promise((done) => setTimeout(done));
  }
  document.documentElement.dataset.drawn = "";
};
window.addEventListener("beforeprint", () => { for (const figure of waiting.splice(0)) draw(figure); });
drawNext();
