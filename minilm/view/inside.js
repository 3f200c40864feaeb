"use strict";
// A text inside the model. Nothing is computed here: every number comes from passes that were
// recorded when the page was written. `state` says what is pointed at; `show` draws it.
const data = JSON.parse(document.getElementById("data").textContent);
const { tokens, views, names, layers, heads } = data;
const T = tokens.length, hideable = (i) => i > 0 && i < T - 1;
const state = { at: T >> 1, hidden: 0, layer: layers - 1, head: 0 };
const updates = []; // functions that draw the part of the page that depends on `state`

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children); // strings become text, never markup
  return node;
}

const percent = (p) => (p >= 0.1 ? (100 * p).toFixed(0) : (100 * p).toPrecision(2)) + " %";
const unpack = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const spoken = (i) => `${names[tokens[i]]}, token ${i} of ${T - 1}`;
// What a view recorded for position i, in the pass that hides a token if it made a difference.
const recorded = (values, i) => values[state.hidden]?.[i] ?? values[0][i];

// One panel: a column for each view, filled by make(view, column), which returns its update.
function panel(id, make) {
  const root = document.getElementById(id);
  for (const view of views) {
    const title = view.name + (view.trained ? "" : " (not trained)");
    const column = el("div", { className: "column" }, el("h3", {}, title));
    root.append(column);
    updates.push(make(view, column));
  }
}

// The text, each token as a button shaded by a weight from 0 to 1.
function strip(column, label, onClick) {
  const buttons = tokens.map((token, i) =>
    el("button", { className: "token c0", type: "button", tabIndex: -1 }, names[token]));
  const root = el("div", { className: "tokens", role: "group", "aria-label": label }, ...buttons);
  buttons.forEach((button, i) => {
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(i));
    button.addEventListener("click", (event) => {
      // A finger cannot hover: its first tap points, its second one hides.
      if (event.pointerType === "touch" && state.at !== i) point(i);
      else onClick(i);
    });
  });
  column.append(root);
  return (weight, title) => buttons.forEach((button, i) => {
    button.style.setProperty("--w", Math.min(1, weight(i)).toFixed(3));
    button.classList.toggle("at", i === state.at);
    button.classList.toggle("hidden", i === state.hidden && i > 0);
    button.tabIndex = i === state.at ? 0 : -1;
    button.title = title(i);
    button.setAttribute("aria-label", `${spoken(i)}: ${title(i)}`);
  });
}

// Likeliest tokens as bars. best: [[token, probability], ...]
function bars(list, best, right) {
  list.replaceChildren(...(best ?? []).map(([token, p]) =>
    el("li", { "--w": p, className: token === right ? "right" : "" },
      el("code", {}, names[token]), el("span", {}, percent(p)))));
  if (!best?.length) list.append(el("li", { className: "note" }, "nothing is predicted here"));
}

function heading(column, text) {
  const title = el("p", { className: "note" }, text), list = el("ol", { className: "bars" });
  column.append(title, list);
  return [list, title];
}

// 1. Surprisal.
panel("tokens", (view, column) => {
  const draw = strip(column, `surprisal, ${view.name}`, hide);
  const total = column.appendChild(el("p", { className: "note" }));
  return () => {
    const nats = tokens.map((_, i) => recorded(view.surprisal, i));
    draw((i) => (nats[i] ?? 0) / 12, (i) => nats[i] == null ? "not predicted" : `${nats[i]} nats`);
    const known = nats.slice(1, -1), sum = known.reduce((a, b) => a + b, 0);
    total.textContent = `${sum.toFixed(2)} nats in ${known.length} tokens, ` +
      `${(sum / Math.max(1, known.length)).toFixed(3)} a token` +
      (state.hidden && view.surprisal.length > 1 ? `, with token ${state.hidden} hidden` : "");
  };
});

// 2. What is expected at the position that is pointed at.
panel("predictions", (view, column) => {
  const after = view.surprisal.length > 1; // the causal view also says what comes next
  const [here] = heading(column, after ? "expected here, from what stands before"
    : "expected here, if it were hidden");
  const [next] = after ? heading(column, "expected next") : [];
  return () => {
    bars(here, recorded(view.top, state.at), tokens[state.at]);
    if (after) bars(next, recorded(view.top, state.at + 1), tokens[state.at + 1]);
  };
});
{
  const column = el("div", { className: "column" }, el("h3", {}, "unigrams"));
  document.getElementById("predictions").append(column);
  const [list, note] = heading(column, "expected anywhere");
  if (!data.unigrams) note.textContent = "the text this run was trained on is not here to count";
  else updates.push(() => bars(list, data.unigrams, tokens[state.at]));
}
updates.push(() => {
  const token = tokens[state.at], parts = data.parts[token], p = data.frequency?.[state.at];
  const facts = [`token ${state.at} of ${T - 1}: `, el("code", {}, names[token]),
    `, id ${token}` + (data.bytes[token] ? `, bytes ${data.bytes[token]}` : "")];
  if (parts) facts.push(", merged from ", el("code", {}, names[parts[0]]), " and ",
    el("code", {}, names[parts[1]]));
  if (p) facts.push(`; ${percent(p)} of all tokens, ${(-Math.log(p)).toFixed(2)} nats by unigrams`);
  for (const view of views) {
    const nats = recorded(view.surprisal, state.at);
    if (nats != null) facts.push(`; ${nats} nats ${view.name}`);
  }
  document.getElementById("facts").replaceChildren(...facts);
});

