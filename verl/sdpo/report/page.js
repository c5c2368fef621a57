"use strict";

// Nats at which a token has its full colour.
const FULL = 3;
const ROW_HEIGHT = 6;
const $ = (id) => document.getElementById(id);

async function unpacked(name) {
  const bytes = Uint8Array.from(atob($(`packed-${name}`).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// Red below zero, blue above, white at zero; null: nobody was asked.
function colour(hundredths) {
  if (hundredths === null || hundredths === undefined) return null;
  const pale = Math.round(255 * (1 - Math.min(Math.abs(hundredths) / 100 / FULL, 1) ** 0.6));
  return hundredths < 0 ? `rgb(255, ${pale}, ${pale})` : `rgb(${pale}, ${pale}, 255)`;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Curves

async function drawFigures() {
  const [library, text] = await Promise.all([unpacked("plotly"), unpacked("figures")]);
  document.head.append(element("script", { textContent: library }));
  // All places first: plotly takes the width that a place has then.
  const places = JSON.parse(text).map(({ title, data, unit }) => {
    const plot = element("div", { className: "plot" });
    $("figures").append(element("figure", {}, element("figcaption", { textContent: title }), plot));
    return { plot, data, unit };
  });
  for (const { plot, data, unit } of places) {
    const layout = {
      margin: { l: 56, r: 10, t: 8, b: 24 }, hovermode: "x", showlegend: data.some((trace) => trace.name !== data[0].name),
      legend: { orientation: "h", y: -0.1, yanchor: "top", font: { size: 11 } }, yaxis: { title: { text: unit } },
    };
    Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false });
  }
}

// Samples

const FILTERS = {
  solved: (sample) => sample.solved,
  failed: (sample) => !sample.solved,
  no_target: (sample) => sample.has_target === false,
  truncated: (sample) => sample.response_cut || sample.prompt_truncated,
};
let store, current = { run: 0, step: null, group: null };

function visibleSamples() {
  const wanted = Object.keys(FILTERS).filter((name) => document.querySelector(`input[name=${name}]`).checked);
  const all = store.runs[current.run].steps[current.step] ?? [];
  return all.filter((sample) => wanted.every((name) => FILTERS[name](sample)));
}

function fill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, label]) => element("option", { value, textContent: label })));
  select.value = entries.some(([value]) => String(value) === String(chosen)) ? chosen : entries[0]?.[0];
  return select.value;
}

function showStep() {
  const run = store.runs[current.run];
  const steps = Object.keys(run.steps);
  current.step = fill($("step"), steps.map((step) => [step, step]), current.step ?? steps.at(-1));
  const samples = visibleSamples();
  const groups = [...new Set(samples.map((sample) => sample.uid))];
  const label = (uid, i) => {
    const members = samples.filter((sample) => sample.uid === uid);
    const question = store.texts[members[0].question].trim().split("\n").at(-1).slice(-60);
    return `${i + 1}: ${members.filter((sample) => sample.solved).length}/${members.length} solved, …${question}`;
  };
  current.group = fill($("group"), groups.map((uid, i) => [uid, label(uid, i)]), current.group);
  const all = (run.steps[current.step] ?? []).length;
  const left = run.left_out ? ` ${run.left_out} steps are left out to keep the page small.` : "";
  $("count").textContent = all ? `${samples.length} of ${all} dumped responses in ${groups.length} groups.${left}`
    : "No responses were dumped: train with trainer.rollout_data_dir.";
  drawStrip(samples);
  showGroup(samples.filter((sample) => sample.uid === current.group));
  history.replaceState(null, "", `#samples/${current.run}/${current.step}/${current.group}`);
}

// Figure 21: a row for each response, a column for each position.
function drawStrip(samples) {
  const canvas = $("strip"), context = canvas.getContext("2d");
  canvas.hidden = !samples.length;
  canvas.width = Math.max(1, ...samples.map((sample) => sample.tokens.length));
  canvas.height = Math.max(1, samples.length) * ROW_HEIGHT;
  canvas.style.height = `${canvas.height}px`;
  samples.forEach((sample, row) => sample.tokens.forEach((_, column) => {
    context.fillStyle = colour(sample.log_ratio?.[column]) ?? "#e4e4e8";
    context.fillRect(column, row * ROW_HEIGHT, 1, ROW_HEIGHT - 1);
  }));
  canvas.onclick = (event) => {
    const row = Math.floor(event.offsetY / ROW_HEIGHT);
    if (!samples[row]) return;
    current.group = samples[row].uid;
    showStep();
    const member = document.querySelector(`.member[data-attempt="${samples[row].attempt}"]`);
    member.classList.add("chosen");
    member.querySelector(".tokens").focus();
  };
}

function showGroup(members) {
  const shown = $("shown");
  if (!members.length) return shown.replaceChildren();
  const block = (title, text) => element("div", {}, element("h3", { textContent: title }), element("pre", { textContent: text }));
  shown.replaceChildren(
    element("div", { className: "context" }, block("Question", store.texts[members[0].question])),
    element("div", { className: "members" }, ...members.map(memberCard)),
  );
}

