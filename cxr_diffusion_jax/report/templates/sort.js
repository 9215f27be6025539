// Sorts tables by a click or a key on a heading, and filters their rows.
"use strict";

function compare(kind, direction) {
  return (a, b) => {
    // What has no value stands last in either direction.
    if (a.value === "" || b.value === "") {
      return (a.value === "") - (b.value === "") || a.place - b.place;
    }
    const order = kind === "number"
      ? Number(a.value) - Number(b.value)
      : a.value.localeCompare(b.value, "en", { numeric: true });
    return direction * order || a.place - b.place;
  };
}

function sort(head) {
  const table = head.closest("table");
  const body = table.tBodies[0];
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) {
    other.setAttribute("aria-sort", "none");
  }
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const rows = Array.from(body.rows, (row) => {
    const cell = row.cells[head.cellIndex];
    const value = cell.dataset.value ?? cell.textContent.trim();
    return { row, value, place: Number(row.dataset.place) };
  });
  rows.sort(compare(head.dataset.kind, ascending ? 1 : -1));
  body.append(...rows.map((each) => each.row));
}

function filter(name) {
  const selects = document.querySelectorAll(`select[data-table="${name}"]`);
  const rows = Array.from(document.getElementById(name).tBodies[0].rows);
  for (const row of rows) {
    row.hidden = Array.from(selects).some(
      (each) => each.value !== "*" && row.dataset[each.dataset.key] !== each.value);
  }
  const shown = rows.filter((row) => !row.hidden).length;
  document.querySelector(`.status[data-table="${name}"]`).textContent =
    `${shown} of ${rows.length} rows`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tBodies[0].rows).forEach((row, place) => {
    row.dataset.place = place;
  });
  for (const head of table.querySelectorAll("th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => sort(head));
  }
}
for (const filters of document.querySelectorAll(".filters")) {
  filters.hidden = false;
  filters.addEventListener("change", (event) => filter(event.target.dataset.table));
}
// Paper has nothing to unfold.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
