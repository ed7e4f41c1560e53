"use strict";
document.documentElement.classList.add("script");
for (const figure of document.querySelectorAll("figure.chart")) {
  const plot = figure.querySelector(".plot"), cursor = plot.querySelector(".cursor");
  const slider = figure.querySelector("input"), output = figure.querySelector(".read");
  const buttons = [...figure.querySelectorAll("button[data-line]")];
  const rows = [...figure.querySelectorAll(".points tbody tr")];
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  const read = () => {
    const row = rows[slider.value], cells = [...row.cells];
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, row.dataset.at);
    const texts = buttons.filter(pressed).map((button) =>
      `${button.textContent.trim()}: ${cells[Number(button.dataset.line) + 1].textContent}`);
    slider.setAttribute("aria-valuetext", [cells[0].textContent, ...texts].join("; "));
    output.replaceChildren(...[`at ${cells[0].textContent}`, ...texts].flatMap((text) => {
      const part = document.createElement("span");
      part.textContent = text;
      return [part, " "];
    }));
  };

  for (const button of figure.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const on = !pressed(button);
      button.setAttribute("aria-pressed", String(on));
      if (button.dataset.show) plot.classList.toggle(`with-${button.dataset.show}`, on);
      else plot.querySelector(`g[data-line="${button.dataset.line}"]`).classList.toggle("hidden", !on);
      read();
    });
  }
  slider.addEventListener("input", read);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * plot.viewBox.baseVal.width;
    const far = (row) => Math.abs(row.dataset.at - at);
    slider.value = rows.reduce((best, row, i) => (far(row) < far(rows[best]) ? i : best), 0);
    read();
  });
  read();
}
