// The answers of a page that was recorded: what was noted for the token that is hidden.
const unpack = (text) => Float32Array.from(atob(text), (c) => c.charCodeAt(0) / 255);
for (const view of data.views)
  for (const name of ["attention", "mask", "rows"]) if (view[name]) view[name] = unpack(view[name]);

function ask() {
  const { hidden } = state, { tokens, unigrams, leftOut } = data, T = tokens.length;
  const views = data.views.map(({ rows, attention, surprisal, top, ...rest }) => {
    const noted = (values) => tokens.map((_, i) => values[hidden]?.[i] ?? values[0][i]);
    if (rows && hidden) { // the row that answers for it is of the pass in which it was hidden
      attention = attention.slice();
      for (let map = 0; map < layers * heads; map++) {
        const from = ((hidden - 1) * layers * heads + map) * T;
        attention.set(rows.subarray(from, from + T), (map * T + hidden - rest.shift) * T);
      }
    }
    return { ...rest, attention, surprisal: noted(surprisal), top: noted(top) };
  });
  answer = { tokens, views, unigrams, leftOut };
  show(true);
  sayLeftOut();
}
drawEverything();
ask();
