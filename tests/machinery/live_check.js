// Run by node after model.js and live.js, with a page's data and questions on standard input: prints
// what the page's model answers.
const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
const live = new Live(asked.data), { model, tokenizer } = live;
const rounded = (x) => Array.from(x, (value) => +value.toPrecision(9));
const cached = (ids) => { // the same, a token at a time
  const cache = model.newCache();
  return ids.map((id) => model.logits(model.forward([id], true, { cache }))).reduce(joined);
};
console.log(JSON.stringify({
  ids: asked.texts.map((text) => tokenizer.encode(text)),
  logits: asked.tokens.map((ids) => [true, false].map(
    (causal) => rounded(model.logits(model.forward(ids, causal))))),
  cached: asked.tokens.map((ids) => rounded(cached(ids))),
  answers: asked.questions.map((question) => [...live[question.ask](question)]),
}));
