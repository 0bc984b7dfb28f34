"""Our own paths for apps and people: one module a noun."""
