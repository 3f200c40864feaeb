"use strict";
// A text inside the model. `state` says what is looked at, `answer` what the model says to it, from
// a recording or from the model in this page (which of the two, what draws does not know); `show`
// draws it.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const { n_layers: layers, n_heads: heads } = data.shape;
const state = { at: 1, hidden: 0, layer: layers - 1, head: 0, off: [], ids: undefined };
const updates = []; // functions that draw the part of the page that depends on `state`
let answer = { tokens: [], views: [] }, T = 0;

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
const signed = (x) => (x < 0 ? "" : "+") + x.toFixed(3);
const spoken = (i) => `${answer.tokens[i].name}, token ${i} of ${T - 1}`;
const note = (column) => column.appendChild(el("p", { className: "note" }));
const isOff = (layer, head) => state.off.includes(layer) || state.off.includes(`${layer}.${head}`);

function columnOf(id, title) {
  const column = el("div", { className: "column" }, el("h3", {}, title));
  return byId(id).appendChild(column);
}

// One panel: a column for each view, filled by make(name, column), which returns update(view).
function panel(id, make) {
  data.views.forEach(({ name, trained }, v) => {
    const update = make(name, columnOf(id, name + (trained ? "" : " (not trained)")));
    updates.push((redraw) => answer.views[v] && update(answer.views[v], redraw));
  });
}

// The text, each token a button shaded by a weight from 0 to 1. Returns draw(weight, title).
function strip(column, label) {
  const box = column.appendChild(el("div", { className: "tokens", role: "group", "aria-label": label }));
  let drawn, buttons = [];
  const button = ({ name }, i) => el("button", {
    className: "token c0",
    onpointerenter: (event) => event.pointerType === "mouse" && point(i),
    // A finger cannot hover: its first tap points, its second one hides.
    onclick: (event) => event.pointerType === "touch" && state.at !== i ? point(i) : hide(i),
  }, name);
  return (weight, title) => {
    if (drawn !== answer.tokens) {
      const focused = box.contains(document.activeElement);
      box.replaceChildren(...buttons = answer.tokens.map(button));
      drawn = answer.tokens;
      if (focused) buttons[state.at].focus();
    }
    buttons.forEach((button, i) => {
      button.style.setProperty("--w", Math.min(1, weight(i)).toFixed(3));
      button.classList.toggle("at", i === state.at);
      button.classList.toggle("hidden", i === state.hidden && i > 0);
      button.tabIndex = i === state.at ? 0 : -1;
      button.title = title(i);
      button.ariaLabel = `${spoken(i)}: ${button.title}`;
    });
  };
}

// Likeliest tokens as bars: [[name, probability], ...]; the one that stands there is framed.
function bars(column, title) {
  note(column).textContent = title;
  const list = column.appendChild(el("ol", { className: "bars" }));
  return (best, right) => list.replaceChildren(...(best ?? []).map(([name, p]) =>
    el("li", { "--w": p, className: name === right?.name ? "right" : "" },
      el("code", {}, name), el("span", {}, percent(p)))));
}

// A map of rows x columns shares (1: all the weight) as a picture whose pixels are its cells, as
// opaque as the root of their share. Positions go down, or across where rows are fewer.
function picture(label, across) {
  const canvas = el("canvas", { role: "img", ariaLabel: label });
  canvas.onpointermove = ({ offsetX, offsetY }) => point(Math.floor(
    T * (across ? offsetX / canvas.clientWidth : offsetY / canvas.clientHeight)));
  return [el("div", { className: "map" }, canvas), (shares, width) => {
    Object.assign(canvas, { width, height: shares.length / width });
    const context = canvas.getContext("2d"), image = context.createImageData(width, canvas.height);
    const [r, g, b] = getComputedStyle(document.body).getPropertyValue("--map").split(" ");
    shares.forEach((share, i) => image.data.set([r, g, b, 255 * Math.sqrt(share)], 4 * i));
    context.putImageData(image, 0, 0);
  }];
}

