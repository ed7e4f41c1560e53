"use strict";
document.documentElement.classList.add("script");
const pressed = (button) => button.getAttribute("aria-pressed") === "true";

for (const charts of document.querySelectorAll(".charts")) {
  const readers = [], buttons = [...charts.querySelectorAll("button[data-line]")];
  for (const figure of charts.querySelectorAll("figure.chart")) {
    const plot = figure.querySelector(".plot"), cursor = plot.querySelector(".cursor");
    const slider = figure.querySelector("input"), output = figure.querySelector(".read");
    const heads = [...figure.querySelectorAll(".points th[data-line]")];
    const rows = [...figure.querySelectorAll(".points tbody tr")];

    const read = () => {
      const row = rows[slider.value], cells = [...row.cells];
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, row.dataset.at);
      const texts = heads.filter((head) => pressed(buttons[head.dataset.line])).map((head) =>
        `${head.textContent}: ${cells[head.cellIndex].textContent}`);
      slider.setAttribute("aria-valuetext", [cells[0].textContent, ...texts].join("; "));
      output.replaceChildren(...[`at ${cells[0].textContent}`, ...texts].flatMap((text) => {
        const part = document.createElement("span");
        part.textContent = text;
        return [part, " "];
      }));
    };

    slider.addEventListener("input", read);
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width * plot.viewBox.baseVal.width;
      const far = (row) => Math.abs(row.dataset.at - at);
      slider.value = rows.reduce((best, row, i) => (far(row) < far(rows[best]) ? i : best), 0);
      read();
    });
    readers.push(read);
    read();
  }

  for (const button of charts.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const on = !pressed(button), { show, line } = button.dataset;
      button.setAttribute("aria-pressed", String(on));
      if (show) charts.querySelectorAll(".plot").forEach((plot) => plot.classList.toggle(`with-${show}`, on));
      else charts.querySelectorAll(`g[data-line="${line}"]`).forEach((g) => g.classList.toggle("hidden", !on));
      readers.forEach((read) => read());
    });
  }
}
