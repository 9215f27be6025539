// A reader's answers: kept in the browser, downloaded as CSV.
//
// Local storage keeps them after the page is closed. A busy browser may lose its last
// writes when the page is reloaded (Chromium does, about once in 50 reloads under load),
// so the tab's history has a copy; the one that was saved last is shown.
"use strict";
const study = JSON.parse(document.getElementById("study").textContent);
const at = (id) => document.getElementById(id);
const place = "reader-study-" + study.id;
const form = at("form");
let state = { reader: "", answers: {}, current: 0, saves: 0 };

function warn(error) {
  at("note").textContent = "This browser keeps no answers (" + error.message +
    "): download them before you close the page.";
}

function load() {
  try {
    const local = JSON.parse(localStorage.getItem(place) || "{}");
    const copy = (history.state || {})[place] || {};
    const lost = (copy.saves || 0) > (local.saves || 0);
    state = { ...state, ...(lost ? copy : local) };
    if (lost) write();
  } catch (error) {
    warn(error);
  }
}

function write() {
  history.replaceState({ [place]: state }, "");
  localStorage.setItem(place, JSON.stringify(state));
}

function save() {
  state.saves += 1;
  try {
    write();
  } catch (error) {
    warn(error);
  }
}

function choice(type, name, value, text) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type, name, value });
  label.append(input, " " + text);
  return label;
}

function answered(image) {
  const answer = state.answers[image.name] || {};
  return Boolean(answer.verdict && answer.realism && (answer.findings || []).length);
}

function count() {
  const done = study.images.filter(answered).length;
  at("status").textContent = `Image ${state.current + 1} of ${study.images.length}, ` +
    `${done} answered`;
  Object.assign(at("bar"), { max: study.images.length, value: done });
  return done;
}

function show(index) {
  state.current = Math.min(Math.max(index, 0), study.images.length - 1);
  const image = study.images[state.current];
  // Nothing moves where the image is in sight, as it is not on a phone.
  at("image").scrollIntoView({ block: "nearest" });
  at("image").src = "data:image/png;base64," + image.png;
  at("image").alt = "Chest radiograph " + (state.current + 1);
  const answer = state.answers[image.name] || {};
  for (const input of form.querySelectorAll("input")) {
    input.checked = input.name === "findings"
      ? (answer.findings || []).includes(input.value)
      : answer[input.name] === input.value;
  }
  count();
}

function go(index) {
  show(index);
  save();
}

function record() {
  const data = new FormData(form);
  state.answers[study.images[state.current].name] = {
    verdict: data.get("verdict"),
    realism: data.get("realism"),
    findings: data.getAll("findings"),
  };
  count();
  save();
}

// A finding and none at all exclude each other.
function exclude(changed) {
  if (changed.name !== "findings" || !changed.checked) return;
  for (const input of form.querySelectorAll("[name=findings]")) {
    if ((input.value === study.none) !== (changed.value === study.none)) {
      input.checked = false;
    }
  }
}

function next() {
  if (state.current + 1 < study.images.length) return go(state.current + 1);
  const open = study.images.length - count();
  at("note").textContent = open
    ? `This is the last image; ${open} are not answered yet.`
    : "This was the last image. Download your answers and send the file back.";
}

function cell(text) {
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function table() {
  const rows = study.images.map((image) => {
    const answer = state.answers[image.name] || {};
    return [state.reader, image.name, answer.verdict || "", answer.realism || "",
      (answer.findings || []).join("|")];
  });
  return [study.columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") +
    "\r\n";
}

function download() {
  const link = document.createElement("a");
  const name = state.reader.replace(/[^A-Za-z0-9_-]+/g, "_").slice(0, 40);
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = name ? `answers_${name}.csv` : "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  const open = study.images.length - count();
  at("note").textContent = `Downloaded as ${link.download}` +
    (open ? `; ${open} images are not answered yet.` : "; all images are answered.");
}

function firstOpen() {
  const index = study.images.findIndex((image) => !answered(image));
  return index < 0 ? state.current : index;
}

for (let value = 1; value <= 5; value++) {
  at("realism").append(choice("radio", "realism", String(value), String(value)));
}
for (const value of [...study.findings, study.none]) {
  at("findings").append(
    choice("checkbox", "findings", value, value.replaceAll("_", " ")));
}
form.addEventListener("change", (event) => { exclude(event.target); record(); });
form.addEventListener("submit", (event) => { event.preventDefault(); next(); });
at("previous").addEventListener("click", () => go(state.current - 1));
at("unanswered").addEventListener("click", () => go(firstOpen()));
at("download").addEventListener("click", download);
at("reader").addEventListener("input", (event) => {
  state.reader = event.target.value.trim();
  save();
});
at("clear").addEventListener("click", () => {
  if (!confirm("Clear all answers in this browser?")) return;
  state = { reader: "", answers: {}, current: 0, saves: state.saves };
  at("reader").value = "";
  go(0);
});
document.addEventListener("keydown", (event) => {
  if (event.target === at("reader") || event.ctrlKey || event.altKey || event.metaKey) {
    return;
  }
  const key = event.key.toLowerCase();
  const chosen = { r: "[value=real]", s: "[value=synthetic]",
    0: `[name=findings][value="${study.none}"]` }[key] ||
    ("12345".includes(key) && key ? `[name=realism][value="${key}"]` : "");
  if (chosen) form.querySelector(chosen).click();
  else if (key === "p") go(state.current - 1);
  else if (key === "u") go(firstOpen());
  else if (key === "enter" && !event.target.closest("button, input")) next();
});
function restore() {
  load();
  at("reader").value = state.reader;
  show(state.current);
}

// Answers given in another tab are shown here. Loading the page counts as no save, so
// that it cannot replace them.
window.addEventListener("storage", (event) => {
  if (event.key === place && event.newValue) restore();
});
restore();
