import functools

import numpy as np
import torch

from minilm.config import ModelConfig
from minilm.data import Windows, draws, frame, pad
from minilm.generate import sample
from minilm.heads import Classifier, classification_nll
from minilm.model import Transformer
from minilm.objectives import OBJECTIVES, language_model_nll
from minilm.optim import make_optimizers
from minilm.tokenizer import Tokenizer
from minilm.training import Plan, train

texts, labels = ["the cat sat on the mat", "a dog barked at the moon"] * 50, np.array([0, 1] * 50)
tokenizer = Tokenizer.train(texts, vocab_size=300)
special = tokenizer.special
tokens = np.concatenate([np.append(tokenizer.encode(text), special.eos) for text in texts])

shape = ModelConfig(tokenizer.vocab_size, 32, d_model=64, n_layers=2, n_heads=4, d_ff=256)
model, plan = Transformer(shape), Plan(steps=100, warmup=0.03, cooldown=0.4, seed=0)
windows, objective = Windows(tokens, 32, seed=0), OBJECTIVES["hybrid"]  # or "causal", "masked"


def windows_of(step):
    rng = draws(0, step, "masks")
    batch = objective(windows.batch(step, 8), 0.3, rng, special)
    return [(torch.tensor(batch.inputs), torch.tensor(batch.targets), batch.causal)]


loss = functools.partial(language_model_nll, model)
for step, nats in train(model, loss, windows_of, make_optimizers(model, "muon", 0.01, 0.1), plan):
    if step % 20 == 0:
        print(f"pretraining {step}: {nats:.3f} nats a token")
print(tokenizer.decode(list(sample(model, tokenizer.encode("the cat"), 12, special))))

classifier = Classifier(model, n_classes=2)
framed = [frame(tokenizer.encode(text), 32, special) for text in texts]
inputs, is_real = map(torch.tensor, pad(framed, special.pad))


def texts_of(step):
    rows = draws(0, step, "batches").integers(len(texts), size=16)
    return [(inputs[rows], is_real[rows], torch.tensor(labels[rows]))]


def label_loss(tokens, is_real, y):
    return classification_nll(classifier(tokens, is_real), y)


plan = Plan(steps=20, warmup=0.1, cooldown=0.9, seed=0)
rule = make_optimizers(classifier, "adamw", 1e-3, 0.01)
*_, (step, nats) = train(classifier, label_loss, texts_of, rule, plan)  # the last step
right = classifier.eval()(inputs, is_real).argmax(1) == torch.tensor(labels)
print(f"fine-tuning {step}: {nats:.3f} nats a text, {right.float().mean():.0%} right")
