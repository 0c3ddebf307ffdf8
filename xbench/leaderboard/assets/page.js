"use strict";
// Sorts, filters, and opens a row on its cells. Text of strangers is only ever set as text, and links are those that
// the page was built with: no HTML is made from strings, nothing is stored, nothing is fetched.
(() => {
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("data").textContent);
  const board = get("board");
  const body = board.tBodies[0];
  const heads = [...board.tHead.rows[0].cells];
  const RANK = 0, NAME = 1, FIXED = 2; // columns before those of the board

  /** An element with attributes; strings among the children become text. */
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  /** Text that may run from right to left, whatever stands beside it. */
  const bdi = (text) => make("bdi", {}, text);
  const number = (value, digits) => (value === null ? "–" : (value / 10 ** digits).toFixed(digits));

  // ---- the table

  const rows = [...body.rows].map((row, i) => ({ row, i, entry: data.entries[i], text: row.cells[NAME].textContent.toLowerCase() }));
  const entryOf = new Map(rows.map(({ row, i }) => [row, i]));
  // Names are compared once: their places are numbers, as all other things sorted by are.
  const { compare } = new Intl.Collator("en", { numeric: true });
  [...rows].sort((a, b) => compare(a.entry.name, b.entry.name)).forEach((one, place) => (one.entry.place = place));
  const titles = heads.map((head) => head.textContent.replace(/\s+/g, " ").trim());
  const sorted = { column: RANK, ascending: true };

  function valueOf(entry, column) {
    if (column === RANK) return entry.rank;
    if (column === NAME) return entry.place;
    return entry.means[column - FIXED] && entry.means[column - FIXED][0];
  }

  /** Rows without a value come last, either way; equal ones stay in the order of ranks. */
  function sort(column, ascending) {
    Object.assign(sorted, { column, ascending });
    const way = ascending ? 1 : -1;
    const keyed = rows.map((one) => [valueOf(one.entry, column), one]);
    keyed.sort(([a, one], [b, other]) => {
      if (a === b) return one.i - other.i;
      if (a === null) return 1;
      if (b === null) return -1;
      return way * (a - b);
    });
    body.append(...keyed.map(([, one]) => one.row));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
    announce();
  }

  function filter() {
    const words = get("filter").value.toLowerCase().split(/\s+/);
    const kind = get("kind").value;
    for (const { row, entry, text } of rows) {
      row.hidden = Boolean(kind && entry.kind !== kind) || !words.every((word) => text.includes(word));
    }
    announce();
  }

  function announce() {
    const shown = rows.filter(({ row }) => !row.hidden).length;
    const order = sorted.ascending ? "ascending" : "descending";
    get("count").textContent = `${shown} of ${rows.length} rows, by ${titles[sorted.column]}, ${order}`;
  }

  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    // The best first, then the other way round.
    const first = column < FIXED || data.columns[column - FIXED].lower;
    button.addEventListener("click", () => sort(column, sorted.column === column ? !sorted.ascending : first));
    head.append(button);
  });
  for (const { row } of rows) {
    const name = row.cells[NAME].querySelector("bdi");
    const button = make("button", { type: "button", "aria-haspopup": "dialog" });
    name.replaceWith(button);
    button.append(name);
  }
  body.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) open(entryOf.get(button.closest("tr")));
  });

  const menu = get("columns");
  function columns() {
    for (const box of menu.querySelectorAll("input")) {
      const at = FIXED + Number(box.value);
      heads[at].hidden = !box.checked;
      for (const { row } of rows) row.cells[at].hidden = !box.checked;
    }
  }
  menu.addEventListener("change", columns);
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  get("intervals").addEventListener("change", (event) => board.classList.toggle("no-intervals", !event.target.checked));
  get("filter").addEventListener("input", filter);
  get("kind").addEventListener("change", filter);
  get("controls").addEventListener("submit", (event) => event.preventDefault());

  // ---- light and dark

  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = get("theme");
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => (theme.textContent = isDark() ? "Light theme" : "Dark theme");
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  system.addEventListener("change", nameTheme);

  // ---- one entry

  const dialog = get("entry");

  /** [setting, query language, passage language] -> place among the cells of a task. */
  const placesOf = data.tasks.map((task) => new Map(task.cells.map((cell, at) => [cell.join(), at])));

  function cell(entry, chosen, setting, query, passage = -1) {
    const at = placesOf[chosen.task].get([setting, query, passage].join());
    return at === undefined || !entry.cells[chosen.task] ? null : entry.cells[chosen.task][0][chosen.measure][at];
  }
  const mean = (entry, chosen, at) => (entry.cells[chosen.task] ? entry.cells[chosen.task][1][chosen.measure][at] : null);

  function open(i) {
    const entry = data.entries[i];
    const chosen = { entry, task: Math.max(0, entry.cells.findIndex(Boolean)), measure: 0, other: null };
    const close = make("button", { type: "button" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const parts = make("div", {});
    function redraw() {
      parts.replaceChildren(...drawn(chosen));
      // Only maps are compared.
      for (const label of content.querySelectorAll(".against")) label.hidden = !parts.querySelector(".heat");
    }
    const content = make("div", {}, facts(entry), ...data.tasks.map((_, t) => origin(entry, t)).filter(Boolean));
    content.append(entry.cells.some(Boolean) ? chooser(chosen, redraw) : make("p", { class: "quiet" }, "No values by language."), parts);
    dialog.replaceChildren(
      make("header", {}, make("h2", { id: "entry-name" }, bdi(entry.name)), close),
      content,
    );
    redraw();
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  function list(pairs) {
    const found = make("dl", {});
    for (const [term, ...about] of pairs) found.append(make("dt", {}, term), make("dd", {}, ...about));
    return found;
  }

  function facts(entry) {
    return list([
      ["Kind", make("span", { class: `kind ${entry.kind}` }, entry.kind)],
      ["Rank", entry.rank === null ? "none" : String(entry.rank)],
      ...(entry.revision ? [["Revision", bdi(entry.revision)]] : []),
      ...(entry.note ? [["Note", bdi(entry.note)]] : []),
    ]);
  }

  const linked = (text, link) => (link ? make("a", { href: link, rel: "noopener nofollow" }, bdi(text)) : bdi(text));

  /** Where the values of a task come from, and what is missing. */
  function origin(entry, t) {
    const task = data.tasks[t];
    const from = entry.origins[t];
    const lacking = entry.missing[t] ? [["Missing", `${entry.missing[t]} of ${task.total} cells`]] : [];
    if (!from && !lacking.length) return null;
    const pairs = !from ? [] : from.source === undefined
      ? [["Result", linked(from.file, from.link)], ["SHA-256", make("code", {}, from.sha256)], ["Command", command(from.command)], ["xbench", bdi(from.version)]]
      : [["Source", linked(`${from.source}, ${from.where}`, from.link)], ["Address", bdi(from.url)], ...(from.note ? [["Differs", bdi(from.note)]] : [])];
    return make("section", {}, make("h3", {}, bdi(task.title), `, version ${task.version}`), list([...pairs, ...lacking]));
  }

  function command(text) {
    const code = make("code", {}, bdi(text));
    const button = make("button", { type: "button" }, "Copy");
    const said = make("span", { role: "status", class: "quiet" });
    // Where a browser keeps the clipboard to itself (no https), the command is selected for the reader to copy.
    const select = () => {
      getSelection().selectAllChildren(code);
      said.textContent = "Selected; copy it with the keyboard.";
    };
    button.addEventListener("click", () => {
      if (!navigator.clipboard) select();
      else navigator.clipboard.writeText(text).then(() => (said.textContent = "Copied."), select);
    });
    return make("div", { class: "command" }, code, button, said);
  }

  /** What the tables below are of: a task, a measure, another entry to compare with. */
  function chooser(chosen, redraw) {
    const pick = (label, options, change) => {
      const select = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
      select.addEventListener("change", () => (change(select.value), redraw()));
      return [make("label", {}, label, " ", select), select];
    };
    const others = () => data.entries.flatMap((e, i) => (e !== chosen.entry && e.cells[chosen.task] ? [[String(i), `${e.rank ?? "–"} ${e.name} (${e.kind})`]] : []));
    const [against, otherSelect] = pick("Compare with", [["", "nothing"], ...others()], (value) => (chosen.other = value ? data.entries[value] : null));
    against.className = "against";
    const tasks = data.tasks.flatMap((task, t) => (chosen.entry.cells[t] ? [[String(t), task.title]] : []));
    const [task] = pick("Task", tasks, (value) => {
      Object.assign(chosen, { task: Number(value), other: null });
      const fresh = [["", "nothing"], ...others()].map(([v, text]) => make("option", { value: v }, text));
      otherSelect.replaceChildren(...fresh);
    });
    const [measure] = pick("Measure", data.measures.map((m, at) => [String(at), m.name]), (value) => (chosen.measure = Number(value)));
    return make("div", { class: "controls" }, tasks.length > 1 ? task : null, data.measures.length > 1 ? measure : null, against);
  }

  function drawn(chosen) {
    if (!chosen.entry.cells[chosen.task]) return [];
    const pairs = [[byLanguage, heat], [groups, ownMeans]];
    return pairs.map((pair) => make("div", { class: "pair" }, ...pair.map((part) => part(chosen))));
  }

  function table(title, columns, lines, kind = "") {
    const head = make("tr", {}, ...columns.map((c) => make("th", { scope: "col", class: c === columns[0] ? "" : "number" }, bdi(c))));
    const rows = lines.map(([name, ...values]) => make("tr", {}, make("th", { scope: "row", class: kind }, bdi(name)), ...values.map((v) => make("td", { class: "number" }, v))));
    const grid = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
    return make("section", {}, make("h3", {}, title), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, grid));
  }

  function byLanguage(chosen) {
    const task = data.tasks[chosen.task];
    const digits = task.digits[chosen.measure];
    const at = new Map(task.means.map(([where, group], i) => [`${where} ${group}`, i]));
    const direct = (setting) => (a, q) => cell(chosen.entry, chosen, setting, q);
    const over = (where) => (a) => (at.has(`${where} ${a}`) ? mean(chosen.entry, chosen, at.get(`${where} ${a}`)) : null);
    const columns = [["mono", direct("mono")], ["cross from", over("cross from")], ["cross to", over("cross to")], ["multi", direct("multi")]];
    const filled = columns.map(([name, of]) => [name, task.languages.map(of)]).filter(([, values]) => values.some((v) => v !== null));
    if (!filled.length) return null;
    const title = `${data.measures[chosen.measure].name} by language`;
    return table(title, ["language", ...filled.map(([name]) => name)], task.languages.map((a, i) => [a, ...filled.map(([, values]) => number(values[i], digits))]));
  }

  function groups(chosen) {
    const task = data.tasks[chosen.task];
    const lines = task.means.flatMap(([where, group, cells], at) =>
      where === "cross from" || where === "cross to" ? [] : [[`${where}: ${group}`, String(cells), number(mean(chosen.entry, chosen, at), task.digits[chosen.measure])]]);
    return lines.length ? table(`${data.measures[chosen.measure].name} by group of languages`, ["group", "cells", "mean"], lines, "wide") : null;
  }

  /** The row of the board, with its intervals. */
  function ownMeans(chosen) {
    const lines = data.columns.flatMap((column, i) => {
      const [value, low, high] = chosen.entry.means[i] || [null];
      if (column.task !== chosen.task) return [];
      const range = low === undefined ? "–" : `${number(low, column.digits)} to ${number(high, column.digits)}`;
      return [[column.what, number(value, column.digits), range]];
    });
    return lines.length ? table("Columns of the board", ["column", "value", "interval"], lines, "wide") : null;
  }

  // ---- the map of the cross cells

  // Cividis: its lightness rises evenly, and it reads the same to colour-blind eyes.
  const CIVIDIS = ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8779", "a59c74", "c3b369", "fee838"]
    .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));

  function colour(share) {
    const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
    return CIVIDIS[low].map((c, i) => Math.round(c + (at - low) * (CIVIDIS[low + 1][i] - c)));
  }
  /** Black or white, whichever stands out more (WCAG's relative luminance; they are level at 0.179). */
  function inkOn(rgb) {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }

  function heat(chosen) {
    const task = data.tasks[chosen.task];
    const { name, lower } = data.measures[chosen.measure];
    const digits = task.digits[chosen.measure];
    const cross = task.cells.filter(([setting]) => setting === "cross");
    const at = (entry, q, p) => (q === p ? cell(entry, chosen, "mono", q) : cell(entry, chosen, "cross", q, p));
    const asked = task.languages.map((_, q) => q).filter((q) => cross.some((c) => c[1] === q));
    const searched = task.languages.map((_, p) => p).filter((p) => cross.some((c) => c[2] === p));
    if (!asked.some((q) => searched.some((p) => q !== p && at(chosen.entry, q, p) !== null))) return null;
    const pairs = asked.flatMap((q) => searched.map((p) => [q, p]));
    const difference = (q, p) => {
      const values = [at(chosen.entry, q, p), at(chosen.other, q, p)];
      return values.includes(null) ? null : values[0] - values[1];
    };
    // One scale for all rows of the board, so that two maps can be compared by eye.
    const all = data.entries.flatMap((entry) => pairs.map(([q, p]) => at(entry, q, p))).filter((v) => v !== null);
    const [least, most] = chosen.other
      ? [0, Math.max(1, ...pairs.map(([q, p]) => Math.abs(difference(q, p) ?? 0)))]
      : all.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);

    function paint(td, value) {
      if (chosen.other) {
        const side = value > 0 !== lower ? "better" : "worse";
        td.style.backgroundColor = `color-mix(in srgb, var(--${side}) ${Math.round((100 * Math.abs(value)) / most)}%, var(--paper))`;
      } else {
        const rgb = colour(most > least ? (value - least) / (most - least) : 0);
        td.style.backgroundColor = `rgb(${rgb.join()})`;
        td.style.color = inkOn(rgb);
      }
    }
    function square(q, p) {
      const value = chosen.other ? difference(q, p) : at(chosen.entry, q, p);
      const sign = chosen.other && value > 0 ? "+" : "";
      const td = make("td", { class: q === p ? "own" : "" }, sign + number(value, digits).replace("-", "−"));
      if (value !== null) paint(td, value);
      return td;
    }

    const head = make("tr", {}, make("th", { scope: "col" }, "query"), ...searched.map((p) => make("th", { scope: "col" }, bdi(task.languages[p]))));
    const lines = asked.map((q) => make("tr", {}, make("th", { scope: "row" }, bdi(task.languages[q])), ...searched.map((p) => square(q, p))));
    const said = "Query language down, passage language across; the framed diagonal is mono.";
    const title = chosen.other ? [`${name}: difference to `, bdi(chosen.other.name)] : [`${name} by pair of languages`];
    const grid = make("table", { class: "heat" }, make("caption", {}, said), make("thead", {}, head), make("tbody", {}, ...lines));
    return make("section", {}, make("h3", {}, ...title), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${name} by pair of languages` }, grid), scale(chosen, least, most, digits));
  }

  function scale(chosen, least, most, digits) {
    const bar = make("span", {});
    if (chosen.other) bar.style.background = "linear-gradient(to right, var(--worse), var(--paper), var(--better))";
    else bar.style.background = `linear-gradient(to right, ${CIVIDIS.map((rgb) => `rgb(${rgb.join()})`).join()})`;
    const ends = chosen.other ? [`worse by ${number(most, digits)}`, `better by ${number(most, digits)}`] : [number(least, digits), `${number(most, digits)} (the board's range)`];
    return make("p", { class: "scale" }, make("span", {}, ends[0]), bar, make("span", {}, ends[1]));
  }

  columns();
  nameTheme();
  announce();
  get("no-script").hidden = true;
  theme.hidden = false;
  get("controls").hidden = false;
})();
