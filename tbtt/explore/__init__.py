"""A page for the browser in which one looks at runs: what their folders hold, and the file made of it."""
