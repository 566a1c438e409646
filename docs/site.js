// What the theme leaves out for keyboards and screen readers.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const e of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code"))
    e.tabIndex = 0;
  document.querySelectorAll(".md-code__nav").forEach((e, n) =>
    e.setAttribute("aria-label", `Code ${n + 1}`));
});
