// Summaries of search results are fetched, which browsers refuse for pages that are opened from a
// folder: there the results are titles only.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
