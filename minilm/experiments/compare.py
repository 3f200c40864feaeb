"""Which objective is better for what? `python -m minilm compare`: the same net, text, order of the
text and budget for every arm, then the same labels, and intervals on every difference.

The folder of a comparison:

config.json      what was asked for, sealed; a second call goes on where the first one stopped
pretrain/        one run folder for each arm and seed, as train_pretrain.py makes them
jobs/            one small JSON file for each fine-tuning that is done
results.json     everything below; tables.md and report.html are made from it alone

results.json, where ARM is a name in "arms" and a "draw" is one sample of the labels with one seed
(accuracies are shares of 1, losses nats a target):

    {"format": 1,
     "card": {"command", "size", "data", "quick", "budget", "shape": {ModelConfig's fields},
              "parameters", "steps", "train_tokens", "valid_tokens", "tokens", "flops",
              "seconds", "watts", "watts_source", "watt_hours", "threads", "machine",
              "seeds", "pretrainings", "versions": {name: version}, "data_hash",
              "labels": {"train", "valid", "test"}, "length", "classes": [names]},
     "arms": ["scratch", "causal", ...],        in the order in which to show them
     "baselines": ["majority class", "bag of words"],      the second only with scikit-learn
     "about": {ARM or baseline: one line on what it is},
     "readings": {ARM: ["causal"] or ["masked"] or both},   what its loss is measured as
     "lines": {"unigram", "trigram"},           what counting words reaches on validation text
     "pretraining": {ARM: [one a pretraining: {"seed", "learning_rate", "steps", "tokens",
                           "targets", "flops", "seconds", "epochs", "run": folder,
                           "curve": [{"step", "tokens", "targets", "flops", "seconds",
                                      "causal_loss"?, "masked_loss"?, "bits_per_byte"?,
                                      "masked_accuracy"?}]}]},          not for "scratch"
     "sweep": {"labels": N, "rates": [r, ...], "accuracy": {ARM: [validation, one a rate]},
               "chosen": {ARM: r}},
     "label_curve": {"sizes": [100, ...], "draws": [10, ...],
                     "accuracy": {ARM or baseline: [[one a draw], one list a size]},
                     "mean": {ARM or baseline: [one a size]},
                     "low", "high": likewise, a t-interval over draws (null for a single draw),
                     "labels_saved": {ARM but scratch: [{"labels", "scratch_needs", "saved"},
                                      one a size; null where scratch never gets there]}},
     "axes": [{"arm", "seed", "tokens", "targets", "flops", "seconds", "accuracy"}],
                                                 the finals over what pretraining spent
     "finals": {"labels": N, "rows": N,
                "truth": [a class number a test row],
                "runs": {ARM or baseline: [{"seed", "accuracy", "macro_f1",
                                            "predicted": [a class number a row]}]},
                "mean": {...: x}, "row_interval": {...: [low, high]}, a bootstrap over test rows
                "seed_interval": {...: [low, high] or null}},         t over seeds
     "verdicts": [{"a", "b", "difference": accuracy a - b, "rows": [low, high],
                   "seeds": [low, high] or null, "mcnemar": [p, one a seed],
                   "verdict": "real" or "undecided"}],     each pair once, baselines too
     "pooling": {"labels": N, "settings": ["mean/bidirectional", "last/causal", ...],
                 "accuracy": {ARM: [[one a draw], one list a setting]}},
     "analyses": {ARM: what analyses.analyse returned},
     "answers": [{"question", "answer"}]}

A key whose part has not been reached yet is absent: a report can be drawn at any time.
"""
