"""The Transformer of model.py once more, in NumPy, with every derivative worked out by hand.

Functions come in pairs. The forward one returns (output, saved), where `saved` is what the backward
one needs. The backward one takes the gradient of the loss by the output, and `saved`, and returns
the gradients by the inputs. A name that begins with d is such a gradient: dx is dL/dx.

Shapes: B texts, T positions, D d_model, H heads, d = D / H, F d_ff, V vocab_size, N positions
with a target, C classes; `...` is any number of leading axes."""

import numpy as np

from minilm.config import ModelConfig, UserError

IGNORE = -100  # the target of a position that has none
EPSILON = 1e-5  # keeps layer_norm from dividing by zero
FAR = -1e30  # the score of a key that a query may not see: its exp is 0
BLOCK = ("norm_1", "attention.qkv", "attention.norm_q", "attention.norm_k", "attention.out",
         "norm_2", "feed_forward.up", "feed_forward.down")  # fmt: skip

Parameters = dict[str, np.ndarray]  # by their names in torch's state_dict; so are gradients


def linear(x: np.ndarray, weight: np.ndarray):
    """x (..., I), weight (O, I) -> (..., O):  y = W x  at every position."""
    return x @ weight.T, (x, weight)


def linear_backward(dy: np.ndarray, saved):
    """dy (..., O) -> dx (..., I), dW (O, I):  dx = Wᵀ dy,  dW = Σ dy xᵀ,
    summed over all positions because they share the one W."""
    x, weight = saved
    rows = dy.reshape(-1, dy.shape[-1])
    return dy @ weight, rows.T @ x.reshape(-1, x.shape[-1])


def layer_norm(x: np.ndarray, gain: np.ndarray):
    """x (..., n), gain (n,) -> (..., n):  y = g z,  z = (x - mean) / s,  s = √(var + ε).
    Ba, Kiros and Hinton 2016 (arXiv 1607.06450), eq. 3 and 4, without a bias."""
    s = np.sqrt(x.var(axis=-1, keepdims=True) + EPSILON)
    z = (x - x.mean(axis=-1, keepdims=True)) / s
    return gain * z, (z, s, gain)


def layer_norm_backward(dy: np.ndarray, saved):
    """dy (..., n) -> dx (..., n), dg (n,):  dx = (dz - mean(dz) - z mean(dz z)) / s,  dz = g dy.
    x_i moves z_j directly if i = j, through the mean (1/n), and through s, as ds/dx_i = z_i / n."""
    z, s, gain = saved
    dz = gain * dy
    through_s = z * (dz * z).mean(axis=-1, keepdims=True)
    dx = (dz - dz.mean(axis=-1, keepdims=True) - through_s) / s
    return dx, (dy * z).sum(axis=tuple(range(dy.ndim - 1)))


def rotate(x: np.ndarray, direction: int = 1) -> np.ndarray:
    """x (..., T, d) -> (..., T, d): turns each pair (x_j, x_{j + d/2}) at t by t · 10000^(-2j/d).
    A turned query times a turned key depends on their distance only: Su et al. 2021 (arXiv
    2104.09864), eq. 34, where the pairs are neighbours instead of halves."""
    length, d = x.shape[-2:]
    angle = np.arange(length)[:, None] * 10000.0 ** (-2 * np.arange(d // 2) / d)  # (T, d/2)
    cos, sin = np.cos(angle), np.sin(direction * angle)
    x1, x2 = np.split(x, 2, axis=-1)
    return np.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], axis=-1)


def rotate_backward(dy: np.ndarray) -> np.ndarray:
    """dy (..., T, d) -> dx (..., T, d):  y = R x  gives  dx = Rᵀ dy, the rotation back."""
    return rotate(dy, direction=-1)


def softmax(scores: np.ndarray) -> np.ndarray:
    """scores (..., n) -> p (..., n):  p_i = exp(s_i) / Σ_j exp(s_j); the maximum cancels."""
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def softmax_backward(dp: np.ndarray, p: np.ndarray) -> np.ndarray:
    """dp, p (..., n) -> ds (..., n):  ds = p (dp - Σ dp p), for dp_i/ds_j = p_i (1[i = j] - p_j)"""
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray):
    """q, k, v (B, H, T, d), visible (B or 1, 1, T, T) -> (B, H, T, d):  o = P v,  P = softmax(S),
    S = q kᵀ / √d, and FAR where not visible: Vaswani et al. 2017 (arXiv 1706.03762), eq. 1
    and section 3.2.3. A query that may see no key takes the mean of all values."""
    p = softmax(np.where(visible, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), FAR))
    return p @ v, (q, k, v, p, visible)


