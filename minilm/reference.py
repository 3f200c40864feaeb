"""The Transformer of model.py once more, in NumPy, with every derivative worked out by hand.

Nothing here is fast; everything can be checked with a pencil. Functions come in pairs. The
forward one returns (output, saved), where `saved` is what the way back needs; the backward one
takes the gradient of the loss by the output, and `saved`, and returns the gradients by the
inputs. A name that begins with d is such a gradient: dx means dL/dx and has the shape of x.

Shapes: B texts, T positions, D d_model, H heads, d = D / H, F d_ff, V words, N positions with a
target, C classes; `...` is any number of leading axes. Padding stands at the end of a text.
"""

import numpy as np

from minilm.config import ModelConfig

IGNORE = -100  # the target of a position that has none
EPSILON = 1e-5  # keeps layer_norm from dividing by zero

Parameters = dict[str, np.ndarray]  # by their names in torch's state_dict; so are gradients


def linear(x: np.ndarray, weight: np.ndarray):
    """x (..., I), weight (O, I) -> (..., O):  y = W x  at every position."""
    return x @ weight.T, (x, weight)


def linear_backward(dy: np.ndarray, saved):
    """dy (..., O) -> dx (..., I), dW (O, I).

    y_o = Σ_i W_oi x_i, so  dx_i = Σ_o dy_o W_oi  and  dW_oi = dy_o x_i, which is summed over all
    positions because they share the one W.
    """
    x, weight = saved
    rows = dy.reshape(-1, dy.shape[-1])
    return dy @ weight, rows.T @ x.reshape(-1, x.shape[-1])


def layer_norm(x: np.ndarray, gain: np.ndarray):
    """x (..., n), gain (n,) -> (..., n):  y = g z,  z = (x - mean) / s,  s = √(var + ε).

    Ba, Kiros and Hinton 2016 (arXiv 1607.06450), eq. 3 and 4, without a bias.
    """
    s = np.sqrt(x.var(axis=-1, keepdims=True) + EPSILON)
    z = (x - x.mean(axis=-1, keepdims=True)) / s
    return gain * z, (z, s, gain)


def layer_norm_backward(dy: np.ndarray, saved):
    """dy (..., n) -> dx (..., n), dg (n,).

    x_i moves z_j in three ways: directly if i = j, through the mean (1/n), and through s, since
    ds/dx_i = z_i / n. Together, with dz = g dy:  dx = (dz - mean(dz) - z mean(dz z)) / s.
    """
    z, s, gain = saved
    dz = gain * dy
    through_s = z * (dz * z).mean(axis=-1, keepdims=True)
    dx = (dz - dz.mean(axis=-1, keepdims=True) - through_s) / s
    return dx, (dy * z).sum(axis=tuple(range(dy.ndim - 1)))


def rotate(x: np.ndarray, direction: int = 1) -> np.ndarray:
    """x (..., T, d) -> (..., T, d): turns each pair (x_j, x_{j + d/2}) at t by t · 10000^(-2j/d).

    A turned query times a turned key depends on their distance only: Su et al. 2021 (arXiv
    2104.09864), eq. 34, where the pairs are neighbours instead of halves.
    """
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
    """dp, p (..., n) -> ds (..., n):  dp_i/ds_j = p_i (1[i = j] - p_j),  ds = p (dp - Σ dp p)."""
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, allowed: np.ndarray):
    """q, k, v (B, H, T, d), allowed (B or 1, 1, T, T) -> (B, H, T, d):  o = P v,  P = softmax(S).

    S = q kᵀ / √d, and minus infinity where not allowed: Vaswani et al. 2017 (arXiv 1706.03762),
    eq. 1 and section 3.2.3.
    """
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    p = softmax(np.where(allowed, scores, -np.inf))  # (B, H, T, T)
    return p @ v, (q, k, v, p)


def attention_backward(do: np.ndarray, saved):
    """do (B, H, T, d) -> dq, dk, dv, each (B, H, T, d).

    dv = Pᵀ do,  dP = do vᵀ,  dq = dS k / √d,  dk = dSᵀ q / √d. Masked scores need no case of
    their own: P is 0 there, hence dS is.
    """
    q, k, v, p = saved
    ds = softmax_backward(do @ v.swapaxes(-1, -2), p) / np.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ do


