"""Language models on WikiText-2: tokens, models, training, and what is scored."""
