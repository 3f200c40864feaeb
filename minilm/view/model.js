"use strict";
// The Transformer a third time, after model.py (PyTorch) and reference.py (NumPy): what a page
// computes with, by the book's names. It needs nothing but a JavaScript engine. A matrix (T, D) is
// a Float32Array of T · D numbers, row after row.
const EPSILON = 1e-5, FAR = -1e30, BASE = 10000;
const PAD = 0, MASK = 1, DOC = 2, N_SPECIAL = 3, N_BASE = 259;

// W x for each row: x (T, n), W (m, n). Returns (T, m). Two rows of each at a time: every number
// that is fetched serves twice.
function linear(x, W, n) {
  const T = x.length / n, m = W.length / n, y = new Float32Array(T * m);
  for (let t = 0; t < T; t += 2)
    for (let i = 0; i < m; i += 2) {
      const t2 = Math.min(t + 1, T - 1), i2 = Math.min(i + 1, m - 1);
      const a = t * n, b = t2 * n, c = i * n, d = i2 * n;
      let ac = 0, ad = 0, bc = 0, bd = 0;
      for (let j = 0; j < n; j++) {
        const xa = x[a + j], xb = x[b + j], wc = W[c + j], wd = W[d + j];
        ac += xa * wc; ad += xa * wd; bc += xb * wc; bd += xb * wd;
      }
      y[t * m + i] = ac; y[t * m + i2] = ad; y[t2 * m + i] = bc; y[t2 * m + i2] = bd;
    }
  return y;
}

// g · (x - mean) / √(var + ε) for each `width` numbers; without a gain where g is not given.
function layerNorm(x, width, g) {
  const y = new Float32Array(x.length);
  for (let from = 0; from < x.length; from += width) {
    let mean = 0, variance = 0;
    for (let j = 0; j < width; j++) mean += x[from + j] / width;
    for (let j = 0; j < width; j++) variance += (x[from + j] - mean) ** 2 / width;
    const scale = 1 / Math.sqrt(variance + EPSILON);
    for (let j = 0; j < width; j++) y[from + j] = (x[from + j] - mean) * scale * (g ? g[j] : 1);
  }
  return y;
}

// exp(x_i - max) / Σ_j exp(x_j - max), in place.
function softmax(x) {
  let most = -Infinity, sum = 0;
  for (const value of x) most = Math.max(most, value);
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i] - most);
  for (let i = 0; i < x.length; i++) x[i] /= sum;
  return x;
}

// Rotary positions: (a, b) -> (a cos - b sin, a sin + b cos), for each pair (x_j, x_{j + d/2}) of
// each head of x (T, D), by the angle t · 10000^(-2j/d); the first row is at position `start`.
function rotate(x, D, d, start) {
  for (let at = 0; at < x.length; at += d)
    for (let j = 0; j < d / 2; j++) {
      const angle = (start + Math.floor(at / D)) * BASE ** (-2 * j / d);
      const cos = Math.cos(angle), sin = Math.sin(angle), a = x[at + j], b = x[at + j + d / 2];
      x[at + j] = a * cos - b * sin;
      x[at + j + d / 2] = a * sin + b * cos;
    }
  return x;
}

// What positions start .. start + length may see, (length, start + length) of true and false: all,
// or causally what stands before them and the prefix; never a token that is not real.
function visibility(length, start, causal, isReal, prefix = 0) {
  const S = start + length;
  return Array.from({ length: length * S }, (_, i) => {
    const t = start + Math.floor(i / S), s = i % S;
    return (!causal || s <= t || s < prefix) && (!isReal || isReal[s]);
  });
}

// softmax(Q Kᵀ / √d) V for one head: q (T, D), k and v (S, D), of which it has the d columns from
// `from` on. Adds to mixed (T, D); returns the weights (T, S).
function attention(q, k, v, mask, D, d, from, mixed) {
  const T = q.length / D, S = k.length / D, weights = new Float32Array(T * S);
  for (let t = 0; t < T; t++) {
    const row = weights.subarray(t * S, (t + 1) * S);
    for (let s = 0; s < S; s++) {
      let dot = 0;
      for (let j = from; j < from + d; j++) dot += q[t * D + j] * k[s * D + j];
      row[s] = mask[t * S + s] ? dot / Math.sqrt(d) : FAR;
    }
    softmax(row);
    for (let s = 0; s < S; s++)
      if (row[s])
        for (let j = from; j < from + d; j++) mixed[t * D + j] += row[s] * v[s * D + j];
  }
  return weights;
}

class Transformer {
  // shape: as ModelConfig; weights: {name: Float32Array}, by the names of PyTorch's state_dict.
  constructor(shape, weights) {
    Object.assign(this, shape, { weights, E: weights["embedding.weight"] });
    this.d = this.d_model / this.n_heads;
  }

  newCache() {
    return Array.from({ length: this.n_layers }, () => ({ k: new Float32Array(0), v: new Float32Array(0) }));
  }