def attention_backward(do: np.ndarray, saved):
    """do (B, H, T, d) -> dq, dk, dv, each (B, H, T, d):  dv = Pᵀ do,  dq = dS k / √d,
    dk = dSᵀ q / √d,  where dP = do vᵀ, and dS is 0 where S is a constant."""
    q, k, v, p, visible = saved
    ds = softmax_backward(do @ v.swapaxes(-1, -2), p)  # (B, H, T, T)
    ds = np.where(visible, ds, 0) / np.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ do


def self_attention(x: np.ndarray, weights: Parameters, n_heads: int, visible: np.ndarray):
    """x (B, T, D) -> (B, T, D):  W_out [o_1 .. o_H],  o_h = attention(q_h, k_h, v_h) of W_qkv x.
    Vaswani et al. 2017, section 3.2.2. Queries and keys pass a layer norm over d, shared by the
    heads (Dehghani et al. 2023, arXiv 2302.05442, section 2), and are rotated."""
    qkv, saved_qkv = linear(x, weights["attention.qkv"])  # (B, T, 3D)
    q, k, v = qkv.reshape(*x.shape[:2], 3, n_heads, -1).transpose(2, 0, 3, 1, 4)  # (B, H, T, d)
    q, saved_q = layer_norm(q, weights["attention.norm_q"])
    k, saved_k = layer_norm(k, weights["attention.norm_k"])
    o, saved_attention = attention(rotate(q), rotate(k), v, visible)
    y, saved_out = linear(o.swapaxes(1, 2).reshape(x.shape), weights["attention.out"])
    return y, (n_heads, saved_qkv, saved_q, saved_k, saved_attention, saved_out)


def self_attention_backward(dy: np.ndarray, saved):
    """dy (B, T, D) -> dx (B, T, D), gradients: the steps of self_attention, last first."""
    n_heads, saved_qkv, saved_q, saved_k, saved_attention, saved_out = saved
    do, dout = linear_backward(dy, saved_out)
    do = do.reshape(*dy.shape[:2], n_heads, -1).swapaxes(1, 2)  # (B, H, T, d)
    dq, dk, dv = attention_backward(do, saved_attention)
    dq, dgain_q = layer_norm_backward(rotate_backward(dq), saved_q)
    dk, dgain_k = layer_norm_backward(rotate_backward(dk), saved_k)
    dqkv = np.stack([dq, dk, dv]).transpose(1, 3, 0, 2, 4)  # (B, T, 3, H, d)
    dx, dweight = linear_backward(dqkv.reshape(*dy.shape[:2], -1), saved_qkv)
    return dx, {"attention.norm_q": dgain_q, "attention.norm_k": dgain_k,
                "attention.qkv": dweight, "attention.out": dout}  # fmt: skip


def feed_forward(x: np.ndarray, weights: Parameters):
    """x (B, T, D) -> (B, T, D):  y = W_down a²,  a = max(0, W_up x), of shape (B, T, F).
    Vaswani et al. 2017, eq. 2, with the square of So et al. 2021 (arXiv 2109.08668)."""
    u, saved_up = linear(x, weights["feed_forward.up"])
    a = np.maximum(u, 0)
    y, saved_down = linear(a**2, weights["feed_forward.down"])
    return y, (saved_up, a, saved_down)


def feed_forward_backward(dy: np.ndarray, saved):
    """dy (B, T, D) -> dx (B, T, D), gradients:  d(a²)/du = 2a, already 0 where u < 0."""
    saved_up, a, saved_down = saved
    dsquare, ddown = linear_backward(dy, saved_down)
    dx, dup = linear_backward(2 * a * dsquare, saved_up)
    return dx, {"feed_forward.up": dup, "feed_forward.down": ddown}


def residual(x: np.ndarray, gain: np.ndarray, layer, *arguments):
    """x (B, T, D) -> (B, T, D):  y = x + layer(norm(x)).  Xiong et al. 2020 (arXiv 2002.04745)."""
    normed, saved_norm = layer_norm(x, gain)
    y, saved_layer = layer(normed, *arguments)
    return x + y, (saved_norm, saved_layer)


def residual_backward(dy: np.ndarray, saved, layer_backward):
    """dy (B, T, D) -> dx (B, T, D), dg (D,), the layer's gradients. The two ways of x add up."""
    saved_norm, saved_layer = saved
    dnormed, gradients = layer_backward(dy, saved_layer)
    dx, dgain = layer_norm_backward(dnormed, saved_norm)
    return dy + dx, dgain, gradients


def embedding(tokens: np.ndarray, weight: np.ndarray):
    """tokens (B, T), weight E (V, D) -> (B, T, D):  x = E[token], a row of E."""
    return weight[tokens], (tokens, weight)