function drawEverything() {
  // 1. Surprisal.
  panel("tokens", (name, column) => {
    const draw = strip(column, `surprisal, ${name}`), total = note(column);
    let usual, of; // nats a token of a text with nothing hidden, moved or switched off
    return ({ surprisal }) => {
      const said = (x) => x == null ? "not predicted" : `${x.toFixed(3)} nats`;
      draw((i) => (surprisal[i] ?? 0) / 12, (i) => said(surprisal[i]));
      const known = surprisal.slice(1, -1).filter((x) => x != null);
      const sum = known.reduce((a, b) => a + b, 0), mean = sum / Math.max(1, known.length);
      const whole = name === "bidirectional" ? T - 2 : known.length; // one is found after the other
      const changed = [state.hidden && `token ${state.hidden} hidden`, state.ids && "tokens swapped",
                       state.off.length && "parts switched off"].filter(Boolean);
      if (!changed.length) [usual, of] = [mean, byId("text")?.value];
      total.textContent = `${sum.toFixed(2)} nats in ${known.length} tokens, ${mean.toFixed(3)} a token` +
        (changed.length && known.length === whole && of === byId("text")?.value
          ? `, ${signed(mean - usual)} with ${changed.join(", ")}` : "");
    };
  });
  updates.push(() => {
    const { id, bytes, parts, p } = answer.tokens[state.at];
    const facts = [`${spoken(state.at)}: id ${id}, bytes ${bytes}`];
    if (parts.length) facts.push(`merged from ${parts.join(" and ")}`);
    if (p) facts.push(`${percent(p)} of all tokens, ${(-Math.log(p)).toFixed(2)} nats by unigrams`);
    answer.views.forEach(({ surprisal }, v) => {
      const nats = surprisal[state.at];
      if (nats != null) facts.push(`${nats.toFixed(3)} nats ${data.views[v].name}`);
    });
    byId("facts").textContent = facts.join("; ");
  });

  // 2. What is expected at the position that is pointed at.
  panel("predictions", (name, column) => {
    const forward = name !== "bidirectional"; // then it also says what comes next
    const here = bars(column, forward ? "here, from what stands before" : "here, if it were hidden");
    const next = forward && bars(column, "next");
    return ({ top }) => {
      here(top[state.at], answer.tokens[state.at]);
      if (next) next(top[state.at + 1], answer.tokens[state.at + 1]);
    };
  });
  const anywhere = bars(columnOf("predictions", "unigrams"),
    data.unigrams ? "anywhere" : "the text it was trained on is not here to count");
  updates.push(() => anywhere(answer.unigrams, answer.tokens[state.at]));

  // 3. Attention: layers x heads; the row of the position that is pointed at, in numbers below.
  panel("attention", (name, column) => {
    const grid = column.appendChild(el("div", { className: "grid", "--heads": heads }));
    const maps = [], caption = note(column);
    for (let i = 0; i < layers * heads; i++) {
      const layer = Math.floor(i / heads), head = i % heads;
      const label = `layer ${layer + 1}, head ${head + 1}`, [map, draw] = picture(label);
      const button = el("button", { className: "head", title: label }, map);
      button.onclick = () => show(false, Object.assign(state, { layer, head }));
      grid.append(button);
      maps.push({ button, draw, layer, head });
    }
    const drawStrip = strip(column, `attention, ${name}`);
    return ({ attention, shift = 0 }, redraw) => {
      const mapOf = ({ layer, head }) => attention.subarray(
        (layer * heads + head) * T * T, (layer * heads + head + 1) * T * T);
      for (const map of maps) {
        if (redraw) map.draw(mapOf(map), T);
        map.button.ariaPressed = map.layer === state.layer && map.head === state.head;
        map.button.classList.toggle("off", isOff(map.layer, map.head));
      }
      // The row that answers for a hidden token stands that far before it.
      const answers = state.hidden && state.hidden === state.at ? shift : 0;
      const row = state.at - answers, weights = mapOf(state).subarray(row * T, (row + 1) * T);
      drawStrip((i) => weights[i], (i) => percent(weights[i]));
      const best = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
      caption.textContent = `layer ${state.layer + 1}, head ${state.head + 1}: ` +
        (isOff(state.layer, state.head) ? "switched off" : `position ${row}` +
          `${answers ? ", which answers for the hidden token," : ""} looks at ` +
          best.map((i) => `${answer.tokens[i].name} ${percent(weights[i])}`).join(", "));
    };
  });

  // 4. The mask: what `visibility` allowed in these passes.
  panel("mask", (name, column) => {
    const [map, draw] = picture(`attention mask, ${name}`);
    column.append(map);
    const said = note(column);
    return ({ mask }, redraw) => {
      if (redraw) draw(mask, T);
      const seen = mask.slice(state.at * T, (state.at + 1) * T).filter((share) => share).length;
      said.textContent = `position ${state.at} may see ${seen} of ${T}`;
    };
  });

  // 5. Logit lens.
  panel("lens", (name, column) => {
    const [map, draw] = picture(`P of the token after each layer, ${name}`, true);
    map.classList.add("lens");
    const row = (tag, cells) => el("tr", {}, ...cells.map((cell) => el(tag, {}, ...cell)));
    const body = el("tbody"), head = row("th", [["layer"], ["would say"], ["this token"]]);
    column.append(map, el("table", {}, el("thead", {}, head), body));
    return ({ lens }) => {
      const numbers = [...Array(layers + 1).keys()];
      draw(numbers.flatMap((l) => lens.map((place) => place?.[l].p ?? 0)), T);
      body.replaceChildren(...numbers.map((l) => {
        const { top = [], p } = lens[state.at]?.[l] ?? {};
        const said = top.flatMap(([name, q]) => [el("code", {}, name), ` ${percent(q)}  `]);
        return row("td", [[l || "0 (embedding)"], said, [p == null ? "-" : percent(p)]]);
      }));
    };
  });
}