  // tokens: ids, which continue what a cache holds. off: numbers of layers, and "layer.head", that
  // are switched off. kept: an object that is given states and weights, an entry a layer. Returns
  // hidden (T, D).
  forward(tokens, causal, { isReal, prefix, cache, off = new Set(), kept } = {}) {
    const D = this.d_model, start = cache ? cache[0].k.length / D : 0;
    const mask = visibility(tokens.length, start, causal, isReal, prefix);
    let x = new Float32Array(tokens.length * D);
    tokens.forEach((id, t) => x.set(this.E.subarray(id * D, (id + 1) * D), t * D));
    x = layerNorm(x, D);
    if (kept) Object.assign(kept, { states: [x], weights: [] });
    for (let l = 0; l < this.n_layers; l++) {
      if (!off.has(l)) x = this.block(x, l, mask, start, cache?.[l], off, kept);
      kept?.states.push(x);
    }
    return layerNorm(x, D, this.weights["norm.weight"]);
  }

  // x + attention(norm(x)), then x + feed_forward(norm(x)).
  block(x, l, mask, start, cache, off, kept) {
    const D = this.d_model, d = this.d, W = (name) => this.weights[`blocks.${l}.${name}.weight`];
    const qkv = linear(layerNorm(x, D, W("norm_1")), W("attention.qkv"), D); // (T, 3D)
    let [q, k, v] = [0, 1, 2].map((part) => columns(qkv, 3 * D, part * D, D)); // (T, D) each
    q = rotate(layerNorm(q, d, W("attention.norm_q")), D, d, start);
    k = rotate(layerNorm(k, d, W("attention.norm_k")), D, d, start);
    if (cache) [k, v] = [cache.k = joined(cache.k, k), cache.v = joined(cache.v, v)];
    const mixed = new Float32Array(x.length);
    for (let h = 0; h < this.n_heads; h++)
      if (!off.has(`${l}.${h}`)) {
        const weights = attention(q, k, v, mask, D, d, h * d, mixed);
        if (kept) kept.weights[l * this.n_heads + h] = weights;
      }
    x = sum(x, linear(mixed, W("attention.out"), D));
    const up = linear(layerNorm(x, D, W("norm_2")), W("feed_forward.up"), D); // (T, F)
    for (let i = 0; i < up.length; i++) up[i] = Math.max(0, up[i]) ** 2; // squared ReLU
    return sum(x, linear(up, W("feed_forward.down"), this.d_ff));
  }

  // hidden · Eᵀ: a score for every token of the vocabulary. hidden (N, D). Returns (N, V).
  logits(hidden) {
    return linear(hidden, this.E, this.d_model);
  }
}

const columns = (x, width, from, n) => {
  const y = new Float32Array(x.length / width * n);
  for (let t = 0; t * n < y.length; t++) y.set(x.subarray(t * width + from, t * width + from + n), t * n);
  return y;
};
const sum = (x, y) => x.map((value, i) => value + y[i]);
const joined = (x, y) => {
  const both = new Float32Array(x.length + y.length);
  both.set(x);
  both.set(y, x.length);
  return both;
};

// `ids` with every pair (a, b) replaced by the token `id`, from left to right.
function merge(ids, a, b, id) {
  const merged = [];
  for (const i of ids)
    if (i === b && merged.at(-1) === a) merged[merged.length - 1] = id;
    else merged.push(i);
  return merged;
}

// Byte-level BPE, as tokenizer.py has it: its PATTERN and its merges, [[a, b], ...].
class Tokenizer {
  constructor(pattern, merges) {
    this.pattern = new RegExp(pattern, "gu");
    this.ranks = new Map(merges.map(([a, b], rank) => [a * 65536 + b, rank]));
    this.merges = merges;
    this.bytes = ["<pad>", "<mask>", "<doc>"].map((name) => [...name].map((c) => c.charCodeAt()));
    for (let b = 0; b < 256; b++) this.bytes.push([b]);
    for (const [a, b] of merges) this.bytes.push([...this.bytes[a], ...this.bytes[b]]);
    this.cache = new Map();
  }

  encode(text) {
    return (text.match(this.pattern) ?? []).flatMap((piece) => {
      if (!this.cache.has(piece)) this.cache.set(piece, this.encodePiece(piece));
      return this.cache.get(piece);
    });
  }

  // Of the pairs in a piece, the one learnt first is merged first.
  encodePiece(piece) {
    let ids = utf8(piece).map((byte) => N_SPECIAL + byte);
    for (;;) {
      const rankAt = (i) => this.ranks.get(ids[i] * 65536 + ids[i + 1]) ?? Infinity;
      const first = Math.min(...ids.slice(1).map((_, i) => rankAt(i)));
      if (first === Infinity) return ids;
      ids = merge(ids, ...this.merges[first], N_BASE + first);
    }
  }
}

// The bytes of a text; half of a surrogate pair, which TextEncoder would replace, becomes three.
function utf8(text) {
  return [...text].flatMap((character) => {
    const c = character.codePointAt(0);
    if (c < 0x80) return [c];
    if (c < 0x800) return [0xc0 | c >> 6, 0x80 | c & 63];
    if (c < 0x10000) return [0xe0 | c >> 12, 0x80 | c >> 6 & 63, 0x80 | c & 63];
    return [0xf0 | c >> 18, 0x80 | c >> 12 & 63, 0x80 | c >> 6 & 63, 0x80 | c & 63];
  });
}
