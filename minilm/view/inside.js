"use strict";
// A text inside the model. Nothing is computed here: every number comes from passes that were
// recorded when the page was written. `state` says what is pointed at; `show` draws it.
const data = JSON.parse(document.getElementById("data").textContent);
const { tokens, views, layers, heads } = data;
const T = tokens.length, state = { at: T >> 1, hidden: 0, layer: layers - 1, head: 0 };
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

const percent = (p) => (100 * p).toPrecision(p >= 0.0995 ? 3 : 2) + " %";
const unpack = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const spoken = (i) => `${tokens[i].name}, token ${i} of ${T - 1}`;
const note = (column) => column.appendChild(el("p", { className: "note" }));
// What a view recorded for position i, in the pass that hides a token if it made a difference.
const recorded = (values, i) => values[state.hidden]?.[i] ?? values[0][i];

function columnOf(id, title) {
  const column = el("div", { className: "column" }, el("h3", {}, title));
  return document.getElementById(id).appendChild(column);
}

// One panel: a column for each view, filled by make(view, column), which returns its update.
function panel(id, make) {
  for (const view of views)
    updates.push(make(view, columnOf(id, view.name + (view.trained ? "" : " (not trained)"))));
}

// The text, each token a button shaded by a weight from 0 to 1. Returns draw(weight, title).
function strip(column, label) {
  const buttons = tokens.map(({ name }, i) => el("button", {
    className: "token c0",
    onpointerenter: (event) => event.pointerType === "mouse" && point(i),
    // A finger cannot hover: its first tap points, its second one hides.
    onclick: (event) => event.pointerType === "touch" && state.at !== i ? point(i) : hide(i),
  }, name));
  column.append(el("div", { className: "tokens", role: "group", "aria-label": label }, ...buttons));
  return (weight, title) => buttons.forEach((button, i) => {
    button.style.setProperty("--w", Math.min(1, weight(i)).toFixed(3));
    button.classList.toggle("at", i === state.at);
    button.classList.toggle("hidden", i === state.hidden && i > 0);
    button.tabIndex = i === state.at ? 0 : -1;
    button.title = title(i);
    button.ariaLabel = `${spoken(i)}: ${title(i)}`;
  });
}

// Likeliest tokens as bars: [[name, probability], ...]; the one that stands there is framed.
function bars(column, title) {
  note(column).textContent = title;
  const list = column.appendChild(el("ol", { className: "bars" }));
  return (best, right) => list.replaceChildren(...(best ?? []).map(([name, p]) =>
    el("li", { "--w": p, className: name === right?.name ? "right" : "" },
      el("code", {}, name), el("span", {}, percent(p)))));
}

// 1. Surprisal.
panel("tokens", (view, column) => {
  const draw = strip(column, `surprisal, ${view.name}`), total = note(column);
  return () => {
    const nats = tokens.map((_, i) => recorded(view.surprisal, i));
    draw((i) => (nats[i] ?? 0) / 12, (i) => nats[i] == null ? "not predicted" : `${nats[i]} nats`);
    const known = nats.slice(1, -1).filter((x) => x != null);
    const sum = known.reduce((a, b) => a + b, 0);
    total.textContent = `${sum.toFixed(2)} nats in ${known.length} tokens, ` +
      `${(sum / Math.max(1, known.length)).toFixed(3)} a token` +
      (state.hidden && view.surprisal.length > 1 ? `, with token ${state.hidden} hidden` : "");
  };
});
updates.push(() => {
  const { name, id, bytes, parts, p } = tokens[state.at];
  const facts = [`${spoken(state.at)}: id ${id}, bytes ${bytes}`];
  if (parts.length) facts.push(`merged from ${parts.join(" and ")}`);
  if (p) facts.push(`${percent(p)} of all tokens, ${(-Math.log(p)).toFixed(2)} nats by unigrams`);
  for (const view of views) {
    const nats = recorded(view.surprisal, state.at);
    if (nats != null) facts.push(`${nats} nats ${view.name}`);
  }
  document.getElementById("facts").textContent = facts.join("; ");
});

// 2. What is expected at the position that is pointed at.
panel("predictions", (view, column) => {
  const forward = view.surprisal.length > 1; // then it also says what comes next
  const here = bars(column, forward ? "here, from what stands before" : "here, if it were hidden");
  const next = forward && bars(column, "next");
  return () => {
    here(recorded(view.top, state.at), tokens[state.at]);
    if (next) next(recorded(view.top, state.at + 1), tokens[state.at + 1]);
  };
});
const anywhere = bars(columnOf("predictions", "unigrams"),
  data.unigrams ? "anywhere" : "the text it was trained on is not here to count");
updates.push(() => anywhere(data.unigrams, tokens[state.at]));

