"use strict";
// The page is whole without this: here are hints on pointing, arms to hide, tables to sort.
const tip = document.body.appendChild(document.createElement("div"));
tip.id = "page-tip";
tip.hidden = true;
for (const mark of document.querySelectorAll(".mark")) {
  const title = mark.querySelector("title");
  mark.dataset.tip = title.textContent;
  title.remove(); // or the browser would show it, too
}

const show = (text, x, y) => {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
};
const hide = () => { tip.hidden = true; };

// Dots are small: the nearest within reach answers.
const nearest = (event) => {
  const plot = event.target.closest && event.target.closest("svg.plot");
  let best = null, least = 14;
  for (const mark of plot ? plot.querySelectorAll(".mark") : []) {
    if (mark.closest(".off")) continue;
    for (const dot of mark.querySelectorAll("use, path")) {
      const box = dot.getBoundingClientRect();
      const away = Math.hypot(
        event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
      if (away < least) [best, least] = [mark, away];
    }
  }
  return best;
};
const point = (event) => {
  const term = event.target.closest && event.target.closest("a.term");
  const mark = term ? null : nearest(event);
  if (term) show(document.querySelector(term.hash).textContent, event.clientX, event.clientY);
  else if (mark) show(mark.dataset.tip, event.clientX, event.clientY);
  else hide();
};
document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.addEventListener("scroll", hide, { passive: true });
document.addEventListener("focusin", (event) => {
  const term = event.target.closest("a.term");
  if (!term) return;
  const box = term.getBoundingClientRect();
  show(document.querySelector(term.hash).textContent, box.x, box.bottom - 10);
});
document.addEventListener("click", (event) => {
  const touched = event.pointerType === "touch";
  if (event.target.closest("a.term") && touched) event.preventDefault();
  const mark = nearest(event);
  if (!mark) return;
  const href = mark.getAttribute("href");
  event.preventDefault();
  if (href && !touched) location.href = href;
});

for (const section of document.querySelectorAll("section")) {
  const arms = new Map();
  for (const drawn of section.querySelectorAll("svg .arm")) {
    const { arm, color } = drawn.dataset;
    if (!arms.has(arm)) arms.set(arm, { color, all: [] });
    arms.get(arm).all.push(drawn);
  }
  if (arms.size < 2) continue;
  const bar = document.createElement("p");
  bar.className = "arms";
  for (const [name, { color, all }] of arms) {
    const button = bar.appendChild(document.createElement("button"));
    button.textContent = name;
    button.style.setProperty("--arm", color);
    button.title = "show or hide";
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      const off = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!off));
      for (const drawn of all) drawn.classList.toggle("off", off);
    };
  }
  section.querySelector(".plots").before(bar);
}

const value = (cell) => {
  const text = cell.textContent.trim();
  const number = parseFloat(text.replace(/\u2212/g, "-").replace(/,/g, "").replace(/^[<>\u2265x ]+/, ""));
  return { text, number };
};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  heads.forEach((head, place) => {
    const numeric = head.classList.contains("number");
    head.tabIndex = 0;
    head.classList.add("sorts");
    const sort = (event) => {
      event.preventDefault();
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => ({ row, ...value(row.cells[place]) }));
      rows.sort((a, b) => {
        if (!numeric) return (up ? 1 : -1) * a.text.localeCompare(b.text, "en", { numeric: true });
        if (isNaN(a.number) || isNaN(b.number)) return isNaN(a.number) - isNaN(b.number);
        return (up ? 1 : -1) * (a.number - b.number);
      });
      rows.forEach(({ row }) => body.append(row));
    };
    head.onclick = sort;
    head.onkeydown = (event) => { if (event.target === head && (event.key === "Enter" || event.key === " ")) sort(event); };
  });
}
