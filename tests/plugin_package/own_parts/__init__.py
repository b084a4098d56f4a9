"""Parts of one's own for alhpo, found by their entry points; docs/extending.md explains them."""
