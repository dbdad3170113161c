"""How a model becomes smaller: pruned, quantized, hashed or distilled, and what that is worth."""
