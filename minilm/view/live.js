// What a live page asks of the model. Each question is answered part by part, as the parts are
// found, so that the Worker in which that happens can turn to a newer question in between.
const MOST = 64, WORDS = 80; // tokens that are shown; words that are left out in turn

class Live {
  constructor(data) {
    const numbers = ({ values, scales }) => {
      const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
      if (!scales) return new Float32Array(bytes(values));
      const rows = new Int8Array(bytes(values)), scale = new Float32Array(bytes(scales));
      const n = rows.length / scale.length; // numbers in a row of the matrix, which share a scale
      return Float32Array.from(rows, (value, i) => value * scale[Math.floor(i / n)]);
    };
    const weights = Object.entries(data.weights).map(([name, packed]) => [name, numbers(packed)]);
    this.weights = Object.fromEntries(weights);
    this.model = new Transformer(data.shape, this.weights);
    this.tokenizer = new Tokenizer(data.pattern, data.merges);
    this.unigrams = data.unigrams && numbers(data.unigrams);
    this.data = data;
  }

  // The ids of a text, in which <mask> stands for itself, with the space before it.
  encode(text) {
    const parts = text.split(/ *<mask>/).map((part) => this.tokenizer.encode(part));
    return parts.flatMap((ids, i) => i ? [MASK, ...ids] : ids);
  }

  // A text inside the model: its tokens, what each view makes of the whole, and then place by place,
  // from the one that is looked at on, what needs a pass of its own. ids: instead of a text.
  *look({ text, ids = this.encode(text), hidden = 0, off = [], at = 1 }) {
    const { prefix } = this.data, window = this.model.max_length;
    const shown = ids.slice(0, prefix ? window / 2 - 2 : Math.min(MOST, window - 2));
    const framed = [DOC, ...shown, DOC], first = prefix ? framed.length : 1;
    const target = prefix ? [...this.translate(shown)] : [];
    const tokens = prefix ? [...framed, ...target, DOC].slice(0, window) : framed;
    const T = tokens.length, asked = { tokens, hidden, off: new Set(off) };
    const causal = this.causal(asked, first), { states } = causal;
    delete causal.states;
    const unigrams = this.unigrams && this.best(this.unigrams, 5);
    yield { tokens: tokens.map((id) => this.about(id)), leftOut: ids.length - shown.length, unigrams,
            translated: prefix && this.decode(target), views: [causal] };
    if (!prefix) yield { view: 1, ...this.bidirectional(asked) };
    for (let i = 0; i < T - 1; i++) {
      const t = 1 + (at - 1 + i) % (T - 1);
      if (t >= first) yield { view: 0, t, lens: this.lens(states, t - 1, tokens[t]) };
      if (!prefix && t < T - 1) yield { view: 1, t, ...this.masked(asked, t) };
    }
  }

  // Position t is predicted from those before it; after a prefix, which all see, from all of it. A
  // token that is hidden is seen by no position.
  causal({ tokens, hidden, off }, first) {
    const kept = {}, D = this.model.d_model, T = tokens.length, prefix = first > 1 ? first : 0;
    const isReal = hidden && tokens.map((_, t) => t !== hidden);
    const states = this.model.forward(tokens, true, { isReal, prefix, off, kept });
    const none = Array(first).fill(null), mask = visibility(T, 0, true, null, prefix);
    const found = this.predictions(states.subarray((first - 1) * D, -D), tokens.slice(first));
    const surprisal = [...none, ...found.map(({ nats }) => nats)];
    const top = [...none, ...found.map(({ top }) => top)];
    return { surprisal, top, lens: Array(T).fill(null), attention: this.packed(kept, T),
             mask: mask.map(Number), states: kept.states };
  }

  // All positions see each other. What is predicted, `masked` says.
  bidirectional(asked) {
    const kept = {}, T = asked.tokens.length, none = () => Array(T).fill(null);
    this.model.forward(this.without(asked), false, { off: asked.off, kept });
    return { surprisal: none(), top: none(), lens: none(), mask: Array(T * T).fill(1),
             attention: this.packed(kept, T), shift: this.data.shift };
  }

  // The token at t, from a pass in which it is hidden behind <mask>.
  masked(asked, t) {
    const kept = {}, at = t - this.data.shift, D = this.model.d_model, target = asked.tokens[t];
    const states = this.model.forward(this.without(asked, t), false, { off: asked.off, kept });
    const [{ nats, top }] = this.predictions(states.slice(at * D, (at + 1) * D), [target]);
    return { surprisal: nats, top, lens: this.lens(kept.states, at, target) };
  }

  without({ tokens, hidden }, t) {
    return tokens.map((id, i) => i === t || (hidden && i === hidden) ? MASK : id);
  }

  // For each row of hidden (N, D): - log P(target) in nats, P, and the likeliest tokens.
  predictions(hidden, targets, n = 5) {
    const V = this.model.vocab_size, logits = this.model.logits(hidden);
    return targets.map((target, i) => {
      const p = softmax(logits.subarray(i * V, (i + 1) * V)), known = target !== MASK;
      return { p: p[target], nats: known ? -Math.log(p[target]) : null, top: this.best(p, n) };
    });
  }

  // What the model would say at a position if it ended after each layer: logits(norm(state)).
  lens(states, at, target) {
    const D = this.model.d_model, rows = states.map((x) => x.subarray(at * D, (at + 1) * D));
    const normed = layerNorm(rows.reduce(joined), D, this.weights["norm.weight"]);
    return this.predictions(normed, Array(rows.length).fill(target), 3);
  }

