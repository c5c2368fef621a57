"use strict";

// Colours of tokens by log q - log π, white at zero; the legend is written from here.
const CREDIT = {
  higher: { name: "blue", rgb: [0, 0, 255], meaning: "the teacher's probability is higher than the student's" },
  lower: { name: "red", rgb: [255, 0, 0], meaning: "lower" },
};
const NOT_SCORED = { name: "grey", rgb: [228, 228, 232], meaning: "not scored" };
const FULL_NATS = 3; // full colour from here on
const BOLD_SHARE = 0.6; // of it, from which the text is bold and white, to be read on a strong colour
const ROW_HEIGHT = 6;
const $ = (id) => document.getElementById(id);

async function unpacked(name) {
  const bytes = Uint8Array.from(atob($(`packed-${name}`).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// The page holds whole hundredths of nats; null where a token was not scored.
const nats = (values, i) => (values?.[i] === null || values?.[i] === undefined ? null : values[i] / 100);

const css = (rgb) => `rgb(${rgb.join(", ")})`;

function colour(ratio) {
  if (ratio === null) return null;
  const strength = Math.min(Math.abs(ratio) / FULL_NATS, 1) ** 0.6;
  return css(CREDIT[ratio < 0 ? "lower" : "higher"].rgb.map((channel) => Math.round(channel * strength + 255 * (1 - strength))));
}

function writeLegend() {
  const entries = [...Object.values(CREDIT), NOT_SCORED].flatMap(({ name, rgb, meaning }, i) => {
    const word = element("b", { textContent: i ? name : name[0].toUpperCase() + name.slice(1) });
    word.style.borderBottom = `3px solid ${css(rgb)}`;
    return [i ? "; " : "", word, `: ${meaning}`];
  });
  $("legend").append(...entries, ".");
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
  // All elements first: plotly takes the width that an element has when it draws.
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
  no_context: (sample) => sample.has_target === false,
  truncated: (sample) => sample.response_cut || sample.prompt_truncated,
};
let store, current = { run: 0, step: null, group: null };

function visibleSamples() {
  const chosen = Object.keys(FILTERS).filter((name) => document.querySelector(`input[name=${name}]`).checked);
  const all = store.runs[current.run].steps[current.step] ?? [];
  return all.filter((sample) => chosen.every((name) => FILTERS[name](sample)));
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
    context.fillStyle = colour(nats(sample.log_ratio, column)) ?? css(NOT_SCORED.rgb);
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
  if (sample.has_target === false) facts.push("no teacher context");
  if (sample.demonstration_attempt !== null) facts.push(`demonstration: attempt ${sample.demonstration_attempt}`);
  if (sample.prompt_truncated) facts.push("teacher prompt cut");
  if (sample.response_cut) facts.push("response cut");
  const tokens = element("p", { className: "tokens", tabIndex: 0 }, ...sample.tokens.map((text, i) => token(sample, text, i)));
  tokens.addEventListener("keydown", (event) => walk(event, tokens));
  tokens.addEventListener("blur", () => leave(tokens));
  const card = element("article", { className: `member ${sample.solved ? "solved" : "failed"}` },
    element("header", { textContent: facts.join(" · ") }), tokens);
  for (const [title, number] of [["Teacher's prompt", sample.teacher_prompt], ["Feedback", sample.feedback]]) {
    if (number === null || (title !== "Feedback" && !sample.has_target)) continue;
    card.append(element("details", {},
      element("summary", { textContent: title }), element("pre", { textContent: store.texts[number] })));
  }
  card.dataset.attempt = sample.attempt;
  return card;
}

function token(sample, text, i) {
  const span = element("span", { textContent: store.texts[text] });
  const ratio = nats(sample.log_ratio, i);
  const background = colour(ratio);
  if (background) {
    span.style.backgroundColor = background;
    span.dataset.ratio = ratio.toFixed(2);
    if (Math.abs(ratio) > BOLD_SHARE * FULL_NATS) Object.assign(span.style, { color: "#fff", fontWeight: "600" });
  } else if (sample.has_target !== null) {
    span.className = "unscored";
  }
  span.addEventListener("mouseenter", () => explain(span, sample, i));
  span.addEventListener("mouseleave", () => ($("hover").hidden = true));
  span.addEventListener("explain", () => explain(span, sample, i));
  return span;
}

const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");

function explain(span, sample, i) {
  const hover = $("hover");
  const lines = [`position ${i}: ${visible(span.textContent)}`];
  if (span.dataset.ratio) {
    for (const [name, label] of Object.entries(store.quantities)) {
      lines.push(`${label}  ${nats(sample[name], i)?.toFixed(2) ?? "-"} nats`);
    }
  } else {
    lines.push(NOT_SCORED.meaning);
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

// A served page reloads when a run has logged another step; its address keeps the place in it.
function follow() {
  const stamp = async () => (await fetch("stamp")).text();
  setInterval(async () => {
    if ((await stamp()) === STAMP) return;
    sessionStorage.scroll = scrollY;
    location.reload();
  }, 5000);
}

async function main() {
  writeLegend();
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
  if (STAMP) {
    if (sessionStorage.scroll) scrollTo(0, Number(sessionStorage.scroll));
    follow();
  }
  document.body.dataset.ready = "yes";
}

main();
