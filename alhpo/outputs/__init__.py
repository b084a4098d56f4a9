"""What strategies look at: predictions, passes with dropout, networks trained for a query."""