def embedding_backward(dx: np.ndarray, saved) -> np.ndarray:
    """dx (B, T, D) -> dE (V, D):  dE[w] = Σ dx over all the places where token w stands."""
    dweight = np.zeros_like(saved[1])
    np.add.at(dweight, saved[0], dx)
    return dweight


def visibility(length: int, causal: bool, is_real=None, prefix=0) -> np.ndarray:
    """-> (B or 1, 1, T, T), True at [.., i, j] where position i may see position j: where j is
    real (is_real (B, T); None: all are) and, if causal, j <= i or j < prefix (B,)."""
    visible = np.ones((1, 1, length, length), dtype=bool)
    in_prefix = np.arange(length) < np.reshape(prefix, (-1, 1, 1, 1))
    visible = np.tril(visible) | in_prefix if causal else visible
    return visible if is_real is None else visible & is_real[:, None, None, :]


def transformer(parameters: Parameters, config: ModelConfig, tokens, visible: np.ndarray):
    """tokens (B, T), visible (B or 1, 1, T, T) -> hidden (B, T, D). Raises UserError where the
    config's class or the parameters (but those named "head....") are those of another model."""
    names = {f"blocks.{i}.{name}.weight" for i in range(config.n_layers) for name in BLOCK}
    names |= {"embedding.weight", "norm.weight"}
    odd = names ^ {name for name in parameters if not name.startswith("head.")}
    if odd or type(config) is not ModelConfig:
        kind = f"parameter {min(odd)}" if odd else type(config).__name__
        raise UserError(f"reference.py: {kind}: this is not the Transformer that it computes")
    x, saved_embedding = embedding(tokens, parameters["embedding.weight"])
    x, saved_first = layer_norm(x, np.ones(config.d_model))  # the one norm without a gain
    blocks = []
    for i in range(config.n_layers):
        block = {name: parameters[f"blocks.{i}.{name}.weight"] for name in BLOCK}
        x, saved_1 = residual(x, block["norm_1"], self_attention, block, config.n_heads, visible)
        x, saved_2 = residual(x, block["norm_2"], feed_forward, block)
        blocks.append((saved_1, saved_2))
    hidden, saved_norm = layer_norm(x, parameters["norm.weight"])
    return hidden, (saved_embedding, saved_first, blocks, saved_norm)


def transformer_backward(dhidden: np.ndarray, saved) -> Parameters:
    """dhidden (B, T, D) -> gradients: the steps of transformer, last first."""
    saved_embedding, saved_first, blocks, saved_norm = saved
    dx, dgain = layer_norm_backward(dhidden, saved_norm)
    gradients = {"norm.weight": dgain}
    for i, (saved_1, saved_2) in reversed(list(enumerate(blocks))):
        dx, dgain_2, feed = residual_backward(dx, saved_2, feed_forward_backward)
        dx, dgain_1, attend = residual_backward(dx, saved_1, self_attention_backward)
        block = {"norm_1": dgain_1, "norm_2": dgain_2} | attend | feed
        gradients |= {f"blocks.{i}.{name}.weight": g for name, g in block.items()}
    dx, _ = layer_norm_backward(dx, saved_first)
    return gradients | {"embedding.weight": embedding_backward(dx, saved_embedding)}


def token_nll(logits: np.ndarray, targets: np.ndarray):
    """logits (N, V), targets (N,) -> L = - Σ_n log p_n[target_n] in nats,  p = softmax(logits)."""
    p = softmax(logits)
    return -np.log(p[np.arange(len(targets)), targets]).sum(), (p, targets)


def token_nll_backward(saved) -> np.ndarray:
    """-> dlogits (N, V) = p - y, where y is 1 at the target and 0 elsewhere: of the two terms of
    L = log Σ_j exp(l_j) - l_target, the first gives p, the other -y."""
    p, targets = saved
    return p - np.eye(p.shape[-1])[targets]


def output_loss(x: np.ndarray, targets: np.ndarray, weight: np.ndarray, bias=0.0):
    """x (..., D), targets (...), weight (C, D), bias (C,) -> sum of nats, count, dx, dW, db:
    token_nll of  W x + b  wherever the target is not IGNORE."""
    has_target = targets != IGNORE
    logits, saved_logits = linear(x[has_target], weight)  # (N, C)
    loss_sum, saved_loss = token_nll(logits + bias, targets[has_target])
    dlogits, dx = token_nll_backward(saved_loss), np.zeros_like(x)
    dx[has_target], dweight = linear_backward(dlogits, saved_logits)
    return loss_sum, int(has_target.sum()), dx, dweight, dlogits.sum(axis=0)


