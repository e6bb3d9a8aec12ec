"""A page for the browser that shows runs: reads what their folders hold, and makes one file of it."""
