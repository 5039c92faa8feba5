"""The trained parts of AdaIN and AdaConv, and the whole model around them."""