function show(redraw) {
  T = answer.tokens.length;
  state.at = Math.min(state.at, T - 1);
  document.body.style.setProperty("--row", state.at / T);
  document.body.style.setProperty("--cell", 1 / T);
  for (const update of updates) update(redraw);
  const off = state.off.map((part) => `layer ${parseInt(part) + 1}` +
    (part === parseInt(part) ? "" : `, head ${+part.split(".")[1] + 1}`));
  const said = [state.hidden && `hidden: ${spoken(state.hidden)}`, state.ids && "tokens are swapped",
                off.length && `switched off: ${off.join("; ")}`].filter(Boolean);
  byId("hidden").textContent = said.length ? `${said.join("; ")} (Escape: as it was)` : "nothing is hidden";
}

function sayLeftOut() {
  const { leftOut = 0, wordsLeftOut = 0 } = answer;
  byId("left-out").textContent = [
    leftOut > 0 && `The text was cut: ${leftOut} more tokens are not ${data.task === "classify" ? "read" : "shown"}.`,
    wordsLeftOut > 0 && `${wordsLeftOut} more words are read, but not left out in turn.`,
  ].filter(Boolean).join(" ");
}

function point(i) {
  const at = Math.max(0, Math.min(T - 1, i));
  if (at !== state.at) show(false, Object.assign(state, { at }));
}

function hide(i) { // or show it again; the marks around the text stay
  const hidden = i > 0 && i < T - 1 && state.hidden !== i ? i : 0;
  ask(Object.assign(state, { at: i, hidden }));
}

function toggle(part) { // a layer, or "layer.head"
  state.off = state.off.includes(part) ? state.off.filter((other) => other !== part) : [...state.off, part];
  ask();
}

function swap() { // what is pointed at, with what follows it
  const { at } = state, ids = answer.tokens.slice(1, -1).map(({ id }) => id);
  if (at < 1 || at > ids.length - 1) return;
  [ids[at - 1], ids[at]] = [ids[at], ids[at - 1]];
  ask(Object.assign(state, { ids, at: at + 1, hidden: 0 }));
}

const actions = {
  hide: () => hide(state.at),
  swap,
  head: () => toggle(`${state.layer}.${state.head}`),
  layer: () => toggle(state.layer),
  back: () => ask(Object.assign(state, { hidden: 0, off: [], ids: undefined })),
};
const keys = { h: "hide", s: "swap", x: "head", l: "layer", Escape: "back" };

for (const [name, act] of Object.entries(actions)) if (byId(name)) byId(name).onclick = act;
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest?.("textarea, input") || !T || data.task === "classify") return;
  if (byId(keys[event.key] ?? "")) actions[keys[event.key]]();
  else if (step) {
    const strip = document.activeElement?.closest(".tokens");
    point(state.at + step);
    strip?.querySelector(".at").focus();
    event.preventDefault();
  }
});
