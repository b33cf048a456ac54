// Clips of a page start together and stay together; who asked their system for less motion starts them by hand.
(() => {
  const clips = [...document.querySelectorAll("video")];
  const button = document.getElementById("play");
  if (!button || !clips.length) return;
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const show = () => {
    for (const clip of clips) {
      clip.currentTime = 0;
      if (playing) clip.play().catch(() => {});
      else clip.pause();
    }
    button.textContent = playing ? "Pause" : "Play";
    button.setAttribute("aria-pressed", String(playing));
  };
  // Loops drift apart: of each row, the others follow the first clip.
  const apart = 0.08;
  setInterval(() => {
    if (!playing || document.hidden) return;
    for (const row of document.querySelectorAll(".prompt")) {
      const [lead, ...others] = row.querySelectorAll("video");
      for (const clip of others) {
        const gap = Math.abs(clip.currentTime - lead.currentTime);
        if (gap > apart && Math.abs(gap - lead.duration) > apart) clip.currentTime = lead.currentTime;
      }
    }
  }, 1000);
  button.hidden = false;
  button.addEventListener("click", () => { playing = !playing; show(); });
  addEventListener("load", show);
})();

// A click on a column's head sorts its table, by the cells' own values where they have them.
(() => {
  const number = (cell) => {
    const said = cell.dataset.sort ?? cell.textContent.trim().replace("\u2212", "-").replace(/,/g, "");
    return said === "" ? NaN : Number(said);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.setAttribute("aria-sort", "none");
      head.tabIndex = 0;
      const sort = () => {
        const falling = head.getAttribute("aria-sort") !== "descending";
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row, place) => [row, row.cells[column], place]);
        const numeric = rows.some(([, cell]) => Number.isFinite(number(cell)));
        const way = falling ? -1 : 1;
        rows.sort(([, a, i], [, b, j]) => {
          if (!numeric) return way * a.textContent.trim().localeCompare(b.textContent.trim()) || i - j;
          const x = number(a), y = number(b);
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || i - j;
          return way * (x - y) || i - j;
        });
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        body.append(...rows.map(([row]) => row));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } });
    });
  }
})();

// Light or dark, in place of what the system asks for.
(() => {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  if (!button) return;
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const told = () => { button.textContent = dark ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { dark = !dark; root.dataset.theme = dark ? "dark" : "light"; told(); });
  told();
})();
