// Gives a table with data-filters a choice for each of its text columns; without it all lines just stand.
for (const table of document.querySelectorAll("table[data-filters]")) {
  const first = JSON.parse(table.dataset.filters);
  const lines = [...table.tBodies].flatMap((body) => [...body.rows]);
  // "DEFU-Net, seed 0" and "DEFU-Net, mean of 3 seeds" are both DEFU-Net.
  const value = (row, column) => valueOf(row.cells[column]).split(", ")[0];
  const form = document.createElement("form");
  form.className = "filters";
  form.setAttribute("aria-label", `Filter: ${table.caption.querySelector("strong").textContent}`);
  const choices = [];
  for (const head of table.querySelectorAll("thead th.text[data-column]")) {
    const column = Number(head.dataset.column);
    const name = head.querySelector(".label").textContent;
    const select = document.createElement("select");
    select.name = name.toLowerCase();
    for (const text of ["", ...new Set(lines.map((row) => value(row, column)))]) {
      select.add(new Option(text || "any", text, text === first[name], text === first[name]));
    }
    const label = document.createElement("label");
    label.append(name, select);
    form.append(label);
    choices.push([column, select]);
  }
  const reset = document.createElement("button");
  reset.type = "reset";
  reset.textContent = "Reset";
  const count = document.createElement("output");
  form.append(reset, count);
  const apply = () => {
    const counted = lines.filter((row) => !row.classList.contains("seed"));
    for (const row of lines) {
      row.hidden = !choices.every(([column, select]) => !select.value || value(row, column) === select.value);
    }
    count.textContent = `${counted.filter((row) => !row.hidden).length} of ${counted.length} lines`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply));   // the event comes before the choices change
  form.addEventListener("submit", (event) => event.preventDefault());
  table.parentElement.before(form);
  apply();
}
