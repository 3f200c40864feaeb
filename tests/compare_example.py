"""A small results.json of a comparison, as minilm/experiments/compare.py specifies it."""

EXAMPLE = {
    "format": 1,
    "card": {
        "command": "python -m minilm compare", "size": "tiny", "data": "python-docs",
        "quick": True, "budget": "tokens", "parameters": 1311360, "steps": 240,
        "shape": {"d_model": 128, "n_layers": 4, "n_heads": 4, "max_length": 128},
        "train_tokens": 2000000, "valid_tokens": 100000, "tokens": 245760, "flops": 2.1e12,
        "seconds": 700.0, "watts": 20.0, "watts_source": "assumed: 10 W for each of 2 cores",
        "watt_hours": 3.9, "threads": 2, "machine": "float32 on cpu", "seeds": 2,
        "pretrainings": 1, "versions": {"python": "3.11.4", "torch": "2.10.0"},
        "data_hash": "00000000", "labels": {"train": 300, "valid": 100, "test": 4},
        "length": 64, "classes": ["a", "b"],
    },
    "arms": ["scratch", "causal"],
    "baselines": ["majority class"],
    "about": {
        "scratch": "random weights", "causal": "next token", "majority class": "one label for all",
    },
    "readings": {"causal": ["causal"]},
    "lines": {"unigram": 6.6, "trigram": 4.9},
    "pretraining": {
        "causal": [
            {
                "seed": 0, "learning_rate": 7e-3, "steps": 240, "tokens": 245760,
                "targets": 245760, "flops": 2.1e12, "seconds": 30.0, "epochs": 0.12,
                "run": "runs/compare-1/pretrain/causal-0",
                "curve": [
                    {"step": 120, "tokens": 122880, "targets": 122880, "flops": 1.05e12,
                     "seconds": 15.0, "causal_loss": 5.5, "bits_per_byte": 2.4},
                    {"step": 240, "tokens": 245760, "targets": 245760, "flops": 2.1e12,
                     "seconds": 30.0, "causal_loss": 5.0, "bits_per_byte": 2.2},
                ],
            }
        ]
    },
    "pretraining_sweep": {
        "rates": [3.5e-3, 7e-3], "steps": {"causal": 40}, "loss": {"causal": [6.0, 5.75]},
        "chosen": {"causal": 7e-3},
    },
    "sweep": {
        "labels": 100, "rates": [1e-3, 3e-3],
        "accuracy": {"scratch": [0.4, 0.5], "causal": [0.5, 0.6]},
        "chosen": {"scratch": 3e-3, "causal": 3e-3},
    },
    "label_curve": {
        "sizes": [100, 300], "draws": [2, 2],
        "accuracy": {
            "scratch": [[0.25, 0.5], [0.5, 0.75]], "causal": [[0.5, 0.5], [0.75, 0.75]],
            "majority class": [[0.5, 0.5], [0.5, 0.5]],
        },
        "mean": {"scratch": [0.375, 0.625], "causal": [0.5, 0.75], "majority class": [0.5, 0.5]},
        "low": {"scratch": [0.0, 0.0], "causal": [0.5, 0.75], "majority class": [0.5, 0.5]},
        "high": {"scratch": [1.0, 1.0], "causal": [0.5, 0.75], "majority class": [0.5, 0.5]},
        "labels_saved": {
            "causal": [
                {"labels": 100, "scratch_needs": 173, "saved": 73},
                {"labels": 300, "scratch_needs": None, "saved": None},
            ]
        },
    },
    "axes": {"labels": 100, "points": [
        {"arm": "scratch", "seed": 0, "share": 0.0, "tokens": 0, "targets": 0, "flops": 0,
         "seconds": 0, "accuracy": 0.25},
        {"arm": "causal", "seed": 0, "share": 0.5, "tokens": 122880, "targets": 122880,
         "flops": 1.05e12, "seconds": 15.0, "accuracy": 0.25},
        {"arm": "causal", "seed": 0, "share": 1.0, "tokens": 245760, "targets": 245760,
         "flops": 2.1e12, "seconds": 30.0, "accuracy": 0.5},
    ]},
    "finals": {
        "labels": 300, "rows": 4, "truth": [0, 1, 0, 1],
        "runs": {
            "scratch": [
                {"seed": 0, "accuracy": 0.5, "macro_f1": 0.5, "predicted": [0, 0, 1, 1]},
                {"seed": 1, "accuracy": 0.75, "macro_f1": 0.73, "predicted": [0, 1, 0, 0]},
            ],
            "causal": [
                {"seed": 0, "accuracy": 0.75, "macro_f1": 0.73, "predicted": [0, 1, 0, 0]},
                {"seed": 1, "accuracy": 0.75, "macro_f1": 0.73, "predicted": [0, 1, 1, 1]},
            ],
            "majority class": [
                {"seed": 0, "accuracy": 0.5, "macro_f1": 0.33, "predicted": [0, 0, 0, 0]},
            ],
        },
        "mean": {"scratch": 0.625, "causal": 0.75, "majority class": 0.5},
        "row_interval": {
            "scratch": [0.25, 1.0], "causal": [0.5, 1.0], "majority class": [0.0, 1.0],
        },
        "seed_interval": {"scratch": [0.0, 1.0], "causal": [0.75, 0.75], "majority class": None},
    },
    "verdicts": [
        {"a": "scratch", "b": "causal", "difference": -0.125, "rows": [-0.4, 0.1],
         "seeds": [-1.0, 1.0], "mcnemar": [1.0, 1.0], "verdict": "undecided"},
    ],
    "pooling": {
        "labels": 100, "settings": ["mean/bidirectional", "last/causal"],
        "accuracy": {"scratch": [[0.5], [0.5]], "causal": [[0.75], [0.5]]},
    },
    "analyses": {
        "causal": {
            "calibration": {
                "bins": [{"confidence": 0.6, "accuracy": 0.5, "texts": 2},
                         {"confidence": 0.9, "accuracy": 1.0, "texts": 2}],
                "error": 0.1, "temperature": 1.2, "error_scaled": 0.05,
            },
            "probe": [0.25, 0.5, 0.75],
            "attributions": [{"label": "a", "said": "b", "words": [["One", 0.5], [" it", -0.1]]}],
            "examples": [{"begin": "Return the", "continued": " number of <items>"}],
            "pairs": {"causal": {"a and an": 0.75, "order of words": 1.0}},
            "attention": {"causal": {
                "words": ["<doc>", "A"], "maps": [[[[1.0, 0.0], [0.25, 0.75]]]],
                "distance": [[0.25]], "entropy": [[0.28]], "even_distance": 0.25,
                "even_entropy": 0.35,
            }},
            "fairness": {
                "label": "a", "change": 0.01, "change_interval": [-0.02, 0.04], "across": 0.03,
                "within": 0.02, "excess": 0.01, "excess_interval": [-0.01, 0.03], "flips": 0.0,
                "sentences": 60, "names": 10, "cannot_show": "Much.",
            },
        }
    },
    "pairs": {
        "counts": {"a and an": 4, "order of words": 2},
        "examples": {"a and an": ["A cat", "An cat"], "order of words": ["of it", "it of"]},
        "rows": {"unigram": {"a and an": 0.5, "order of words": 0.5},
                 "trigram": {"a and an": 0.75, "order of words": 0.5}},
    },
    "answers": [{"question": "How long did it take here?", "answer": "11.7 minutes"}],
}  # fmt: skip
