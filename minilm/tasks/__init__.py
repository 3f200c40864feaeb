"""The four uses of the pretrained weights: label a text, tag its words, answer, translate."""
