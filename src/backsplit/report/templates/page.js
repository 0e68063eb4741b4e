"use strict";
// Tables: a click on a head sorts, the form above filters. Without this script they stand as they are.
(() => {
  const collator = new Intl.Collator("en", { numeric: true });

  function prepare(listing) {
    const body = listing.querySelector("tbody");
    const rows = Array.from(body.rows, (row) => ({
      row,
      tags: JSON.parse(row.dataset.tags),
      text: row.textContent.toLowerCase(),
      keys: Array.from(row.cells, (cell) => keyOf(cell)),
    }));
    const heads = Array.from(listing.querySelectorAll("thead th"));
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent.trim();
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(body, rows, heads, column));
    });
    const form = listing.querySelector("form");
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => filter(form, rows));
    filter(form, rows);
  }

  // Cells with a number carry it; an undefined one is null, and last either way.
  function keyOf(cell) {
    if (!("key" in cell.dataset)) return cell.textContent.trim();
    return cell.dataset.key === "" ? null : Number(cell.dataset.key);
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));
  }

  function sort(body, rows, heads, column) {
    const isUp = heads[column].getAttribute("aria-sort") !== "ascending";
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", isUp ? "ascending" : "descending");
    rows.sort((first, second) => {
      const [a, b] = [first.keys[column], second.keys[column]];
      if (a === null || b === null) return (a === null) - (b === null);
      return isUp ? compare(a, b) : compare(b, a);
    });
    body.append(...rows.map((each) => each.row));
  }

  function filter(form, rows) {
    const wanted = form.querySelector("input").value.trim().toLowerCase();
    const choices = Array.from(form.querySelectorAll("select")).filter((select) => select.value !== "");
    let shown = 0;
    for (const { row, tags, text } of rows) {
      const fits = choices.every((select) => (tags[select.dataset.tag] || []).includes(select.value));
      row.hidden = !(fits && text.includes(wanted));
      shown += !row.hidden;
    }
    form.querySelector("output").textContent = `${shown} of ${rows.length}`;
  }

  document.querySelectorAll("[data-listing]").forEach(prepare);
  addEventListener("load", () => setTimeout(() => document.documentElement.classList.add("built"), 200));

  // `backsplit report --serve`: load the page anew when it was built anew, but not while a case is open.
  function listen(first) {
    const script = document.createElement("script");
    script.src = `state.js?${Date.now()}`;
    script.onload = () => {
      script.remove();
      const { build } = document.documentElement.dataset;
      if (first && build !== first && !document.querySelector("dialog[open]")) location.reload();
      else setTimeout(() => listen(first || build), 3000);
    };
    document.head.append(script);
  }

  if (location.hostname === "127.0.0.1" || location.hostname === "localhost") listen("");
})();
