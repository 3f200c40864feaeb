"""The four uses of the pretrained weights: label a text, tag its words, answer, translate."""

from minilm.tasks.answer import Answering
from minilm.tasks.classify import Classify
from minilm.tasks.tag import Tagging
from minilm.tasks.translate import Translating

TASKS = {"classify": Classify, "tag": Tagging, "answer": Answering, "translate": Translating}
