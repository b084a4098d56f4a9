"""What a strategy may look at: predictions of the pool, passes with dropout, networks trained for a query."""
