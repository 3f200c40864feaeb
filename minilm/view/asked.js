// The answers of a live page: the model runs beside it, in a Worker, and is asked anew whenever
// something changes; what it finds is drawn as it comes, once a frame.
const port = connect(), text = byId("text");
let question = 0, begun = 0, drawing = false, redraw = false, working = false, all = 0;

function connect() {
  const begin = (port) => serve(port, data);
  try {
    const code = `${byId("model").textContent}\nonmessage = ({ data }) => serve(self, JSON.parse(data));`;
    const worker = new Worker(URL.createObjectURL(new Blob([code])));
    worker.postMessage(byId("data").textContent);
    return worker;
  } catch { // where a file may not have one, it runs here, between two frames
    const { port1, port2 } = new MessageChannel();
    begin(port2);
    return port1;
  }
}

function ask(_, what = data.task === "classify" ? "classify" : "look", more = {}) {
  question += 1;
  begun = performance.now();
  delete document.body.dataset.answered;
  all = 0;
  port.postMessage({ ...state, ...more, id: question, ask: what, text: text.value });
}

port.onmessage = ({ data: part }) => {
  if (part.question !== question) return;
  const passed = Math.round(performance.now() - begun), first = part.views || part.p;
  if (first) answer = part;
  else if (part.attention) answer.views[part.view] = part;
  else if (part.piece !== undefined) text.value += part.piece;
  else if (part.effect !== undefined) answer.effects[part.word] = part.effect;
  else if (part.filled) text.value = text.value.replace(/ *<mask>/g, () => part.filled.shift() ?? "");
  for (const name of ["surprisal", "top", "lens"])
    if ("t" in part && name in part) answer.views[part.view][name][part.t] = part[name];
  if (first) byId("status").textContent = `answered in ${passed} ms`;
  if (part.done && working) typed(); // what was written or filled in is looked at
  else if (part.done) all = passed;
  redraw ||= Boolean(part.attention || part.views);
  drawing ||= requestAnimationFrame(draw);
};

function draw() {
  if (data.task === "classify" && answer.p) showLabels();
  else if (answer.views.length) show(redraw);
  if (byId("translation")) byId("translation").textContent = answer.translated;
  sayLeftOut();
  if (all) document.body.dataset.answered = all; // milliseconds: now everything is drawn
  drawing = redraw = false;
}

function showLabels() {
  const { p, words, effects, wordsLeftOut } = answer, order = [...p.keys()].sort((a, b) => p[b] - p[a]);
  labels(order.slice(0, 10).map((i) => [data.classes[i], p[i]]));
  const scale = Math.max(0.05, ...effects.map(Math.abs));
  const points = (i) => `${signed(100 * effects[i]).slice(0, -2)} points`;
  byId("words").replaceChildren(...words.map((word, i) => el("span", {
    className: `token c${+(effects[i] < 0)}`, "--w": Math.abs(effects[i] ?? 0) / scale,
    title: i in effects ? points(i) : "" }, word + " ")));
  const by = [...effects.keys()].sort((a, b) => Math.abs(effects[b]) - Math.abs(effects[a]));
  byId("strongest").textContent = by.slice(0, 5).map((i) => `${words[i]} ${points(i)}`).join(", ");
}

function typed() {
  work(false);
  ask(Object.assign(state, { ids: undefined, hidden: 0 }));
}

function work(on, what, more) { // write on or fill in; or stop
  working = on;
  if (byId("write")) byId("write").textContent = on ? "stop" : "write on";
  if (on) ask(state, what, more);
}

text.addEventListener("input", typed);
const labels = data.task === "classify" && bars(byId("labels"), "the likeliest");
if (byId("write")) {
  const temperature = byId("temperature"), said = temperature.nextElementSibling;
  temperature.oninput = () => { said.textContent = temperature.value; };
  byId("write").onclick = () =>
    working ? typed() : work(true, "write", { temperature: +temperature.value });
}
if (byId("fill")) byId("fill").onclick = () => work(true, "fill");
if (data.task !== "classify") drawEverything();
ask();