def split_heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """x (B, T, D) -> (B, H, T, d)."""
    return x.reshape(*x.shape[:2], n_heads, -1).swapaxes(1, 2)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """x (B, H, T, d) -> (B, T, D): undoes split_heads. Each is the other's backward."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def attention_layer(x: np.ndarray, weights: Parameters, config: ModelConfig, allowed: np.ndarray):
    """x (B, T, D) -> (B, T, D):  W_out [o_1 .. o_H],  o_h = attention(q_h, k_h, v_h) of W_qkv x.

    Vaswani et al. 2017, section 3.2.2. Queries and keys may pass a layer norm over d, shared by
    the heads (Dehghani et al. 2023, arXiv 2302.05442, section 2); after it they are rotated.
    """
    qkv, saved_qkv = linear(x, weights["qkv.weight"])
    q, k, v = (split_heads(part, config.n_heads) for part in np.split(qkv, 3, axis=-1))
    saved_q = saved_k = None
    if config.normalise_qk:
        q, saved_q = layer_norm(q, weights["norm_q.weight"])
        k, saved_k = layer_norm(k, weights["norm_k.weight"])
    if config.positions == "rotary":
        q, k = rotate(q), rotate(k)
    o, saved_attention = attention(q, k, v, allowed)
    y, saved_out = linear(merge_heads(o), weights["out.weight"])
    return y, (config, saved_qkv, saved_q, saved_k, saved_attention, saved_out)


def attention_layer_backward(dy: np.ndarray, saved):
    """dy (B, T, D) -> dx (B, T, D), gradients: the steps of attention_layer, last first."""
    config, saved_qkv, saved_q, saved_k, saved_attention, saved_out = saved
    gradients = {}
    do, gradients["out.weight"] = linear_backward(dy, saved_out)
    dq, dk, dv = attention_backward(split_heads(do, config.n_heads), saved_attention)
    if config.positions == "rotary":
        dq, dk = rotate_backward(dq), rotate_backward(dk)
    if config.normalise_qk:
        dq, gradients["norm_q.weight"] = layer_norm_backward(dq, saved_q)
        dk, gradients["norm_k.weight"] = layer_norm_backward(dk, saved_k)
    dqkv = np.concatenate([merge_heads(part) for part in (dq, dk, dv)], axis=-1)
    dx, gradients["qkv.weight"] = linear_backward(dqkv, saved_qkv)
    return dx, gradients


def feed_forward(x: np.ndarray, weights: Parameters):
    """x (B, T, D) -> (B, T, D):  W_down a²,  a = max(0, W_up x), of shape (B, T, F).

    Vaswani et al. 2017, eq. 2, with the square of So et al. 2021 (arXiv 2109.08668).
    """
    u, saved_up = linear(x, weights["up.weight"])
    a = np.maximum(u, 0)
    y, saved_down = linear(a**2, weights["down.weight"])
    return y, (saved_up, a, saved_down)


def feed_forward_backward(dy: np.ndarray, saved):
    """dy (B, T, D) -> dx (B, T, D), gradients.  d(a²)/du = 2a, already 0 where u < 0."""
    saved_up, a, saved_down = saved
    da2, ddown = linear_backward(dy, saved_down)
    dx, dup = linear_backward(2 * a * da2, saved_up)
    return dx, {"up.weight": dup, "down.weight": ddown}


def residual(x: np.ndarray, gain: np.ndarray, layer, *arguments):
    """x (B, T, D) -> (B, T, D):  x + layer(norm(x)).  Xiong et al. 2020 (arXiv 2002.04745)."""
    normed, saved_norm = layer_norm(x, gain)
    y, saved_layer = layer(normed, *arguments)
    return x + y, (saved_norm, saved_layer)


def residual_backward(dy: np.ndarray, saved, layer_backward):
    """dy (B, T, D) -> dx (B, T, D), dg (D,), the layer's gradients. x takes two ways; both add."""
    saved_norm, saved_layer = saved
    dnormed, gradients = layer_backward(dy, saved_layer)
    dx, dgain = layer_norm_backward(dnormed, saved_norm)
    return dy + dx, dgain, gradients


def below(parameters: Parameters, prefix: str) -> Parameters:
    """The parameters whose names begin with prefix, by the rest of their names."""
    return {n.removeprefix(prefix): p for n, p in parameters.items() if n.startswith(prefix)}


def transformer(parameters: Parameters, config: ModelConfig, tokens, causal: bool, is_real=None):
    """tokens (B, T), is_real (B, T) or None -> hidden (B, T, D).

    Position i may see position j if j is real and, where causal, j <= i.
    """
    length = tokens.shape[1]
    allowed = np.ones((1, 1, length, length), dtype=bool)  # [.., i, j]
    if causal:
        allowed = np.tril(allowed)
    if is_real is not None:
        allowed = allowed & is_real[:, None, None, :]
    x = parameters["embedding.weight"][tokens]
    if config.positions == "learned":
        x = x + parameters["positions.weight"][:length]
    blocks = []
    for i in range(config.n_layers):
        block = below(parameters, f"blocks.{i}.")
        attend, feed = below(block, "attention."), below(block, "feed_forward.")
        x, saved_1 = residual(x, block["norm_1.weight"], attention_layer, attend, config, allowed)
        x, saved_2 = residual(x, block["norm_2.weight"], feed_forward, feed)
        blocks.append((saved_1, saved_2))
    hidden, saved_norm = layer_norm(x, parameters["norm.weight"])
    return hidden, (tokens, parameters, blocks, saved_norm)


