// Run in a page by test_view.py: walks every control, as a person would, and returns sums of what the
// page shows then, to be held against PyTorch's numbers.
(async () => {
const settled = async () => { // a recorded page answers at once
  for (let n = 0; data.weights && !document.body.dataset.answered; n++) {
    if (n > 4000) throw new Error("no answer");
    await new Promise((go) => setTimeout(go, 5));
  }
};
await settled();
const number = (text) => parseFloat(text) || 0;
const shown = (selector, root = document) => [...root.querySelectorAll(selector)];
const { views } = data, columnsOf = (id) => views.map((_, v) => document.getElementById(id).children[v]);
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
const pointAt = (button) =>
  button.dispatchEvent(new PointerEvent("pointerenter", { pointerType: "mouse" }));
const zero = () => views.map(() => 0);
const out = { surprisal: zero(), hidden: zero(), top: zero(), attention: zero(),
  hiddenAttention: zero(), pixels: zero(), seen: zero(), together: 0, keys: [] };
const sumOf = (column) => // of what the tokens say when pointed at, weighted by their places
  shown(".token", column).reduce((sum, token, i) => sum + (i + 1) * number(token.title), 0);

const strips = shown(".tokens"), first = shown(".token", columnsOf("tokens")[0]);
const listed = (column) => shown(".bars", column)[0].querySelectorAll("li span");
columnsOf("tokens").forEach((column, v) => (out.surprisal[v] = sumOf(column)));
first.forEach((button, i) => {
  pointAt(button);
  out.together += strips.every((strip) => strip.children[i].classList.contains("at"));
  columnsOf("predictions").forEach((column, v) =>
    listed(column).forEach((p, k) => (out.top[v] += (k + 1) * number(p.textContent))));
  columnsOf("mask").forEach((column, v) =>
    (out.seen[v] += number(column.querySelector("p").textContent.split("may see ")[1])));
});
columnsOf("attention").forEach((column, v) => {
  shown(".head", column).forEach((head, h) => {
    head.click();
    first.forEach((button) => { pointAt(button); out.attention[v] += (h + 1) * sumOf(column); });
    const { data: pixels } = head.querySelector("canvas").getContext("2d").getImageData(0, 0, T, T);
    for (let i = 0; i < T * T; i++) out.pixels[v] += (h + 1) * (i % T + 1) * pixels[4 * i + 3] / 255;
  });
});
const tokenAt = (i) => shown(".token", columnsOf("tokens")[0]).at(i);
for (let t = 1; t < T - 1; t++) { // hide each: it is pointed at then, too
  tokenAt(t).click();
  await settled();
  columnsOf("tokens").forEach((column, v) => (out.hidden[v] += sumOf(column)));
  columnsOf("attention").forEach((column, v) => (out.hiddenAttention[v] += sumOf(column)));
}
for (const mark of [-1, 0]) { // <doc> cannot be hidden
  tokenAt(mark).click();
  await settled();
  out.keys.push(state.hidden);
}
press("ArrowRight"); press("h");
await settled();
out.keys.push(state.at, state.hidden);
press("Escape"); press("ArrowLeft"); press("ArrowLeft");
await settled();
out.keys.push(state.at, state.hidden);
out.requests = performance.getEntriesByType("resource").length;
out.hacked = String(window.hacked);
out.text = shown(".token", columnsOf("tokens")[0]).map((token) => token.textContent);
return out;
})()
