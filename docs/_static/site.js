// Summaries of search results are fetched, which browsers refuse for pages that are opened from a
// folder: there the results are titles only.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// What is wider than the page scrolls, and so has to be reached with the keyboard.
addEventListener("load", () => {
  for (const box of document.querySelectorAll("pre, div.math, .cell_output table")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
});