def transformer_backward(dhidden: np.ndarray, saved) -> Parameters:
    """dhidden (B, T, D) -> gradients. A word that stands in several places collects from all."""
    tokens, parameters, blocks, saved_norm = saved
    gradients = {name: np.zeros_like(p) for name, p in parameters.items()}
    dx, gradients["norm.weight"] = layer_norm_backward(dhidden, saved_norm)
    for i, (saved_1, saved_2) in reversed(list(enumerate(blocks))):
        dx, dgain_2, feed = residual_backward(dx, saved_2, feed_forward_backward)
        dx, dgain_1, attend = residual_backward(dx, saved_1, attention_layer_backward)
        block = {"norm_1.weight": dgain_1, "norm_2.weight": dgain_2}
        block |= {f"attention.{name}": g for name, g in attend.items()}
        block |= {f"feed_forward.{name}": g for name, g in feed.items()}
        gradients |= {f"blocks.{i}.{name}": g for name, g in block.items()}
    if "positions.weight" in gradients:
        gradients["positions.weight"][: tokens.shape[1]] = dx.sum(axis=0)
    np.add.at(gradients["embedding.weight"], tokens, dx)
    return gradients


def token_nll(logits: np.ndarray, targets: np.ndarray):
    """logits (N, V), targets (N,) -> - Σ_n log p_n[target_n] in nats,  p = softmax(logits)."""
    p = softmax(logits)
    return -np.log(p[np.arange(len(targets)), targets]).sum(), (p, targets)


def token_nll_backward(saved) -> np.ndarray:
    """-> dlogits (N, V) = p - y, where y is 1 at the target and 0 elsewhere.

    - log p_target = log Σ_j exp(l_j) - l_target: the first term's derivative is p, the other's -y.
    """
    p, targets = saved
    return p - np.eye(p.shape[-1])[targets]


def language_model_loss(parameters, config, inputs, targets, causal: bool, is_real=None):
    """inputs, targets (B, T), is_real (B, T) or None -> sum of nats, count, gradients.

    L = - Σ_i log P(w_i | what i may see), over the positions whose target is not IGNORE. Causal
    (Radford et al. 2018, eq. 1): inputs w[:, :-1], targets w[:, 1:]. Masked (Devlin et al. 2019,
    arXiv 1810.04805, section 3.1): a corrupted text, the words behind its masks, causal=False.
    The logits are E hidden, E being the embedding (Press and Wolf 2017, arXiv 1608.05859).
    """
    hidden, saved = transformer(parameters, config, inputs, causal, is_real)
    has_target = targets != IGNORE
    logits, saved_logits = linear(hidden[has_target], parameters["embedding.weight"])
    loss_sum, saved_loss = token_nll(logits, targets[has_target])

    dhidden = np.zeros_like(hidden)
    dhidden[has_target], dembedding = linear_backward(token_nll_backward(saved_loss), saved_logits)
    gradients = transformer_backward(dhidden, saved)
    gradients["embedding.weight"] += dembedding  # one matrix: words come in and go out through it
    return loss_sum, int(has_target.sum()), gradients


def pooling_weights(is_real: np.ndarray, pooling: str) -> np.ndarray:
    """is_real (B, T) -> (B, T), rows sum to 1: the mean of the real tokens, the first, the last."""
    t, count = np.arange(is_real.shape[1]), is_real.sum(axis=1, keepdims=True)
    return {"mean": is_real / count, "first": t == 0 * count, "last": t == count - 1}[pooling]


def classification_loss(parameters, config, tokens, labels, is_real, pooling: str, causal: bool):
    """tokens, is_real (B, T), labels (B,) -> sum of nats, count, gradients.

    L = - log P(y | w_1 .. w_n),  logits = W pooled + b,  pooled (B, D) = Σ_t weight_t hidden_t;
    W is head.weight (C, D), b is head.bias (C,).
    """
    hidden, saved = transformer(parameters, config, tokens, causal, is_real)
    weights = pooling_weights(is_real, pooling)
    pooled = np.einsum("bt,btd->bd", weights, hidden)
    logits, saved_logits = linear(pooled, parameters["head.weight"])
    loss_sum, saved_loss = token_nll(logits + parameters["head.bias"], labels)

    dlogits = token_nll_backward(saved_loss)
    dpooled, dhead = linear_backward(dlogits, saved_logits)
    gradients = transformer_backward(np.einsum("bt,bd->btd", weights, dpooled), saved)
    gradients |= {"head.weight": dhead, "head.bias": dlogits.sum(axis=0)}
    return loss_sum, len(labels), gradients