  // The n likeliest tokens by name, [[name, p], ...].
  best(p, n) {
    const best = [];
    for (let i = 0; i < this.tokenizer.bytes.length; i++)
      if (best.length < n || p[i] > p[best[n - 1]]) {
        best.push(i);
        best.sort((a, b) => p[b] - p[a] || a - b).splice(n);
      }
    return best.map((i) => [this.data.names[i], p[i]]);
  }

  // The attention weights of all layers and heads in one array, zeros where one is switched off.
  packed({ weights }, T) {
    const maps = this.model.n_layers * this.model.n_heads, all = new Float32Array(maps * T * T);
    weights.forEach((map, i) => all.set(map, i * T * T));
    return all;
  }

  about(id) {
    const bytes = this.tokenizer.bytes[id].map((b) => b.toString(16).padStart(2, "0")).join(" ");
    const parts = (this.tokenizer.merges[id - N_BASE] ?? []).map((part) => this.data.names[part]);
    return { id, name: this.data.names[id], bytes, parts, p: this.unigrams?.[id] ?? null };
  }

  decode(ids) {
    const bytes = new Uint8Array(ids.flatMap((id) => this.tokenizer.bytes[id]));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  }

  // A token drawn from softmax(logits / temperature); at temperature 0 the likeliest. Only text and
  // <doc>, its end, may follow.
  draw(logits, temperature) {
    logits[PAD] = logits[MASK] = -Infinity;
    const best = logits.reduce((best, value, i) => value > logits[best] ? i : best, 0);
    if (!temperature) return best;
    const p = softmax(logits.map((value) => (value - logits[best]) / temperature));
    let u = Math.random();
    return Math.max(p.findIndex((share) => (u -= share) < 0), 0) || best;
  }

  // Token after token, each drawn from P(w_i | w_1 … w_{i-1}), until <doc>. Once the window is full,
  // its later half is computed anew and the rest forgotten.
  *ids(tokens, n, temperature, prefix = 0, cached = true) {
    const { max_length, d_model } = this.model;
    let window = [...tokens], fresh = window, cache = cached && this.model.newCache();
    for (let i = 0; i < n; i++) {
      if (window.length > max_length) {
        fresh = window = window.slice(-Math.max(1, max_length >> 1));
        cache = cached && this.model.newCache();
      }
      const hidden = this.model.forward(cached ? fresh : window, true, { cache, prefix });
      const id = this.draw(this.model.logits(hidden.slice(-d_model)), temperature);
      if (id === DOC) return;
      yield id;
      window.push(id);
      fresh = [id];
    }
  }

  // A text goes on.
  *write({ text, temperature, n = 60, cached = true }) {
    const begin = [DOC, ...this.encode(text)].slice(-this.model.max_length);
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // a token may end in a character
    for (const id of this.ids(begin, n, temperature, 0, cached)) {
      const bytes = new Uint8Array(this.tokenizer.bytes[id]);
      yield { id, piece: decoder.decode(bytes, { stream: true }) };
    }
  }

  // The likeliest translation, a token at a time.
  translate(source) {
    const framed = [DOC, ...source, DOC], room = this.model.max_length - framed.length;
    return this.ids(framed, Math.min(2 * source.length + 30, room), 0, framed.length);
  }

  // What each <mask> of a text stands for, most likely.
  *fill({ text }) {
    const tokens = [DOC, ...this.encode(text), DOC].slice(0, this.model.max_length);
    const hidden = this.model.forward(tokens, this.data.objective === "causal");
    const D = this.model.d_model, filled = [];
    tokens.forEach((id, t) => {
      const at = t - this.data.shift, logits = () => this.model.logits(hidden.slice(at * D, (at + 1) * D));
      if (id === MASK) filled.push(this.decode([this.draw(logits().fill(-Infinity, DOC, DOC + 1), 0)]));
    });
    yield { filled };
  }

  // P(label | text), and what leaving out each word does to that of the likeliest label.
  *classify({ text }) {
    const { p, leftOut } = this.labels(text), words = text.match(/\S+/g) ?? [];
    const likeliest = p.indexOf(Math.max(...p)), some = words.slice(0, WORDS);
    yield { p, leftOut, words: some, wordsLeftOut: words.length - some.length, effects: [] };
    for (let i = 0; i < some.length; i++) {
      const rest = words.filter((_, j) => j !== i).join(" ");
      yield { word: i, effect: p[likeliest] - this.labels(rest).p[likeliest] };
    }
  }

  labels(text) {
    const { d_model: D, max_length } = this.model, { pooling, causal } = this.data;
    const whole = this.tokenizer.encode(text), room = max_length - 2, leftOut = whole.length - room;
    const head = room >> 2; // of a text that is too long head and tail, as data.frame keeps them
    const kept = leftOut > 0 ? [...whole.slice(0, head), ...whole.slice(head - room)] : whole;
    const hidden = this.model.forward([DOC, ...kept, DOC], causal), T = kept.length + 2;
    const pooled = pooling === "last" ? hidden.slice(-D) : hidden.slice(0, D);
    if (pooling === "mean") pooled.forEach((_, j) => {
      pooled[j] = 0;
      for (let t = 0; t < T; t++) pooled[j] += hidden[t * D + j] / T;
    });
    const logits = linear(pooled, this.weights["head.weight"], D);
    return { p: [...softmax(sum(logits, this.weights["head.bias"]))], leftOut: Math.max(0, leftOut) };
  }
}

// Answer questions, {id, ask, ...}, until a newer one comes.
function serve(port, data) {
  const live = new Live(data);
  let newest;
  port.onmessage = async ({ data: question }) => {
    newest = question.id;
    for (const part of live[question.ask](question)) {
      if (newest !== question.id) return;
      port.postMessage({ ...part, question: question.id });
      await new Promise((resume) => setTimeout(resume)); // lets a newer question in
    }
    port.postMessage({ done: true, question: question.id });
  };
}
