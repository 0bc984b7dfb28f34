"""What upstreams answer, read: usage, the served model, visible text, and streams while they flow."""