// A map of rows x columns bytes (255: all the weight) as a picture whose pixels are its cells, as
// opaque as the square root of their weight. Positions go down, or across where rows are fewer.
function picture(rows, columns, label) {
  const canvas = el("canvas", { width: columns, height: rows, role: "img", ariaLabel: label });
  canvas.onpointermove = ({ offsetX, offsetY }) => point(Math.floor(
    T * (rows < T ? offsetX / canvas.clientWidth : offsetY / canvas.clientHeight)));
  return [el("div", { className: "map" }, canvas), (bytes) => {
    const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
    const [r, g, b] = getComputedStyle(document.body).getPropertyValue("--map").split(" ");
    bytes.forEach((byte, i) => image.data.set([r, g, b, Math.sqrt(255 * byte)], 4 * i));
    context.putImageData(image, 0, 0);
  }];
}

// 3. Attention: layers x heads; the row of the position that is pointed at, in numbers below.
panel("attention", (view, column) => {
  const weights = unpack(view.attention), rows = view.rows && unpack(view.rows);
  const grid = column.appendChild(el("div", { className: "grid", "--heads": heads }));
  const maps = [], caption = note(column);
  for (let i = 0; i < layers * heads; i++) {
    const layer = Math.floor(i / heads), head = i % heads;
    const label = `layer ${layer + 1}, head ${head + 1}`, [map, draw] = picture(T, T, label);
    const button = el("button", { className: "head", title: label }, map);
    button.onclick = () => show(false, Object.assign(state, { layer, head }));
    grid.append(button);
    maps.push({ button, draw, layer, head });
  }
  const drawStrip = strip(column, `attention, ${view.name}`);
  // The weights of one head; with a token hidden, the row that answers for it is of that pass.
  function weightsOf(layer, head) {
    const map = weights.slice((layer * heads + head) * T * T, (layer * heads + head + 1) * T * T);
    if (rows && state.hidden) {
      const from = (((state.hidden - 1) * layers + layer) * heads + head) * T;
      map.set(rows.subarray(from, from + T), (state.hidden - view.shift) * T);
    }
    return map;
  }
  return (redraw) => {
    for (const { button, draw, layer, head } of maps) {
      if (redraw) draw(weightsOf(layer, head));
      button.ariaPressed = layer === state.layer && head === state.head;
    }
    const answers = rows && state.hidden && state.hidden === state.at;
    const row = answers ? state.at - view.shift : state.at;
    const bytes = weightsOf(state.layer, state.head).subarray(row * T, (row + 1) * T);
    drawStrip((i) => bytes[i] / 255, (i) => percent(bytes[i] / 255));
    const best = [...bytes.keys()].sort((a, b) => bytes[b] - bytes[a]).slice(0, 3);
    caption.textContent = `layer ${state.layer + 1}, head ${state.head + 1}: position ${row}` +
      `${answers ? ", which answers for the hidden token," : ""} looks at ` +
      best.map((i) => `${tokens[i].name} ${percent(bytes[i] / 255)}`).join(", ");
  };
});

// 4. The mask: what `visibility` allowed in these passes.
panel("mask", (view, column) => {
  const [map, draw] = picture(T, T, `attention mask, ${view.name}`), bytes = unpack(view.mask);
  column.append(map);
  const said = note(column);
  return (redraw) => {
    if (redraw) draw(bytes);
    const seen = bytes.subarray(state.at * T, (state.at + 1) * T).filter((byte) => byte).length;
    said.textContent = `position ${state.at} may see ${seen} of ${T}`;
  };
});

// 5. Logit lens.
panel("lens", (view, column) => {
  const [map, draw] = picture(layers + 1, T, `P of the token after each layer, ${view.name}`);
  map.classList.add("lens");
  const row = (tag, cells) => el("tr", {}, ...cells.map((cell) => el(tag, {}, ...cell)));
  const body = el("tbody"), head = row("th", [["layer"], ["would say"], ["this token"]]);
  column.append(map, el("table", {}, el("thead", {}, head), body));
  return (redraw) => {
    const shares = view.lens.flatMap((layer) => layer.map((place) => 255 * (place?.p ?? 0)));
    if (redraw) draw(shares);
    body.replaceChildren(...view.lens.map((layer, l) => {
      const { top = [], p } = layer[state.at] ?? {};
      const said = top.flatMap(([name, q]) => [el("code", {}, name), ` ${percent(q)}  `]);
      return row("td", [[l || "0 (embedding)"], said, [p == null ? "-" : percent(p)]]);
    }));
  };
});

function point(i) {
  const at = Math.max(0, Math.min(T - 1, i));
  if (at !== state.at) show(false, Object.assign(state, { at }));
}

function hide(i) { // or show it again; the marks around the text stay
  const hidden = i > 0 && i < T - 1 && state.hidden !== i ? i : 0;
  show(true, Object.assign(state, { at: i, hidden }));
}

function show(redraw) {
  document.body.style.setProperty("--row", state.at / T);
  document.body.style.setProperty("--cell", 1 / T);
  for (const update of updates) update(redraw);
  document.getElementById("hidden").textContent = state.hidden
    ? `hidden: ${spoken(state.hidden)} (Escape shows it again)` : "nothing is hidden";
}

document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.ctrlKey || event.altKey || event.metaKey) return;
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
