"""BERT, GPT-2 and ModernBERT as subclasses of the book's Transformer; their weights in and out."""
