"use strict";
document.documentElement.classList.add("scripted");
const panel = document.getElementById("panel");
if (panel) {
  const dots = [...document.querySelectorAll(".dots a")];
  const show = (dot) => {
    const query = document.getElementById(dot.getAttribute("href").slice(1));
    dots.forEach((each) => each.classList.toggle("on", each === dot));
    if (!query) {
      panel.replaceChildren(Object.assign(document.createElement("p"), { className: "note", textContent: "The lists of this query are not in this page." }));
      return;
    }
    const copy = query.cloneNode(true);
    copy.removeAttribute("id");
    copy.open = true;
    panel.replaceChildren(copy);
  };
  for (const dot of dots) {
    dot.addEventListener("click", (event) => { event.preventDefault(); show(dot); });
  }
  const first = document.querySelector("#queries h3 ~ h3 + .query") || document.querySelector("#queries > .query");
  const chosen = first && dots.find((dot) => dot.getAttribute("href") === "#" + first.id);
  if (chosen) show(chosen);
}
const rest = document.getElementById("rest");
if (rest) {
  const find = Object.assign(document.createElement("input"), { type: "search", className: "find", placeholder: "Find a query" });
  find.setAttribute("aria-label", "Find a query");
  rest.querySelector("summary").after(find);
  find.addEventListener("input", () => {
    const words = find.value.toLowerCase();
    for (const query of rest.querySelectorAll(".query")) query.hidden = !query.textContent.toLowerCase().includes(words);
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("#queries > .query").forEach((query) => { query.open = true; }));
