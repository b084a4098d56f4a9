"""timm models: making them, their initial weights, and the checks of them."""