function memberCard(sample) {
  const facts = [`attempt ${sample.attempt}`, sample.graded ? `score ${sample.score}` : "not graded"];
  if (sample.has_target === false) facts.push("no target");
  if (sample.demonstration_attempt !== null) {
    facts.push(`is shown attempt ${sample.demonstration_attempt}`);
  }
  if (sample.prompt_truncated) facts.push("teacher prompt cut");
  if (sample.response_cut) facts.push("response cut");
  const tokens = element("p", { className: "tokens", tabIndex: 0 }, ...sample.tokens.map((text, i) => token(sample, text, i)));
  tokens.addEventListener("keydown", (event) => walk(event, tokens));
  tokens.addEventListener("blur", () => leave(tokens));
  const card = element("article", { className: `member ${sample.solved ? "solved" : "failed"}` },
    element("header", { textContent: facts.join(" · ") }), tokens);
  for (const [title, number] of [["The teacher read", sample.teacher_prompt], ["Feedback", sample.feedback]]) {
    if (number === null || (title !== "Feedback" && !sample.has_target)) continue;
    card.append(element("details", {},
      element("summary", { textContent: title }), element("pre", { textContent: store.texts[number] })));
  }
  card.dataset.attempt = sample.attempt;
  return card;
}

function token(sample, text, i) {
  const span = element("span", { textContent: store.texts[text] });
  const ratio = sample.log_ratio?.[i];
  const background = colour(ratio);
  if (background) {
    span.style.backgroundColor = background;
    span.dataset.ratio = (ratio / 100).toFixed(2);
    if (ratio < -60 * FULL) span.style.color = "#fff0f0";
    if (ratio > 60 * FULL) span.style.color = "#f0f0ff";
    if (Math.abs(ratio) > 60 * FULL) span.style.fontWeight = "600";
  } else if (sample.has_target !== null) {
    span.className = "silent";
  }
  span.addEventListener("mouseenter", () => explain(span, sample, i));
  span.addEventListener("mouseleave", () => ($("hover").hidden = true));
  span.addEventListener("explain", () => explain(span, sample, i));
  return span;
}

const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");

function explain(span, sample, i) {
  const nats = (values) => (values?.[i] === null || values?.[i] === undefined ? "-" : (values[i] / 100).toFixed(2));
  const hover = $("hover");
  const lines = [`position ${i}: ${visible(span.textContent)}`];
  if (span.dataset.ratio) {
    lines.push(`log q - log π  ${nats(sample.log_ratio)}`, `KL(student‖teacher)  ${nats(sample.kl)}`,
      `entropy  student ${nats(sample.student_entropy)}, teacher ${nats(sample.teacher_entropy)}  (nats)`);
  } else {
    lines.push("the teacher was not asked");
  }
  hover.replaceChildren(element("div", { textContent: lines.join("\n") }));
  if (span.dataset.ratio) hover.append(alternatives(sample, i));
  hover.hidden = false;
  const box = span.getBoundingClientRect(), mine = hover.getBoundingClientRect();
  const below = box.bottom + 8 + mine.height < innerHeight;
  hover.style.left = `${Math.max(4, Math.min(box.left, innerWidth - mine.width - 8))}px`;
  hover.style.top = `${below ? box.bottom + 6 : Math.max(4, box.top - mine.height - 6)}px`;
}

function alternatives(sample, i) {
  const row = (tag, ...cells) => element("tr", {}, ...cells.map((cell) => element(tag, { textContent: cell })));
  const table = element("table", {}, row("th", "student", "", "teacher", ""));
  for (let j = i * store.alternatives; j < (i + 1) * store.alternatives; j++) {
    const cells = ["student", "teacher"].flatMap((model) => [
      visible(store.texts[sample[`${model}_best`][j]]),
      `${(100 * Math.exp(sample[`${model}_best_log_probs`][j] / 100)).toFixed(1)} %`,
    ]);
    table.append(row("td", ...cells));
  }
  return table;
}

// Keyboard

function walk(event, tokens) {
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  const spans = [...tokens.children];
  const at = spans.findIndex((span) => span.classList.contains("current"));
  const next = spans[Math.max(0, Math.min(spans.length - 1, at + move))];
  leave(tokens);
  next.classList.add("current");
  next.dispatchEvent(new Event("explain"));
}

function leave(tokens) {
  tokens.querySelector(".current")?.classList.remove("current");
  $("hover").hidden = true;
}

function advance(select, by) {
  const next = select.options[select.selectedIndex + by];
  if (!next) return;
  select.value = next.value;
  select.dispatchEvent(new Event("change"));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  if (event.key === "Escape") $("hover").hidden = true;
  const [name, by] = { n: ["step", 1], p: ["step", -1], j: ["group", 1], k: ["group", -1] }[event.key] ?? [];
  if (name) advance($(name), by);
});

// A page that is watched comes again when the runs have gone on; the place in it is kept in its address.
async function keepUp() {
  const stamp = async () => (await fetch("stamp")).text();
  setInterval(async () => {
    if ((await stamp()) === WATCHED) return;
    sessionStorage.scroll = scrollY;
    location.reload();
  }, 5000);
}

async function main() {
  store = JSON.parse(await unpacked("samples"));
  const [section, run, at, group] = decodeURIComponent(location.hash.slice(1)).split("/");
  if (section === "samples" && store.runs[run]) current = { run: Number(run), step: at, group };
  fill($("run"), store.runs.map((each, i) => [i, each.name]), current.run);
  $("run").onchange = () => { current = { run: Number($("run").value), step: null, group: null }; showStep(); };
  $("step").onchange = () => { current.step = $("step").value; showStep(); };
  $("group").onchange = () => { current.group = $("group").value; showStep(); };
  document.querySelectorAll("#controls input").forEach((box) => (box.onchange = showStep));
  showStep();
  await drawFigures();
  if (WATCHED) {
    if (sessionStorage.scroll) scrollTo(0, Number(sessionStorage.scroll));
    keepUp();
  }
  document.body.dataset.ready = "yes";
}

main();
