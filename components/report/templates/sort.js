// Makes the last row of each sortable table's head sort the lines inside each group; without it the tables just stand.
// The lines of single seeds go where their mean goes.
const valueOf = (cell) => cell.dataset.value ?? cell.textContent.trim();
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead th[data-column]")];
  for (const head of heads) {
    const label = head.querySelector(".label");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...label.childNodes);
    label.append(button);
    button.addEventListener("click", () => {
      const column = Number(head.dataset.column);
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      for (const body of table.tBodies) {
        const lines = [];
        for (const row of body.rows) {
          if (row.classList.contains("seed")) lines.at(-1).push(row);
          else if (!row.classList.contains("group")) lines.push([row]);
        }
        const value = ([row]) => valueOf(row.cells[column]);
        lines.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === "");   // what is not defined stays last
          const [p, q] = [Number(x), Number(y)];
          const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
          return down ? -order : order;
        });
        body.append(...lines.flat());
      }
    });
  }
}
