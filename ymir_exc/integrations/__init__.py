"""Training frameworks; each file loads its own only inside a function that needs it."""
