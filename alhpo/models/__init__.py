"""timm models and what must be true of them, initial weights included."""
