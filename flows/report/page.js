// Headers become buttons that sort their column: by data-v where a cell has it, else by its text.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent;
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = [...body.rows].sort((a, b) => {
        const x = value(a, at), y = value(b, at);
        const less = x === "" || y === "" || isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -less : less;
      });
      body.append(...order);
    };
  });
}
