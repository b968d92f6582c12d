// Controls for the pictures whose frames were drawn when the site was built. Each knob has its own
// frames, with the other knobs at their defaults: moving one sets the others back.

for (const [index, box] of document.querySelectorAll(".explorer").entries()) {
  const image = box.querySelector("img");
  const knobs = JSON.parse(box.dataset.knobs);
  const rows = knobs.map((knob, place) => makeControl(knob, `knob-${index}-${place}`));

  const panel = document.createElement("div");
  panel.className = "knobs";
  panel.setAttribute("role", "group");
  panel.setAttribute("aria-label", "Knobs of the picture below");
  panel.append(...rows.map((row) => row.element));
  if (knobs.length > 1) {
    const note = document.createElement("p");
    note.textContent = "Here one knob moves at a time; in JupyterLab they move together.";
    panel.append(note);
  }
  box.prepend(panel);

  rows.forEach((row, place) => {
    const show = () => {
      rows.filter((other) => other !== row).forEach((other) => other.reset());
      row.tell();
      image.src = knobs[place].files[row.position()];
    };
    row.control.addEventListener("input", show);
    // A frame is loaded before it is needed, so that nothing flickers.
    for (const event of ["pointerenter", "focus", "touchstart"]) {
      row.control.addEventListener(event, () => preload(knobs[place]), { once: true, passive: true });
    }
  });
}

function makeControl(knob, id) {
  const label = document.createElement("label");
  label.htmlFor = id;
  label.textContent = knob.label;
  const control = knob.kind === "range" ? makeRange(knob) : makeSelect(knob);
  control.id = id;
  const readout = document.createElement("output");
  readout.htmlFor = id;
  const row = {
    control,
    element: document.createElement("div"),
    position: () => Number(control.value),
    reset() {
      control.value = knob.start;
      row.tell();
    },
    tell() {
      const value = knob.values[row.position()];
      if (knob.kind === "range") {
        readout.textContent = value;
        control.setAttribute("aria-valuetext", value);
      }
    },
  };
  row.element.append(label, control, readout);
  row.tell();
  return row;
}

function makeRange(knob) {
  const control = document.createElement("input");
  Object.assign(control, { type: "range", min: 0, max: knob.values.length - 1, step: 1 });
  control.value = knob.start;
  return control;
}

function makeSelect(knob) {
  const control = document.createElement("select");
  knob.values.forEach((value, place) => control.add(new Option(value, place)));
  control.value = knob.start;
  return control;
}

function preload(knob) {
  knob.loaded ??= knob.files.map((file) => Object.assign(new Image(), { src: file }));
}