def language_model_loss(parameters, config, inputs, targets, visible: np.ndarray):
    """inputs, targets (B, T), visible (B or 1, 1, T, T) -> sum of nats, count, gradients.
    L = - Σ_i log P(w_i | what i may see), over the positions that have a target. The logits are
    E hidden, E being the embedding (Press and Wolf 2017, arXiv 1608.05859)."""
    hidden, saved = transformer(parameters, config, inputs, visible)
    E = parameters["embedding.weight"]
    loss_sum, count, dhidden, dembedding, _ = output_loss(hidden, targets, E)
    gradients = transformer_backward(dhidden, saved)
    gradients["embedding.weight"] += dembedding  # one matrix: tokens come in and go out through it
    return loss_sum, count, gradients


def classification_loss(parameters, config, tokens, labels, is_real, pooling: str, causal: bool):
    """tokens, is_real (B, T), labels (B,) -> sum of nats, count, gradients.
    L = - log P(y | w_1 .. w_n),  logits = W Σ_t weight_t hidden_t + b;  W is head.weight (C, D),
    b is head.bias (C,); the weights pick the mean of the real tokens, the first, or the last."""
    visible = visibility(tokens.shape[1], causal, is_real)
    hidden, saved = transformer(parameters, config, tokens, visible)
    t, n = np.arange(tokens.shape[1]), is_real.sum(axis=1, keepdims=True)
    weights = {"mean": is_real / n, "first": (t == 0) & is_real, "last": t == n - 1}[pooling]
    pooled = np.einsum("bt,btd->bd", weights, hidden)
    head = parameters["head.weight"], parameters["head.bias"]
    loss_sum, count, dpooled, dhead, dbias = output_loss(pooled, labels, *head)
    gradients = transformer_backward(np.einsum("bt,bd->btd", weights, dpooled), saved)
    return loss_sum, count, gradients | {"head.weight": dhead, "head.bias": dbias}


def token_states(parameters, config, tokens, is_real):
    """tokens, is_real (B, T) -> (B, T, 2D):  [h_t; h_{t-1}],  where nothing is before h_0."""
    visible = visibility(tokens.shape[1], False, is_real)
    hidden, saved = transformer(parameters, config, tokens, visible)
    before = np.pad(hidden[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return np.concatenate([hidden, before], axis=-1), saved


def token_states_backward(dstates: np.ndarray, saved) -> Parameters:
    """dstates (B, T, 2D) -> gradients: h_t stands at t and, as the state before, at t + 1."""
    dhidden, dbefore = np.split(dstates, 2, axis=-1)
    return transformer_backward(dhidden + np.pad(dbefore[:, 1:], ((0, 0), (0, 1), (0, 0))), saved)


def tagging_loss(parameters, config, tokens, tags, is_real, words):
    """tokens, is_real (B, T), tags (B, W), words (B, W, 2) -> sum of nats, count, gradients.
    L = - Σ_i log P(y_i | w_1 .. w_n),  logits = W mean(states of tokens first <= t < end) + b."""
    states, saved = token_states(parameters, config, tokens, is_real)
    first, end, t = words[..., :1], words[..., 1:], np.arange(tokens.shape[1])
    weights = ((first <= t) & (t < end)) / np.maximum(end - first, 1)  # (B, W, T)
    head = parameters["head.weight"], parameters["head.bias"]
    loss_sum, count, dpooled, dhead, dbias = output_loss(weights @ states, tags, *head)
    gradients = token_states_backward(weights.swapaxes(1, 2) @ dpooled, saved)
    return loss_sum, count, gradients | {"head.weight": dhead, "head.bias": dbias}


def answer_loss(parameters, config, tokens, spans, is_real, allowed):
    """tokens, is_real, allowed (B, T), spans (B, 2) -> sum of nats, count, gradients.
    L = - log P(start) - log P(end): softmaxes over the positions allowed, in which b cancels."""
    states, saved = token_states(parameters, config, tokens, is_real)
    scores, saved_scores = linear(states, parameters["head.weight"])  # (B, T, 2)
    scores = np.where(allowed[..., None], scores, FAR).swapaxes(1, 2)  # (B, 2, T)
    loss_sum, saved_loss = token_nll(scores.reshape(-1, tokens.shape[1]), spans.ravel())
    dscores = token_nll_backward(saved_loss).reshape(scores.shape).swapaxes(1, 2)  # (B, T, 2)
    dstates, dhead = linear_backward(dscores, saved_scores)
    gradients = {"head.weight": dhead, "head.bias": np.zeros(2)}
    return loss_sum, len(tokens), gradients | token_states_backward(dstates, saved)