// A map of rows x columns bytes (255: all the weight) as a picture whose pixels are its cells.
// Positions go down, or across where there are fewer rows.
function picture(rows, columns, label) {
  const canvas = el("canvas", { width: columns, height: rows, role: "img", "aria-label": label });
  canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => point(Math.floor(
    T * (rows < T ? offsetX / canvas.clientWidth : offsetY / canvas.clientHeight))));
  return [el("div", { className: "map" }, canvas), (bytes) => {
    const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
    const [r, g, b] = getComputedStyle(document.body).getPropertyValue("--map").split(" ");
    for (let i = 0; i < rows * columns; i++) image.data.set([r, g, b, bytes[i]], 4 * i);
    context.putImageData(image, 0, 0);
  }];
}

// 3. Attention: layers x heads; the row of the position that is pointed at, in numbers below.
panel("attention", (view, column) => {
  const weights = unpack(view.attention), rows = view.rows && unpack(view.rows);
  const grid = el("div", { className: "grid", "--heads": heads });
  const maps = [], caption = el("p", { className: "note" });
  column.append(grid, caption);
  for (let l = 0; l < layers; l++) for (let h = 0; h < heads; h++) {
    const label = `layer ${l + 1}, head ${h + 1}`;
    const [map, draw] = picture(T, T, label);
    const button = el("button", { type: "button", className: "head", title: label }, map);
    button.addEventListener("click", () => { state.layer = l; state.head = h; show(); });
    grid.append(button);
    maps.push({ button, draw, l, h });
  }
  const drawStrip = strip(column, `attention, ${view.name}`, hide);
  // The recorded weights of one head; with a token hidden, the row that answers is of that pass.
  view.head = (l, h) => {
    const map = weights.slice((l * heads + h) * T * T, (l * heads + h + 1) * T * T);
    if (rows && state.hidden) {
      const from = (((state.hidden - 1) * layers + l) * heads + h) * T;
      map.set(rows.subarray(from, from + T), (state.hidden - view.shift) * T);
    }
    return map;
  };
  return (redraw) => {
    for (const { button, draw, l, h } of maps) {
      if (redraw) draw(view.head(l, h));
      button.setAttribute("aria-pressed", l === state.layer && h === state.head);
    }
    const answers = view.rows && state.hidden === state.at && state.hidden;
    const row = answers ? state.hidden - view.shift : state.at;
    const bytes = view.head(state.layer, state.head).subarray(row * T, (row + 1) * T);
    drawStrip((i) => bytes[i] / 255, (i) => percent(bytes[i] / 255));
    const best = [...bytes.keys()].sort((a, b) => bytes[b] - bytes[a]).slice(0, 3)
      .map((i) => `${names[tokens[i]]} ${percent(bytes[i] / 255)}`).join(", ");
    caption.textContent = `layer ${state.layer + 1}, head ${state.head + 1}: position ${row}` +
      `${answers ? ", which answers for the hidden token," : ""} looks at ${best}`;
  };
});

// 4. The mask: what `visibility` allowed in these passes.
panel("mask", (view, column) => {
  const [map, draw] = picture(T, T, `attention mask, ${view.name}`), bytes = unpack(view.mask);
  const note = el("p", { className: "note" });
  column.append(map, note);
  return (redraw) => {
    if (redraw) draw(bytes);
    const seen = bytes.subarray(state.at * T, (state.at + 1) * T).filter((byte) => byte).length;
    note.textContent = `position ${state.at} may see ${seen} of ${T}`;
  };
});

// 5. Logit lens.
panel("lens", (view, column) => {
  const [map, draw] = picture(layers + 1, T, `P of the token after each layer, ${view.name}`);
  map.classList.add("lens");
  const body = el("tbody");
  const head = ["layer", "would say", "this token"].map((text) => el("th", {}, text));
  column.append(map, el("table", {}, el("thead", {}, el("tr", {}, ...head)), body));
  const cell = (l, i) => view.lens[l][i - 1]; // the first position is not predicted
  return (redraw) => {
    if (redraw) {
      const shares = view.lens.flatMap((_, l) => tokens.map((_, i) => cell(l, i)?.p ?? 0));
      draw(shares.map((p) => 255 * p));
    }
    body.replaceChildren(...view.lens.map((_, l) => {
      const { top = [], p } = cell(l, state.at) ?? {};
      const said = top.flatMap(([token, q]) => [el("code", {}, names[token]), ` ${percent(q)}  `]);
      return el("tr", {}, el("td", {}, l || "0 (embedding)"), el("td", {}, ...said),
        el("td", {}, p == null ? "-" : percent(p)));
    }));
  };
});

function point(i) {
  const at = Math.max(0, Math.min(T - 1, i));
  if (at === state.at) return;
  state.at = at;
  show();
}

function hide(i) { // or show it again
  state.at = i;
  state.hidden = hideable(i) && state.hidden !== i ? i : 0;
  show(true);
}

function show(redraw = false) {
  document.body.style.setProperty("--row", state.at / T);
  document.body.style.setProperty("--cell", 1 / T);
  for (const update of updates) update(redraw);
  document.getElementById("hidden").textContent = state.hidden
    ? `hidden: ${spoken(state.hidden)} (Escape shows it again)` : "nothing is hidden";
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape" && state.hidden) hide(state.hidden);
  else if (event.key === "h") hide(state.at);
  else if (step) {
    const strip = document.activeElement?.closest(".tokens");
    point(state.at + step);
    strip?.querySelector(".at").focus();
    event.preventDefault();
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(true));
show(true);
