// Search and filters of the catalog's page.

const filters = document.querySelector("#catalog-filters");
if (filters) {
  const papers = [...document.querySelectorAll(".paper")].map((element) => ({
    element,
    ...element.dataset,
    text: `${element.textContent} ${element.dataset.more}`.toLowerCase(),
  }));
  const parts = [...document.querySelectorAll(".catalog-part")];
  const { words, part, kind, done, count } = filters.elements;

  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const paper of papers) {
      const fits =
        wanted.every((word) => paper.text.includes(word)) &&
        (!part.value || paper.part === part.value) &&
        (!kind.value || paper.kind === kind.value) &&
        (!done.checked || paper.done === "true");
      paper.element.hidden = !fits;
      shown += fits;
    }
    for (const section of parts) {
      section.hidden = !section.querySelector(".paper:not([hidden])");
    }
    count.value = `${shown} of ${papers.length} papers`;
  };

  filters.hidden = false;
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply(); // the browser keeps what was typed when a reader comes back
}
